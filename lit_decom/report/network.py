"""How well the network itself does, beside what its components do: accuracy and loss over the epochs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_decom.functional.intervals import mean_intervals
from lit_decom.functional.shares import share_intervals
from lit_decom.records import Snapshot
from lit_decom.report.cards import style_of
from lit_decom.report.charts import SMALL, Line, finite
from lit_decom.report.overview import Panel, panel
from lit_decom.report.runs import Run
from lit_decom.report.timeline import Timeline

_OF_PROBE = "the probe's images"
_OF_LABELS = "the probe's labels, which are there"


def accuracy_and_loss(runs: Sequence[Run], timeline: Timeline) -> list[Panel]:
    """Draw accuracy and loss on the probe, with intervals, and what the module itself logged of either.

    Args:
        runs: of the report.
        timeline: of the report.

    Returns:
        A panel each; a value that the module logged belongs to the one whose name is part of its key.
    """
    accuracies = [[_right(record) for record in run.records] for run in runs]
    losses = [[_losses(record) for record in run.records] for run in runs]
    return [
        made
        for title, word, values, intervals in (
            ("accuracy ↑", "acc", accuracies, share_intervals),
            ("cross-entropy ↓", "loss", losses, mean_intervals),
        )
        if (
            made := panel(
                title,
                title.split()[0],
                [
                    [_probe_line(run, each, intervals(torch.stack(each, dim=1))), *_logged_lines(run, word)]
                    for run, each in zip(runs, values, strict=True)
                ],
                timeline,
                size=SMALL,
            )
        )
    ]


def share_right(record: Snapshot) -> tuple[int, tuple[float, float] | None]:
    """Count the images that the network gets right, and give the interval of their share; None for too few images."""
    right = _right(record)
    low, high = share_intervals(right[:, None])[0].tolist()
    return int(right.sum()), None if finite(low) is None else (low, high)


def _right(record: Snapshot) -> Tensor:
    """Whether the network is right, image by image: 0 or 1, ``(n,)``."""
    return (record.logits.argmax(dim=1) == record.labels).float()


def _losses(record: Snapshot) -> Tensor:
    """Cross-entropy of every image, ``(n,)``; NaN where the network's answer is not finite."""
    return F.cross_entropy(record.logits.float(), record.labels, reduction="none")


def _probe_line(run: Run, values: Sequence[Tensor], ends: Tensor) -> Line:
    low, high = (tuple(map(finite, side)) for side in ends.T.tolist())
    means = tuple(finite(each.nanmean().item()) for each in values)
    # What the module logs is of labels that are not there as well.
    several = run.probe is not None and run.probe.multilabel
    return Line(_OF_LABELS if several else _OF_PROBE, means, "ink", "probe", low, high)


def _logged_lines(run: Run, word: str) -> list[Line]:
    """What the module logged under a key with this word, one line each."""
    names = dict.fromkeys(name for record in run.records for name in record.module_values if word in name.lower())
    return [
        Line(name, tuple(finite(record.module_values.get(name)) for record in run.records), style_of(index), name)
        for index, name in enumerate(names)
    ]
