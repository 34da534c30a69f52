"""One result from many processes."""

from typing import TypeVar

import lightning.pytorch as pl
import torch.distributed as dist

T = TypeVar("T")


def gathered(trainer: pl.Trainer, mine: T) -> list[T]:
    """Collect one object from every process, in the order of their ranks; every process must call it."""
    if trainer.world_size == 1 or not dist.is_initialized():
        return [mine]
    everyone: list[T | None] = [None] * trainer.world_size
    dist.all_gather_object(everyone, mine)
    return everyone  # type: ignore[return-value]  # all filled now
