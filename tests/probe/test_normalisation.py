"""What datamodules and datasets call mean and std, and the pictures that come of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lit_decom.probe import normalisation_of
from lit_decom.render.heat import to_unit

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
PICTURES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def normalised(pictures, mean, std):
    return (pictures - torch.as_tensor(mean)[..., None, None]) / torch.as_tensor(std)[..., None, None]


@pytest.mark.parametrize(
    "shape",
    [list, tuple, np.asarray, torch.Tensor.double, lambda t: t.reshape(3, 1, 1), lambda t: t.reshape(1, 3, 1, 1)],
)
def test_every_shape_of_one_number_per_channel_draws_the_pictures(shape):
    images = normalised(PICTURES, MEAN, STD)
    mean, std = normalisation_of(SimpleNamespace(mean=shape(MEAN), std=shape(STD)), images)
    assert mean.shape == std.shape == (3,)
    torch.testing.assert_close(to_unit(images, mean, std), PICTURES, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), (torch.tensor(0.5), [0.25]), ([0.5], MEAN * 0 + 0.25)])
def test_one_number_is_that_of_every_channel(mean, std):
    found = normalisation_of(SimpleNamespace(mean=mean, std=std), normalised(PICTURES, 0.5, 0.25))
    assert [tensor.tolist() for tensor in found] == [[0.5] * 3, [0.25] * 3]


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        pytest.param(MEAN * 255, STD * 255, id="per channel"),
        pytest.param(torch.tensor(0), torch.tensor(255), id="torchgeo's default"),
        pytest.param(0, 1, id="not normalised at all"),
    ],
)
def test_raw_units_of_0_to_255_draw_the_pictures(mean, std):
    images = normalised(PICTURES * 255, mean, std)
    found = normalisation_of(SimpleNamespace(mean=mean, std=std), images)
    torch.testing.assert_close(to_unit(images, *found), PICTURES, atol=1e-5, rtol=0)


def test_units_that_no_picture_has_are_stretched_with_one_warning():
    mean, std = torch.tensor([1354.0, 1118.0, 1042.0]), torch.tensor([245.0, 333.0, 395.0])
    images = normalised(PICTURES * 4000, mean, std)
    with pytest.warns(UserWarning, match="100% of the pixels' values|9.% of the pixels' values") as said:
        found = normalisation_of(SimpleNamespace(mean=mean, std=std), images)
    assert found is None
    assert len(said) == 1
    drawn = to_unit(images)
    assert 0.3 < drawn.mean() < 0.7
    assert drawn.std() > 0.2


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.5] * 4, [0.5] * 4),
        (0.5, 0.0),
        (0.5, [0.5, -1, 0.5]),
        (float("nan"), 1.0),
        ("ImageNet", "ImageNet"),
        ({"r": 1}, {"r": 1}),
    ],
)
def test_what_is_no_normalisation_is_ignored_with_one_warning(mean, std):
    with pytest.warns(UserWarning, match="`mean` and `std` of SimpleNamespace are ignored") as said:
        assert normalisation_of(SimpleNamespace(mean=mean, std=std), PICTURES) is None
    assert len(said) == 1


@pytest.mark.parametrize(
    "owner",
    [
        SimpleNamespace(),
        SimpleNamespace(mean=[0.5]),
        SimpleNamespace(std=[0.5]),
        SimpleNamespace(mean=lambda: 0.5, std=lambda: 0.5),
        SimpleNamespace(mean=lambda: 0.5, std=[0.5]),
        SimpleNamespace(mean=None, std=None),
        np.zeros(3),
        None,
    ],
)
def test_methods_and_halves_mean_nothing(owner):
    assert normalisation_of(owner, PICTURES) is None


def test_noise_beyond_the_range_leaves_the_normalisation_as_it_is():
    noisy = PICTURES + 0.2 * torch.randn(PICTURES.shape, generator=torch.Generator().manual_seed(1))
    mean, std = normalisation_of(SimpleNamespace(mean=MEAN, std=STD), normalised(noisy, MEAN, STD))
    assert torch.equal(mean, MEAN)
    assert torch.equal(std, STD)
