"""How many images go through a network at once: as many as asked for, as long as they fit in memory."""

import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")

# Only CUDA's allocator has an error of its own; these are of the CPU's, of Apple's, of the driver and of cuBLAS.
_SAID = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that there is no memory left, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


class Room:
    """Runs work on images part by part, in smaller parts from then on where one did not fit in memory.

    One serves a whole run: what was learnt in one pass holds for all that follow.

    Attributes:
        fits: the most images that have been let through at once since one part did not fit; None before.
    """

    def __init__(self) -> None:
        self.fits: int | None = None
        self._is_said = False

    def learn_from(self, other: "Room") -> None:
        """Take over what another one has learnt, and whether it has said so."""
        self.fits, self._is_said = other.fits, other._is_said  # noqa: SLF001 -- one of its kind

    def at_most(self, size: int) -> int:
        """Give the number of images that go through at once where ``size`` are asked for."""
        return size if self.fits is None else min(size, self.fits)

    def over(self, n: int, size: int, work: Callable[[slice], T]) -> Iterator[T]:
        """Do work on consecutive parts of ``n`` images; a part that does not fit is halved and begun again.

        Args:
            n: how many images there are.
            size: how many go through at once where they fit.
            work: does a part, and leaves nothing behind where it raises.

        Yields:
            What the work gives for each part, in order.

        Raises:
            torch.OutOfMemoryError: if a single image does not fit, with what can be done.
        """
        start = 0
        while start < n:
            part = slice(start, min(start + self.at_most(size), n))
            try:
                found = work(part)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(part.stop - part.start, error)
                # Tried again only behind this block: until its end the error holds the tensors that filled the memory.
                continue
            self._say()
            start = part.stop
            yield found

    def _shrink(self, tried: int, error: RuntimeError) -> None:
        if tried == 1:
            raise torch.OutOfMemoryError(
                f"Expected a single image to fit in memory, but: {str(error).strip()} What explaining keeps beside it "
                "grows with `batch_size`, the rest with the size of the images and with what else is on the device."
            ) from error
        self.fits = self.at_most(tried // 2)

    def _say(self) -> None:
        """Warn once, when it is known what fits."""
        if self.fits is not None and not self._is_said:
            self._is_said = True
            warnings.warn(
                f"There was not enough memory for as many images at once as `batch_size` and `chunk_size` ask for: "
                f"from now on at most {self.fits} go through the network together. Results are the same.",
                stacklevel=3,
            )
