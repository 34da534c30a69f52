import hashlib

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lit_decom.data import CritterPairs, Critters


def test_two_kinds_stand_side_by_side():
    data = CritterPairs(24, 64)
    assert (data.pairs[:, 0] != data.pairs[:, 1]).all()
    assert len({tuple(pair) for pair in data.pairs.tolist()}) > 15
    for index in range(24):
        image, target = data[index]
        assert image.shape == (3, 64, 64)
        assert target["label"] == target["labels"][0] == data.targets[index]
        left, right = target["masks"]
        assert not (left & right).any()
        columns = torch.arange(64.0)
        assert (columns * left.sum(dim=0) / left.sum()).sum() < 32 < (columns * right.sum(dim=0) / right.sum()).sum()
        assert left[:, 33:].float().sum() < 0.05 * left.sum(), "but for the tip of an ear"
        for mask, box in zip(target["masks"], target["boxes"].tolist(), strict=True):
            rows = mask.any(dim=1).nonzero().flatten().tolist()
            assert (box[1], box[3]) == (rows[0], rows[-1] + 1)


def test_they_are_as_large_as_single_ones_of_half_the_size():
    pairs = torch.stack([CritterPairs(24, 128)[i][1]["masks"].sum(dim=(1, 2)) for i in range(24)]).float().mean()
    single = Critters(24, 64)
    alone = torch.stack([single[i][1]["masks"].sum() for i in range(24)]).float().mean()
    assert float(pairs / alone) == pytest.approx(1, abs=0.1)


def test_an_image_depends_on_seed_stream_and_index_alone():
    def digest(data, index):
        image, target = data[index]
        return hashlib.sha256(image.numpy().tobytes() + target["masks"].numpy().tobytes()).hexdigest()

    data = CritterPairs(4, 64)
    found = {digest(data, index) for index in range(4)}
    assert digest(CritterPairs(2, 64), 1) == digest(data, 1)
    assert digest(data, 1) == digest(data, -3)
    others = {digest(CritterPairs(4, 64, seed=1), 1), digest(CritterPairs(4, 64, stream="other"), 1)}
    assert len(found | others) == 6


def test_a_transform_moves_masks_and_boxes_along():
    plain, flipped = CritterPairs(2, 64)[1][1], CritterPairs(2, 64, transform=v2.RandomHorizontalFlip(p=1))[1][1]
    assert torch.equal(flipped["masks"], plain["masks"].flip(-1))
    assert isinstance(flipped["boxes"], tv_tensors.BoundingBoxes)
    assert flipped["boxes"][:, 0].tolist() == (64 - plain["boxes"][:, 2]).tolist()


@pytest.mark.parametrize(("arguments", "told"), [((0,), "`n` to be at least 1"), ((1, 63), "at least 64 pixels")])
def test_impossible_sizes_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        CritterPairs(*arguments)
