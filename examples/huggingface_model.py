"""Train an image classifier of Hugging Face's transformers and see at every epoch what it looks at.

    pip install -e '.[clip]'
    python examples/huggingface_model.py [--quick]

The images are synthetic critters and a small ViT starts from random weights, so nothing is downloaded. With your own
data, `AutoModelForImageClassification.from_pretrained(...)` is the better start.
"""

import argparse

import lightning as L
import torch
from torch.utils.data import DataLoader
from transformers import ViTConfig, ViTForImageClassification

from lit_decom import DecomCAM, DecomCAMCallback
from lit_decom.data import CrittersDataModule


class Classifier(L.LightningModule):
    """Batches are dictionaries, and the model computes its own loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):  # returns an output with `logits`, which the callback finds
        return self.model(pixel_values)

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.model(**batch).loss, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=5e-4)


def collate(samples):
    images, targets = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor([int(target["label"]) for target in targets])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    L.seed_everything(0, verbose=False)
    size = 64 if quick else 112
    data = CrittersDataModule(n_train=16, n_val=8, image_size=size) if quick else CrittersDataModule()
    train = DataLoader(data.train_dataset, batch_size=32, shuffle=True, collate_fn=collate)
    val = DataLoader(data.val_dataset, batch_size=32, collate_fn=collate)
    small = {"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 6, "num_attention_heads": 3}
    config = ViTConfig(image_size=size, patch_size=8, num_labels=data.num_classes, **small)

    # It knows batches of this kind, and finds the layer itself. The report is one HTML page, written at the end.
    callback = DecomCAMCallback(DecomCAM(n_components=5), probe=8 if quick else 64, report=True)
    length = {"max_epochs": 1 if quick else 8, "log_every_n_steps": 1, "default_root_dir": "runs/huggingface_model"}
    trainer = L.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False, **length)
    trainer.fit(Classifier(ViTForImageClassification(config)), train, val)
    print(f"pictures: {callback.directory.path / 'pictures'}")
    print(f"report:   {callback.report_path}")


if __name__ == "__main__":
    main()
