"""Which metrics are computed by default, and what they are told."""

import torch

from lit_decom import Probe
from lit_decom.metrics import AverageDrop, PointingGame
from lit_decom.scoring import default_metrics
from lit_decom.scoring.options import needs_of, takes_of


def test_the_tolerance_of_the_default_pointing_game_belongs_to_the_size_of_the_images():
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    probe = Probe.from_tensors(torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.long), masks=masks)
    (game,) = [metric for metric in default_metrics(probe) if isinstance(metric, PointingGame)]
    assert game.scale_to_image


def test_what_a_metric_needs_has_no_default_and_what_it_takes_may_have_one():
    assert needs_of(PointingGame()) == {"maps", "masks"}
    assert needs_of(AverageDrop()) == {"logits"}
    assert takes_of(AverageDrop()) == {"logits", "masked_logits", "labels", "maps", "capture"}


def test_a_probe_without_masks_and_parts_has_no_metric_that_needs_them():
    images, labels = torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.long)
    needed = [needs_of(metric) for metric in default_metrics(Probe.from_tensors(images, labels))]
    assert needed
    assert not any(names & {"masks", "parts", "boxes"} for names in needed)
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    known = default_metrics(Probe.from_tensors(images, labels, masks=masks, parts=masks[:, None]))
    assert {"masks", "parts"} <= set().union(*map(needs_of, known))
