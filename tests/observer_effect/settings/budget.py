"""What explaining may take of the machine: memory and time."""

import torch

from tests.helpers.modules import Spots, Tiny, loader, tiny
from tests.helpers.settings import Setting


class Cramped(Tiny):
    """Has no room for more than two images at once when it is only looked at."""

    def forward(self, images):
        if not self.training and len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(images)


SETTINGS = [
    Setting(
        "memory for two images at once",
        module=lambda: tiny(Cramped, freeze_first_norm=True),
        loaders=lambda: (loader(Spots(augment=True), shuffle=True), loader(Spots(8, seed=2), batch_size=2)),
        observer={"metrics": "default"},
        warns=["There was not enough memory .* at most 2 go through the network together"],
    ),
    Setting("a snapshot after every third step", observer={"every_n_steps": 3}, snapshots=6),
    Setting(
        "a snapshot after every step of an accumulation",
        observer={"every_n_steps": 1},
        trainer={"accumulate_grad_batches": 3},
        snapshots=6,
    ),
    Setting(
        "a snapshot after every third step, without validation",
        observer={"every_n_steps": 3},
        trainer={"limit_val_batches": 0},
        snapshots=6,
    ),
    Setting("no time but for the first snapshot", observer={"max_overhead": 1e-4, "every_n_steps": 3}, snapshots=1),
]
