"""Decision factors in words that need no knowledge of the code."""

from collections import Counter
from collections.abc import Sequence

from lit_decom.records import FactorNames, Snapshot

_TELLING = 0.25  # of the largest code: classes below hardly use the factor
_MOST_CLASSES = 5


def facts_of(record: Snapshot) -> list[str]:
    """Say how far the factors of a snapshot go, in at most two sentences.

    Args:
        record: with factors.
    """
    k = 0 if record.factor_codes is None else record.factor_codes.shape[1]
    r2, same, layer, chance = (
        record.numbers.get(name) for name in ("completeness", "factor_agreement", "factor_layer_r2", "factor_random_r2")
    )
    if k == 0:
        return []
    facts = []
    if r2 is not None and same is not None:
        facts.append(
            f"{k} factor{' accounts' if k == 1 else 's account'} for {r2:.1%} of the differences between the network's "
            f"answers (R² of the logits, less what all classes or all images share). {same:.0%} of the answers come "
            f"out the same from {'it' if k == 1 else 'them'} alone."
        )
    if layer is not None and chance is not None:
        verdict = "" if layer > chance else ", so they are no more this layer's than chance is"
        facts.append(
            f"How much of that this layer carries: its mean activation along the factors predicts it with R² "
            f"{layer:.2f}, along as many random directions with {chance:.2f}{verdict}."
        )
    return facts


def naming_facts(names: FactorNames | None, shown: Sequence[int]) -> list[str]:
    """Say where the words for the factors come from, in a sentence; none where no factor that is shown has any.

    Args:
        names: of the run.
        shown: identities of the factors that are shown.
    """
    if names is None or names.sides.keys().isdisjoint(shown):
        return []
    told = (
        f"The words for what makes a score high or low were given at epoch {names.epoch} by an image-text model; the "
        "percentage is the share of other places in the same images that speak less for them. They are given only "
        "where nearly all do."
    )
    return [told]


def classes_of(codes: Sequence[float], names: Sequence[str]) -> str:
    """List the classes that a factor speaks for, the strongest first.

    Args:
        codes: of every class; with the opposite sign, for those that it speaks against.
        names: of every class.

    Returns:
        Five classes at most, and how many more there are; those with less than a quarter of the largest code, of
        either sign, are left out.

    Example:
        >>> classes_of([-0.5, 1.2, -1.6, 0.1], ["a", "b", "c", "d"]), classes_of([0.5, -1.2, 1.6], ["a", "b", "c"])
        ('b', 'c, a')
    """
    least = _TELLING * max(map(abs, codes), default=0.0)
    telling = sorted((-code, index) for index, code in enumerate(codes) if code > 0 and code >= least)
    more = len(telling) - _MOST_CLASSES
    shown = ", ".join(names[index] for _, index in telling[:_MOST_CLASSES])
    return f"{shown} and {more} more" if more > 0 else shown


def shown_codes(codes: Sequence[float], names: Sequence[str]) -> list[tuple[str, float, float]]:
    """Choose the classes whose codes are drawn: all, or the five at either end.

    Args:
        codes: of every class.
        names: of every class.

    Returns:
        Name, code, and the code relative to the largest one, from the highest code to the lowest.
    """
    largest = max(map(abs, codes), default=0.0) or 1.0
    order = sorted(range(len(codes)), key=lambda index: -codes[index])
    if len(order) > 2 * _MOST_CLASSES:
        order = order[:_MOST_CLASSES] + order[-_MOST_CLASSES:]
    return [(names[index], round(codes[index], 2), round(codes[index] / largest, 3)) for index in order]


def wrong_sentence(n_wrong: int, n: int, blamed: Sequence[str] | None, last_epoch: int | None) -> str:
    """Say how many answers are wrong, and which factors misled.

    Args:
        n_wrong: images.
        n: images in all.
        blamed: the factor of each wrong image that speaks least for the right class; None where factors mean nothing.
        last_epoch: of the last snapshot before that had wrong answers; None without one.
    """
    if n_wrong == 0:
        last = "" if last_epoch is None else f" The last wrong ones were at epoch {last_epoch}: move the slider there."
        return f"All {n} images are answered right.{last}"
    counted = ", ".join(f"{name} in {times}" for name, times in Counter(blamed or ()).most_common())
    told = f" Least for the right class speaks {counted}." if counted else ""
    told = told if blamed is not None else " Single factors mean nothing here, so none can be held responsible."
    return f"{n_wrong} of {n} images are answered wrong.{told}"
