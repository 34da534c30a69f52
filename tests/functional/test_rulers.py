"""Every ruler on explanations that a person can put in order without one.

On critters with their own part masks. What a person would say, written before anything was measured:

1. The parts themselves, at pixels, are as good as can be; the same on a grid of 14 x 14 are next.
2. Blobs of the object, cut without a network, are on the animal, but on no part in particular; a mask of the whole
   animal tells no part from another; random cells of the grid are not even on the animal. In this order.
3. Thresholding a map at half its maximum makes it no better.
4. Parts in another order in every image are as good image by image and mean nothing as components of a set.

Average precision says all of 1 to 3. IoU cannot tell blobs from the whole mask: what it has of one is the share of the
largest part, and that is as large as one blob's share in each; and thresholding leaves it as it is by its definition.
Rulers of a set say 4. Information says 1 against 2 and nothing else, since it asks which part a component falls on and
not how well. Coverage says 2 and 3 the wrong way round, and purity 2.
"""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lit_decom.data.critters import Critters
from lit_decom.functional.chance import blob_components
from lit_decom.functional.image import upsample
from lit_decom.metrics import (
    FixedIndexPartAP,
    PartAveragePrecision,
    PartCoverage,
    PartInformation,
    PartIoU,
    PartPurity,
)

N, SIZE, GRID = 24, 112, 14
RULERS = {
    "ap": PartAveragePrecision,
    "iou": PartIoU,
    "fixed": FixedIndexPartAP,
    "bits": PartInformation,
    "coverage": PartCoverage,
    "purity": PartPurity,
}


def shown(maps: Tensor) -> Tensor:
    return upsample(maps, (SIZE, SIZE)).clamp(min=0)


def explanations(parts: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    animal = parts.any(dim=1, keepdim=True).float()
    pooled, whole = (functional.adaptive_avg_pool2d(each, GRID) for each in (parts.float(), animal))
    cells = torch.rand(N, GRID * GRID, generator=generator).argsort(dim=1)[:, :8]
    # evidence as networks give it: of each part, with some of the whole animal and some noise
    evidence = pooled / pooled.amax(dim=(2, 3), keepdim=True) + 0.4 * whole
    evidence = shown(evidence + 0.2 * torch.rand(pooled.shape, generator=generator))
    orders = torch.rand(N, 5, generator=generator).argsort(dim=1)
    return {
        "parts": parts.float(),
        "parts on the grid": shown(pooled),
        "blobs": shown(blob_components(whole[:, 0], 8, generator)),
        "whole": animal,
        "cells": shown(functional.one_hot(cells, GRID * GRID).float().view(N, 8, GRID, GRID)),
        "evidence": evidence,
        "thresholded": (evidence >= evidence.amax(dim=(2, 3), keepdim=True) / 2).float(),
        "shuffled": parts[torch.arange(N)[:, None], orders].float(),
    }


@pytest.fixture(scope="module")
def scores() -> dict[str, dict[str, float]]:
    """The value of each ruler, by ruler and explanation."""
    critters = Critters(N, SIZE, seed=5)
    parts = torch.stack([critters[i][1]["parts"] for i in range(N)]).bool()
    found: dict[str, dict[str, float]] = {}
    for name, ossms in explanations(parts).items():
        for ruler, kind in RULERS.items():
            metric = kind()
            metric.update(ossms=ossms, parts=parts)
            found.setdefault(ruler, {})[name] = metric.compute().item()
    return found


def test_average_precision_orders_explanations_as_a_person_would(scores):
    ap = scores["ap"]
    order = ["parts", "parts on the grid", "blobs", "whole", "cells"]
    for better, worse in pairwise(order):
        assert ap[better] > ap[worse] + 0.05, (better, worse)
    assert ap["parts"] == pytest.approx(1, abs=1e-6)
    assert ap["parts on the grid"] > 0.8
    assert ap["thresholded"] < ap["evidence"] - 0.1


def test_iou_orders_them_too_but_for_blobs_and_the_whole_animal(scores):
    iou = scores["iou"]
    assert iou["parts"] == pytest.approx(1, abs=1e-6)
    assert iou["parts"] > iou["parts on the grid"] + 0.05 > iou["blobs"] + 0.4
    assert min(iou["whole"], iou["blobs"]) > iou["cells"] + 0.1
    assert iou["blobs"] == pytest.approx(iou["whole"], abs=0.03)
    # Of 112 pixels every second row and column is read, so the largest value that is read is not quite the same.
    assert iou["thresholded"] == pytest.approx(iou["evidence"], abs=0.01)


def test_with_a_fixed_index_only_what_means_the_same_in_every_image_is_good(scores):
    fixed, ap = scores["fixed"], scores["ap"]
    order = ["parts", "parts on the grid", "whole", "cells"]
    for better, worse in pairwise(order):
        assert fixed[better] > fixed[worse] + 0.05, (better, worse)
    assert fixed["shuffled"] < 0.5 < ap["shuffled"] == pytest.approx(1, abs=1e-6)
    assert fixed["blobs"] < fixed["whole"] < ap["blobs"], "blobs have no identity"
    assert fixed["thresholded"] < fixed["evidence"] - 0.1


def test_bits_tell_an_index_that_means_a_part_from_all_others(scores):
    bits = scores["bits"]
    for name in ("parts", "parts on the grid", "evidence", "thresholded"):
        assert 2.1 < bits[name] <= 2.33, name  # log2 of five parts, less the floor
    for name in ("blobs", "whole", "cells", "shuffled"):
        assert abs(bits[name]) < 0.12, name


def test_coverage_rewards_sparsity_and_purity_any_mask_of_the_object(scores):
    """The figures for which neither is a default any more."""
    coverage, purity = scores["coverage"], scores["purity"]
    assert coverage["cells"] == pytest.approx(0.32, abs=0.06)
    assert coverage["cells"] > coverage["whole"] + 0.1, "not even on the animal"
    assert coverage["blobs"] == pytest.approx(0.82, abs=0.06)
    assert coverage["thresholded"] > coverage["evidence"] + 0.5
    assert purity["whole"] == pytest.approx(0.89, abs=0.02)
    assert purity["blobs"] == pytest.approx(0.95, abs=0.02)
    assert purity["whole"] > purity["evidence"], "which tells parts apart"
