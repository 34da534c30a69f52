"""Fine-tune a CLIP model of open_clip and see at every epoch what it looks at when it is asked for a class by its name.

    pip install -e '.[clip]'
    python examples/open_clip_model.py [--quick] [--pretrained openai] [--trains head]

The images are synthetic critters. With `--pretrained openai` the weights are downloaded once (a file works as well);
without it, or with `--quick`, the model starts from random weights, so nothing is downloaded.
"""

import argparse

import lightning as L
import open_clip
import torch

from lit_decom import DecomCAM, DecomCAMCallback, ZeroShotClassifier
from lit_decom.data import CrittersDataModule
from lit_decom.tasks import ClassificationTask


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="RN50", help="a name from open_clip.list_models()")
    parser.add_argument("--pretrained", help="a tag from open_clip.list_pretrained_tags_by_model(), or a file")
    parser.add_argument("--trains", default="all", choices=["all", "head"], help="head: a linear probe")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    L.seed_everything(0, verbose=False)
    sizes = {"n_train": 16, "n_val": 8, "image_size": 64} if options.quick else {"image_size": 224}
    colours = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    data = CrittersDataModule(**sizes, **colours)

    model, tokenizer = options.model, None
    if options.quick:  # the same architecture with fewer layers and channels
        vision = {"layers": (1, 1, 1, 1), "width": 16, "image_size": 64}
        model = open_clip.CLIP(64, vision, {"layers": 2, "width": 64, "heads": 2})
        tokenizer = open_clip.get_tokenizer("RN50")
    classifier = ZeroShotClassifier.from_open_clip(
        model,
        data.class_names,
        ["a photo of a {}.", "a drawing of a {}."],
        pretrained=options.pretrained,
        tokenizer=tokenizer,
    )
    task = ClassificationTask(
        classifier,
        data.num_classes,
        trains=options.trains,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3 if options.trains == "head" else 1e-5),
    )
    # Pictures at every epoch, and one HTML page at the end.
    callback = DecomCAMCallback(DecomCAM(n_components=5), probe=8 if options.quick else 64, report=True)
    trainer = L.Trainer(
        max_epochs=1 if options.quick else 5,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=not options.quick,
    )
    trainer.fit(task, data)
    print(f"pictures: {callback.directory.path / 'pictures'}")
    print(f"report:   {callback.report_path}")


if __name__ == "__main__":
    main()
