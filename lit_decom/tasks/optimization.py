"""Optimizers and schedules of learning rates, as Lightning wants them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.cli import ReduceLROnPlateau as MonitoredPlateau
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


def optimization(
    parameters: Iterable[nn.Parameter],
    optimizer: OptimizerCallable,
    scheduler: LRSchedulerCallable | None,
    interval: Literal["epoch", "step"],
) -> OptimizerLRScheduler:
    """What a module's ``configure_optimizers`` returns.

    Args:
        parameters: What is trained.
        optimizer: Makes the optimizer from the parameters.
        scheduler: Makes the learning rate schedule from the optimizer; None for a constant rate.
        interval: Whether the schedule advances once an epoch or once an optimizer step.

    Returns:
        The optimizer, and the schedule if there is one.
    """
    made = optimizer(parameters)
    if scheduler is None:
        return made
    schedule = scheduler(made)
    config: dict[str, Any] = {"scheduler": schedule, "interval": interval}
    if isinstance(schedule, MonitoredPlateau):
        config["monitor"] = schedule.monitor
    return cast("OptimizerLRScheduler", {"optimizer": made, "lr_scheduler": config})


class WarmupCosineLR(LambdaLR):
    """A learning rate that rises linearly at first and then falls along half a cosine.

    After `total_steps` it is 0.

    Args:
        optimizer: Optimizer with the highest rate.
        total_steps: Number of steps of the whole schedule: epochs, where it advances once an epoch.
        warmup: Share of the steps, 0..1, on which the rate rises.
        last_epoch: Step to start after; -1 for a new schedule.

    Raises:
        ValueError: If there are no steps or `warmup` is not a share.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, total_steps: int, warmup: float = 0.25, last_epoch: int = -1
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"Expected `total_steps` to be at least 1, but got {total_steps}.")
        if not 0 <= warmup < 1:
            raise ValueError(f"Expected `warmup` to be at least 0 and less than 1, but got {warmup}.")
        rising = int(warmup * total_steps)

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / (rising + 1)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / (total_steps - rising))))

        super().__init__(optimizer, factor, last_epoch)
