import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from lit_decom.functional.image import blend, gaussian_blur, min_max_normalize, upsample


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("grid", "size"), [((7, 7), (224, 224)), ((3, 5), (30, 64)), ((12, 12), (48, 48)), ((8, 6), (4, 3))]
)
def test_upsampling_is_interpolation(grid, size, mode):
    maps = rand(2, 3, *grid) - 0.3
    expected = F.interpolate(maps, size=size, mode=mode, align_corners=False)
    # sixteen products of weights up to 1.3 and values up to 1, in float32 and in another order
    torch.testing.assert_close(upsample(maps, size, mode), expected, rtol=0, atol=1e-5)


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="`mode` to be one of 'bicubic', 'bilinear', but got 'nearest'"):
        upsample(rand(1, 4, 4), (8, 8), "nearest")


def test_upsampling_takes_any_leading_dimensions():
    maps = rand(6, 4, 4)
    whole = upsample(maps, (9, 9))
    assert torch.equal(upsample(maps.view(2, 3, 4, 4), (9, 9)).flatten(0, 1), whole)
    torch.testing.assert_close(upsample(maps[1], (9, 9)), whole[1])


@pytest.mark.parametrize(("sigma", "truncate"), [(0.7, 4.0), (3.0, 4.0), (10.0, 4.0), (10.0, 100.0)])
def test_blur_is_scipys_with_the_edge_repeated(sigma, truncate):
    images = rand(2, 3, 20, 31) - 0.5
    expected = np.stack(
        [
            [gaussian_filter(plane, sigma, mode="reflect", truncate=truncate) for plane in image]
            for image in images.double().numpy()
        ]
    )
    # weights that sum to 1, in float32, of values of order one
    np.testing.assert_allclose(gaussian_blur(images, sigma, truncate).numpy(), expected, rtol=0, atol=5e-6)


def test_blur_keeps_the_mean_and_does_not_mix_channels_or_images():
    images = torch.zeros(2, 3, 12, 12)
    images[0, 1, 4, 7] = 1.0
    blurred = gaussian_blur(images, 2.0)
    assert blurred[0, 1].sum().item() == pytest.approx(1.0, abs=1e-6)
    blurred[0, 1] = 0
    assert not blurred.any()


def test_blurring_under_inference_mode_leaves_nothing_that_autograd_refuses():
    with torch.inference_mode():
        gaussian_blur(rand(1, 3, 17, 17), 1.25)
        upsample(rand(1, 5, 5), (17, 17))
    images, maps = rand(1, 3, 17, 17).requires_grad_(), rand(1, 5, 5).double().requires_grad_()
    (gaussian_blur(images, 1.25).sum() + upsample(maps, (17, 17)).sum()).backward()
    # Every pixel spreads a weight of 1 over the image.
    torch.testing.assert_close(images.grad, torch.ones_like(images))
    assert maps.grad.sum().item() == pytest.approx(17 * 17)


@pytest.mark.parametrize("resize", [lambda x: upsample(x, (64, 64)), lambda x: gaussian_blur(x, 3.0)])
def test_autocast_does_not_round_images(resize):
    images = rand(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = resize(images)
    assert torch.equal(under_autocast, resize(images))


@pytest.mark.parametrize("resize", [lambda x: upsample(x, (8, 8)), lambda x: gaussian_blur(x, 1.0)])
def test_whole_numbers_are_refused_instead_of_rounding_the_kernel_to_zero(resize):
    with pytest.raises(TypeError, match=r"floating point, but got torch\.uint8"):
        resize(torch.full((3, 4, 4), 200, dtype=torch.uint8))


def test_blur_refuses_a_sigma_of_zero():
    with pytest.raises(ValueError, match=r"Expected `sigma` to be positive, but got 0"):
        gaussian_blur(rand(1, 3, 8, 8), 0)


def test_min_max_stretches_each_map_by_itself():
    maps = torch.tensor([[[1.0, 3.0]], [[-10.0, 30.0]]])
    assert min_max_normalize(maps).tolist() == [[[0.0, 1.0]], [[0.0, 1.0]]]
    stretched = min_max_normalize(rand(5, 4, 4) * 7 - 3)
    assert torch.equal(stretched.amin(dim=(1, 2)), torch.zeros(5))
    assert torch.equal(stretched.amax(dim=(1, 2)), torch.ones(5))


@pytest.mark.parametrize("value", [0.0, 0.3713, -2.7e8, 1e-30])
def test_a_constant_map_becomes_zero_also_after_resizing_left_rounding_errors(value):
    assert not min_max_normalize(torch.full((2, 4, 4), value)).any()
    for side in (4, 7, 12, 14):
        resized = upsample(torch.full((1, side, side), value), (64, 64))
        assert not min_max_normalize(resized).any()


def test_a_faint_map_is_no_constant_one():
    maps = torch.tensor([[[0.0, 1e-30], [2e-30, 0.0]], [[1.0, 1.0], [1.0, 1.001]]])
    torch.testing.assert_close(min_max_normalize(maps), torch.tensor([[[0, 0.5], [1, 0]], [[0.0, 0], [0, 1]]]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_map_stays_bad_and_does_not_touch_its_neighbour(bad):
    maps = rand(2, 3, 3)
    clean = min_max_normalize(maps)[1]
    maps[0, 1, 1] = bad
    stretched = min_max_normalize(maps)
    assert not stretched[0].isfinite().all()
    assert torch.equal(stretched[1], clean)


def test_convex_blend_commutes_with_normalisation():
    images, background, masks = rand(2, 3, 8, 8), rand(2, 3, 8, 8, seed=1), rand(2, 8, 8, seed=2)
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.25])[:, None, None]

    def normalised(x):
        return (x - mean) / std

    before = normalised(blend(images, masks, background))
    after = blend(normalised(images), masks, normalised(background))
    # dividing by the standard deviation magnifies rounding as it does the values
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)


def test_maximum_blend_by_hand_clips_negative_values():
    images, background = torch.tensor([[[[-2.0, 4.0, 1.0]]]]), torch.tensor([[[[-1.0, 1.0, 3.0]]]])
    masks = torch.tensor([[[1.0, 0.5, 0.0]]])
    assert blend(images, masks, background, "maximum").tolist() == [[[[0.0, 2.0, 3.0]]]]
    assert blend(images, masks, background, "convex").tolist() == [[[[-2.0, 2.5, 3.0]]]]


def test_an_unknown_blend_is_refused_by_name():
    with pytest.raises(ValueError, match=r"Expected `mode` to be one of 'convex', 'maximum', but got 'max'"):
        blend(rand(1, 3, 2, 2), rand(1, 2, 2), rand(1, 3, 2, 2), "max")
