"""What submodules return beside tensors: tuples, lists, and the mappings of Hugging Face."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class PlacedTensor:
    """A tensor within what a submodule returned.

    Attributes:
        tensor: the tensor.
        output: what was returned.
        place: index or key of the tensor in it; None where the output is the tensor itself.
    """

    tensor: Tensor
    output: Any
    place: Any = None

    def replaced(self, tensor: Tensor) -> Any:
        """Give the same output with another tensor in this place; the output itself is left as it is."""
        if self.place is None:
            return tensor
        if isinstance(self.output, Mapping):
            changed: Any = copy(self.output)
            changed[self.place] = tensor
            return changed
        entries = list(self.output)
        entries[self.place] = tensor
        named = hasattr(self.output, "_fields")
        return type(self.output)(*entries) if named else type(self.output)(entries)


def first_tensor(output: Any) -> PlacedTensor | None:
    """Find the first tensor of what a submodule returned: itself, or an entry of a tuple, a list or a mapping.

    Args:
        output: a tensor, or tensors among other things, such as the attention weights that blocks of transformers add.

    Returns:
        The tensor in its place; None if there is none.
    """
    if isinstance(output, Tensor):
        return PlacedTensor(output, output)
    if isinstance(output, Mapping):
        entries = list(output.items())
    else:
        entries = list(enumerate(output)) if isinstance(output, tuple | list) else []
    return next((PlacedTensor(entry, output, place) for place, entry in entries if isinstance(entry, Tensor)), None)
