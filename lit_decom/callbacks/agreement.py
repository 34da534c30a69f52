"""Does the network answer on the probe as it does in validation? If not, the probe was not read as the module reads."""

import re
from collections.abc import Mapping

import torch
from scipy.stats import binom
from torch import Tensor

# A name for the share of right answers, whatever words stand around it; not that of several guesses.
_ACCURACY = re.compile(
    r"(?:^|[/_.\- ])acc(?:uracy)?(?:[/_.\-@ ]?(?:top[_\-]?)?1)?(?:[/_.\- ](?:epoch|micro))?(?:/dataloader_idx_\d+)?$"
)
_NOT_OF_VALIDATION = re.compile(r"train|macro|balanced|class")
_ODDS = 1e-6
_EDGE = 0.01


def contradiction(labels: Tensor, logits: Tensor, logged: Mapping[str, float]) -> str | None:
    """Say so where the share of right answers on the probe cannot come from the network that validation saw.

    A probe holds as many images of rare classes as of common ones, so that its accuracy may differ a lot from that of
    the whole. It contradicts it only if, too, no class of the probe lies on the other side of what was logged: a mean
    over classes lies between the least and the largest of them, however the classes are weighted.

    Args:
        labels: ``(n,)`` class indices.
        logits: ``(n, N)``.
        logged: values that the module logged in validation.

    Returns:
        A sentence if, by the binomial distribution, the odds are below one in a million for every accuracy that was
        logged; otherwise, and where none was, None. (Our choice.)
    """
    found = {name: _share(value) for name, value in logged.items() if _is_accuracy(name)}
    known = {name: value for name, value in found.items() if value is not None}
    if labels.ndim != 1 or logits.shape[1] < 2 or not known:
        return None
    right = logits.argmax(dim=1) == labels
    if not all(_contradicts(right, labels, value) for value in known.values()):
        return None
    name, value = next(iter(known.items()))
    return (
        f"the network gets {int(right.sum())} of the probe's {len(right)} images right, while `{name}` is {value:.1%}. "
        "If its steps change a batch before the forward, or the label is another entry of it, pass `unpack=` to do the "
        "same"
    )


def _is_accuracy(name: str) -> bool:
    return bool(_ACCURACY.search(name.lower())) and not _NOT_OF_VALIDATION.search(name.lower())


def _share(value: float) -> float | None:
    """An accuracy in 0..1, also of one in percent."""
    share = value / 100 if value > 1 else value
    return share if 0 <= share <= 1 else None


def _contradicts(right: Tensor, labels: Tensor, share: float) -> bool:
    n, k = len(right), int(right.sum())
    # Few images may be behind what was logged: neither right nor wrong answers are impossible.
    share = min(max(share, _EDGE), 1 - _EDGE)
    of_classes = [float(right[labels == label].float().mean()) for label in torch.unique(labels)]
    if k < n * share:
        return float(binom.cdf(k, n, share)) < _ODDS and max(of_classes) < share
    return float(binom.sf(k - 1, n, share)) < _ODDS and min(of_classes) > share
