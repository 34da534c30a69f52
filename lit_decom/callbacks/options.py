"""What the callback is told beside what is explained: what goes to trackers, and how the work is done."""

from dataclasses import dataclass

from lit_decom.evidence import ReadLogits
from lit_decom.probe import Unpack


@dataclass(frozen=True)
class Log:
    """What goes to the trackers beside the values.

    Attributes:
        n_images: how many of the probe's images are drawn; 0 for no picture.

    Raises:
        ValueError: if ``n_images`` is negative.
    """

    n_images: int = 8

    def __post_init__(self) -> None:
        if self.n_images < 0:
            raise ValueError(f"Expected `n_images` to be at least 0, but got {self.n_images}.")


@dataclass(frozen=True)
class Execution:
    """How the work is done, and how the user's data and network are read.

    Attributes:
        batch_size: probe images explained at once; with the layer's size it sets the memory needed.
        chunk_size: altered images per forward pass; by default what suits the device.
        seed: of the choice of the probe.
        unpack: from a batch of one to image and label, where samples are neither tuples nor mappings with ``image`` and
            ``label``.
        read_logits: reads the logits from what the module returns, where it is neither a tensor nor holds ``logits``.

    Raises:
        ValueError: if a number is out of range.
    """

    batch_size: int = 16
    chunk_size: int | None = None
    seed: int = 0
    unpack: Unpack | None = None
    read_logits: ReadLogits | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "chunk_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {value}.")
