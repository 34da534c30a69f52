"""Train a network of timm and see at every epoch what it looks at.

    pip install -e '.[timm]'
    python examples/timm_model.py [--quick] [--model vit_tiny_patch16_224]

The images are synthetic critters and the network starts from random weights, so nothing is downloaded. With your own
data, `timm.create_model(..., pretrained=True)` is the better start.
"""

import argparse

import lightning as L
import timm

from lit_decom import DecomCAM, DecomCAMCallback
from lit_decom.data import CrittersDataModule
from lit_decom.tasks import ClassificationTask


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet10t", help="a name from timm.list_models()")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    L.seed_everything(0, verbose=False)
    size = 64 if options.quick else 112
    data = CrittersDataModule(n_train=16, n_val=8, image_size=size) if options.quick else CrittersDataModule()

    # Most transformers have positions for one image size, which has to be told; convolutional networks take any.
    sized = {"img_size": size} if timm.get_pretrained_cfg(options.model).fixed_input_size else {}
    network = timm.create_model(options.model, num_classes=data.num_classes, **sized)

    # The callback needs no setting. Here it explains fewer components than by default, writes one HTML page at the end,
    # and finds the layer itself: the deepest one that still tells where. Its name is printed, and kept in checkpoints.
    callback = DecomCAMCallback(DecomCAM(n_components=5), probe=8 if options.quick else 64, report=True)

    # With a logger, what the callback finds goes there, too.
    length = {"max_epochs": 1 if options.quick else 8, "log_every_n_steps": 1, "default_root_dir": "runs/timm_model"}
    trainer = L.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False, **length)
    trainer.fit(ClassificationTask(network, num_classes=data.num_classes), datamodule=data)
    print(f"pictures: {callback.directory.path / 'pictures'}")
    print(f"report:   {callback.report_path}")


if __name__ == "__main__":
    main()
