"""What the callback is told beside what is explained: what goes to trackers, and how the work is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lit_decom import keys as names
from lit_decom.evidence import Isolation
from lit_decom.probe import Unpack

_NAMED_KEYS = ("essential", "all")


@dataclass(frozen=True)
class Log:
    """What goes to the trackers.

    Every value is in ``trainer.callback_metrics``, where checkpoints and schedulers find it, and in the records,
    whatever stands here.

    Attributes:
        keys: the values that are sent: ``"essential"``, about twenty that a person would look at
            (``lit_decom.keys.ESSENTIAL``) and those of the metrics that were asked for by name; ``"all"``; or patterns
            of :mod:`fnmatch` such as ``"gini/*"``. What a checkpoint, a scheduler or an early stopping monitors is sent
            in any case.
        n_images: how many of the probe's images are drawn; 0 for no picture.
        one_scale: whether a second picture is drawn, with one colour scale per image over the epochs.
        outline: whether the objects' masks are outlined on every tile of the pictures, where the probe has any.
        artifacts: whether W&B keeps probe and records: True at the end of the training, ``"all"`` a version at every
            snapshot, with the checkpoints that they explain in the metadata.
        tracker_seconds: how long a tracker may hold the training up at a call; it is left alone afterwards.

    Raises:
        ValueError: if a number is out of range or ``keys`` is one word of another kind.
    """

    keys: Literal["essential", "all"] | Sequence[str] = "essential"
    n_images: int = 8
    one_scale: bool = False
    outline: bool = False
    artifacts: bool | Literal["all"] = False
    tracker_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.n_images < 0:
            raise ValueError(f"Expected `n_images` to be at least 0, but got {self.n_images}.")
        if not self.tracker_seconds > 0:
            raise ValueError(f"Expected `tracker_seconds` to be above 0, but got {self.tracker_seconds}.")
        if isinstance(self.keys, str) and self.keys not in _NAMED_KEYS:
            raise ValueError(f"Expected `keys` to be 'essential', 'all' or a list of patterns, but got {self.keys!r}.")

    def patterns(self, chosen: Sequence[str] = ()) -> tuple[str, ...]:
        """Give the patterns of the keys that are sent.

        Args:
            chosen: names of metrics that were asked for by name.
        """
        if self.keys == "all":
            return ("*",)
        return names.essential(chosen) if isinstance(self.keys, str) else tuple(self.keys)

    @property
    def most(self) -> dict[str, int]:
        """Of which patterns only the largest values are sent, and how many at once."""
        return dict(names.MOST_AT_ONCE) if self.keys == "essential" else {}


@dataclass(frozen=True)
class Execution:
    """How the work is done, what it may cost, and how the user's data are read.

    Attributes:
        batch_size: probe images explained at once; with the layer's size it sets the memory needed.
        chunk_size: altered images per forward pass; by default what suits the device.
        seed: of the choice of the probe.
        unpack: from a batch, as loader and batch-transfer hooks give it, to images ``(B, C, H, W)`` and labels, where
            they are not found by themselves (:func:`lit_decom.probe.images_and_target`) or the module's steps make
            something else of them before they ask the network.
        isolate: what is explained: the network itself (``"in_place"``), whose attributes, buffers, metrics and random
            generators are put back, or at each snapshot a copy of it (``"copy"``), which takes time and memory. The
            first refuses, before the first step, a network whose forward pass changes what cannot be put back.
        every_n_steps: takes a snapshot after every n-th step of the training, too, within epochs and beside those at
            validations: of the weights that training goes on with, under the step that trackers have for that batch.
        max_overhead: what all snapshots together may take, as a fraction of the time that training takes without them.
            Those that there is no room for are left out, whole; the first one is always taken. 0.02 slows a training
            down by two percent.
        max_seconds: what all snapshots of the run may take.

    Raises:
        ValueError: if a number is out of range or ``isolate`` is unknown.
    """

    batch_size: int = 32
    chunk_size: int | None = None
    seed: int = 0
    unpack: Unpack | None = None
    isolate: Isolation = "in_place"
    every_n_steps: int | None = None
    max_overhead: float | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "chunk_size", "every_n_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {value}.")
        if self.isolate not in get_args(Isolation):
            raise ValueError(f"Expected `isolate` to be 'in_place' or 'copy', but got {self.isolate!r}.")
        for name in ("max_overhead", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Expected `{name}` to be above 0, but got {value}.")
