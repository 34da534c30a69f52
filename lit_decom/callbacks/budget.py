"""When snapshots are taken during a training, and what they have cost it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info

from lit_decom.callbacks.options import Execution
from lit_decom.callbacks.trainer_access import ends_after_batch, this_process

_MEBIBYTE = 2**20


class Schedule:
    """Says when a snapshot is due, and leaves out those that the budget has no room for.

    A snapshot is within the budget if all so far and another one like the last take no more than it allows; what the
    first one takes nobody knows, so it is always taken. Images of a snapshot are never left out.

    Args:
        every_n_epochs: a snapshot at the validations of every n-th epoch.
        run: its ``every_n_steps``, ``max_overhead`` and ``max_seconds``.

    Attributes:
        spent: seconds that snapshots took in this run, the sessions before a resumed one included.
        left_out: how many were, in this session.
        added_memory: MiB by which what was measured last raised the peak of this process; None where nobody knows.
    """

    def __init__(self, every_n_epochs: int, run: Execution) -> None:
        self.every_n_epochs, self.run = every_n_epochs, run
        self.spent, self.left_out = 0.0, 0
        self.added_memory: float | None = None
        self._elapsed = 0.0
        self._since: float | None = None
        # What the last snapshot took, where the last decision was to take one: all that was spent since then.
        self._affords, self._spent_before, self._expected = True, 0.0, 0.0
        self._steps = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What a record of the run must say about it."""
        given = {name: getattr(self.run, name) for name in ("every_n_steps", "max_overhead", "max_seconds")}
        return {"every_n_epochs": self.every_n_epochs} | {name: value for name, value in given.items() if value}

    @property
    def is_regular(self) -> bool:
        """Whether every epoch has its snapshot."""
        return self.every_n_epochs == 1 and not self._is_limited

    @property
    def _is_limited(self) -> bool:
        return self.run.max_overhead is not None or self.run.max_seconds is not None

    def begin(self, trainer: pl.Trainer) -> None:
        """Start the clock: the first batch is about to be read."""
        self._elapsed, self._since, self._steps = self._seconds, monotonic(), trainer.global_step

    def end(self) -> None:
        """Stop the clock, and say what was left out."""
        self._elapsed, self._since = self._seconds, None
        if self.left_out:
            rank_zero_info(
                f"DecomCAM left out {self.left_out} snapshots, to keep within its budget ({self._budget}): those taken "
                f"cost {self.spent:.1f} s beside {self._trained:.1f} s of training."
            )

    def decide(self, trainer: pl.Trainer) -> None:
        """Decide whether the snapshot of a validation, or of an epoch, that ends soon is taken, if one is due."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._is_epochs_turn(trainer):
            self._affords = self._has_room(trainer)

    def is_due(self, trainer: pl.Trainer) -> bool:
        """Tell whether this validation, or this epoch, ends with a snapshot."""
        return self._is_epochs_turn(trainer) and self._affords

    def is_due_after_batch(self, trainer: pl.Trainer, *, able: bool) -> bool:
        """Tell whether a snapshot is taken after this training batch; to be asked after each, in every process.

        One that ends in a validation, or an epoch, with a snapshot of its own has no second one.

        Args:
            trainer: that trains.
            able: whether one could be taken now.
        """
        before, self._steps = self._steps, trainer.global_step
        n = self.run.every_n_steps
        # Steps are crossed, and not hit: of several optimizers each one counts.
        if n is None or not able or before // n == self._steps // n:
            return False
        # Asked of the first process, too: Lightning may go by the clock.
        if self._is_epochs_turn(trainer) and this_process(trainer).gather(ends_after_batch(trainer))[0]:
            return False
        self._affords = self._has_room(trainer)
        return self._affords

    @contextmanager
    def spending(self, trainer: pl.Trainer, device: torch.device) -> Iterator[None]:
        """Measure what a block takes of memory and, in ``fit``, of time."""
        begun, before = monotonic(), peak_memory(device)
        try:
            yield
        finally:
            self.spent += monotonic() - begun if trainer.state.fn == "fit" else 0.0
            after = peak_memory(device)
            self.added_memory = None if before is None or after is None else max(after - before, 0) / _MEBIBYTE

    def state_dict(self) -> dict[str, float]:
        """Give what a resumed run needs."""
        return {"spent": self.spent, "elapsed": self._seconds, "expected": self._cost_of_last}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.spent, self._elapsed, self._since = state["spent"], state["elapsed"], None
        self._affords, self._spent_before = True, self.spent - state["expected"]

    @property
    def _seconds(self) -> float:
        """Of this run so far."""
        return self._elapsed + (0.0 if self._since is None else monotonic() - self._since)

    @property
    def _trained(self) -> float:
        """Seconds of this run that were no snapshot's."""
        return self._seconds - self.spent

    @property
    def _cost_of_last(self) -> float:
        """What the last snapshot took, the counting of answers before it included."""
        return self.spent - self._spent_before if self._affords else self._expected

    @property
    def _budget(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items() if name.startswith("max_"))

    def _is_epochs_turn(self, trainer: pl.Trainer) -> bool:
        return (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def _has_room(self, trainer: pl.Trainer) -> bool:
        """Whether another snapshot is within the budget, as the first process sees it."""
        self._expected, overhead = self._cost_of_last, self.run.max_overhead
        limits = [self.run.max_seconds, None if overhead is None else overhead * self._trained]
        mine = all(limit is None or self.spent + self._expected <= limit for limit in limits)
        # Clocks differ: what one process takes part in, and another does not, would never end.
        has_room = this_process(trainer).gather(mine)[0] if self._is_limited else True
        if has_room:
            self._spent_before = self.spent
        else:
            self._leave_out()
        return has_room

    def _leave_out(self) -> None:
        if self.left_out == 0:
            rank_zero_info(
                f"DecomCAM leaves out a snapshot, to keep within its budget ({self._budget}): those so far took "
                f"{self.spent:.1f} s beside {self._trained:.1f} s of training, and another one would take some "
                f"{self._expected:.1f} s. The next one that there is room for is taken, whole."
            )
        self.left_out += 1


def peak_memory(device: torch.device) -> int | None:
    """Read the most memory that this process has had at once, in bytes; whoever else watches it is not disturbed.

    On CUDA that is of the allocator, as far as the user has not reset it; on a CPU under Linux the resident memory of
    the whole process. None elsewhere.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu":
        return None
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return None if found is None else int(found[1]) * 1024
    return None
