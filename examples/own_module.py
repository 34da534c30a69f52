"""Explain a LightningModule of your own, whose forward takes a whole batch: `forward=` says how it is asked.

    pip install -e .
    python examples/own_module.py [--quick]

The images are scanned digits that come with scikit-learn.
"""

import argparse

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lit_decom import DecomCAM, DecomCAMCallback, Execution


class OwnModule(L.LightningModule):
    """Its forward takes a dictionary and returns the loss, which is nothing to explain; its network can be asked."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        )

    def forward(self, batch):
        return F.cross_entropy(self.net(batch["scan"]), batch["digit"])

    def training_step(self, batch, batch_idx):
        return self(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self(batch), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    L.seed_everything(0, verbose=False)
    digits = load_digits()
    scans = F.interpolate(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, size=(32, 32))
    samples = [{"scan": scan, "digit": int(digit)} for scan, digit in zip(scans, digits.target, strict=True)]
    train, val = (samples[:64], samples[64:96]) if quick else (samples[:1400], samples[1400:])
    callback = DecomCAMCallback(
        DecomCAM(n_components=5),
        probe=8 if quick else 40,
        forward="net",  # a submodule that takes images and returns logits, or a function (module, images) -> logits
        run=Execution(unpack=lambda batch: (batch["scan"], batch["digit"])),  # image and label of a batch
        report=True,  # one HTML page, written at the end
    )
    length = {"max_epochs": 1 if quick else 10, "log_every_n_steps": 1, "default_root_dir": "runs/own_module"}
    trainer = L.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False, **length)
    trainer.fit(OwnModule(), DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=32))
    print(f"pictures: {callback.directory.path / 'pictures'}")
    print(f"report:   {callback.report_path}")


if __name__ == "__main__":
    main()
