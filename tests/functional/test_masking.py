import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from lit_decom.functional.masking import substrate_images

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])


def normalised(images):
    return (images - MEAN[:, None, None]) / STD[:, None, None]


def test_zeros_are_the_mean_colour_in_input_space_and_black_in_unit_space():
    images = normalised(torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(substrate_images(images), torch.zeros(2, 3, 4, 5))
    black = substrate_images(images, mask_space="unit", mean=MEAN, std=STD)
    torch.testing.assert_close(black, normalised(torch.zeros(2, 3, 4, 5)))


def test_blur_is_the_one_of_the_evaluation_code_of_rise():
    images = torch.randn(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    impulse = torch.zeros(11, 11, dtype=torch.float64)
    impulse[5, 5] = 1
    kernel = torch.from_numpy(gaussian_filter(impulse.numpy(), 5)).float()
    expected = F.conv2d(images.flatten(0, 1)[:, None], kernel[None, None], padding=5).view(images.shape)
    # weights that sum to 1, in float32, of values of order one
    torch.testing.assert_close(substrate_images(images, "blur"), expected, rtol=0, atol=1e-6)


def test_blur_sees_the_zero_of_the_masked_space_beyond_the_border():
    images = normalised(torch.full((1, 3, 40, 40), 0.8))
    grey, black = (
        substrate_images(images, "blur", mask_space=space, mean=MEAN, std=STD) for space in ("input", "unit")
    )
    inside = (..., slice(5, -5), slice(5, -5))
    torch.testing.assert_close(grey[inside], images[inside])
    torch.testing.assert_close(black[inside], images[inside])
    # A corner sees a quarter of the image and some; the rest is zero of its space.
    unit = black[0, 0, 0, 0] * STD[0] + MEAN[0]
    seen = grey[0, 0, 0, 0] / images[0, 0, 0, 0]
    assert 0.25 < seen < 0.35
    torch.testing.assert_close(unit, 0.8 * seen)


def test_blur_scales_with_the_image():
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    plain, scaled = (substrate_images(images, "blur", scale_to_image=scale) for scale in (False, True))
    assert torch.equal(plain, scaled)
    dot = torch.zeros(1, 1, 45, 45)
    dot[..., 22, 22] = 1
    widths = [int((substrate_images(dot, "blur", scale_to_image=scale)[0, 0, 22] > 0).sum()) for scale in (False, True)]
    assert widths == [11, 3]


@pytest.mark.parametrize("size", [(45, 224), (224, 45)])
def test_blur_scales_with_the_shorter_side(size):
    dot = torch.zeros(1, 1, *size)
    dot[..., size[0] // 2, size[1] // 2] = 1
    blurred = substrate_images(dot, "blur", scale_to_image=True)[0, 0]
    assert (int((blurred > 0).any(dim=0).sum()), int((blurred > 0).any(dim=1).sum())) == (3, 3)


def test_blur_keeps_half_precision_and_batches():
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).half()
    blurred = substrate_images(images, "blur")
    assert blurred.dtype == torch.float16
    torch.testing.assert_close(blurred[1:2], substrate_images(images[1:2], "blur"))


def test_unknown_substrates_and_unknown_normalisation_are_refused():
    images = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="`mean` and `std` for `mask_space='unit'`"):
        substrate_images(images, mask_space="unit")
    with pytest.raises(ValueError, match="`substrate` to be one of 'zeros', 'blur', but got 'noise'"):
        substrate_images(images, "noise")
    with pytest.raises(ValueError, match="`mask_space`"):
        substrate_images(images, mask_space="output")
