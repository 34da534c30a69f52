"""Concentration of maps and decompositions, over the images of a set.

Formulas, and what makes an image undefined, are those of :mod:`lit_decom.functional.complexity`. The literature prefers
sparse maps, hence the directions of :class:`Gini` and :class:`Entropy`; a decomposition has no better rank.
"""

from typing import Any

from torch import Tensor

from lit_decom.functional.complexity import effective_rank, entropy, gini, top_component_share
from lit_decom.metrics.base import PerImageMetric


class Gini(PerImageMetric):
    """The mean Gini index of the maps: 0 when uniform, almost 1 when one pixel has all.

    Example:
        >>> import torch
        >>> metric = Gini()
        >>> metric.update(torch.tensor([[[0.0, 0.0, 0.0, 2.0]]]))
        >>> metric.compute()
        tensor(0.7500)
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_rows()

    def update(self, maps: Tensor) -> None:
        """Add images: ``maps`` (B, H, W)."""
        self.append(gini(maps))


class Entropy(PerImageMetric):
    """The mean entropy of the maps as a fraction of a uniform map's: 1 when uniform, 0 when one pixel has all.

    Example:
        >>> import torch
        >>> metric = Entropy()
        >>> metric.update(torch.tensor([[[0.0, 0.0, 3.0, 3.0]]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_rows()

    def update(self, maps: Tensor) -> None:
        """Add images: ``maps`` (B, H, W)."""
        self.append(entropy(maps))


class EffectiveRank(PerImageMetric):
    """The mean number of components that carry the energy, from 1 to K.

    Example:
        >>> import torch
        >>> metric = EffectiveRank()
        >>> metric.update(singular_values=torch.tensor([[2.0, 2.0, 0.0]]))
        >>> metric.compute()
        tensor(2.)
    """

    plot_lower_bound = 1.0
    plot_upper_bound = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_rows()

    def update(self, singular_values: Tensor, valid: Tensor | None = None) -> None:
        """Add images: ``singular_values`` (B, K), ``valid`` (B, K) bool."""
        self.append(effective_rank(singular_values, valid))


class TopComponentShare(PerImageMetric):
    """The mean share of the largest component's contribution in the sum of all.

    Example:
        >>> import torch
        >>> metric = TopComponentShare()
        >>> metric.update(contributions=torch.tensor([[3.0, 1.0, 0.0]]))
        >>> metric.compute()
        tensor(0.7500)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_rows()

    def update(self, contributions: Tensor, valid: Tensor | None = None) -> None:
        """Add images: ``contributions`` (B, K), ``valid`` (B, K) bool."""
        self.append(top_component_share(contributions, valid))
