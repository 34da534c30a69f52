"""How Lightning trains."""

from tests.helpers.settings import Setting

SETTINGS = [
    Setting("plain"),
    Setting("accumulation with clipping", trainer={"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}),
    Setting("a snapshot after every batch", trainer={"val_check_interval": 1, "max_epochs": 2}, snapshots=8),
]
