import pytest
import torch
from torch import nn

from lit_decom.functional.insertion_deletion import area_under_curve, perturbation_logits


def chunked(model, size=10_000, calls=None):
    """The streaming form of a model, as a capture has it."""

    def rescore(rows, alter):
        parts = []
        for start in range(0, len(rows), size):
            altered = alter(slice(start, start + size))
            if calls is not None:
                calls.append(len(altered))
            parts.append(model(altered))
        return torch.cat([model(torch.zeros(1, 3, 6, 4))[:0], *parts]) if parts else torch.zeros(0, 4)

    return rescore


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 4)).requires_grad_(
        requires_grad=False
    )


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(1)
    images, maps = torch.randn(5, 3, 6, 4, generator=generator), torch.rand(5, 6, 4, generator=generator)
    return images, maps, torch.randn(5, 3, 6, 4, generator=generator)


def brightness(images):
    """Two logits: the sum of all pixels, and its opposite."""
    total = images.sum(dim=(1, 2, 3))
    return torch.stack([total, -total], dim=1)


def two_pixels(curve, maps, n_steps=2, substrate=0.0):
    images = torch.tensor([[[[3.0, 1.0]]]]).repeat(len(maps), 1, 1, 1)
    background = torch.full_like(images, substrate)
    rescore = lambda rows, alter: brightness(alter(slice(0, len(rows))))  # noqa: E731
    return perturbation_logits(images, maps, rescore, background, curve=curve, n_steps=n_steps)[..., 0]


@pytest.mark.parametrize(
    ("curve", "substrate", "first", "second"),
    [
        ("insertion", 0.0, [0.0, 3.0, 4.0], [0.0, 1.0, 4.0]),
        ("deletion", 0.0, [4.0, 1.0, 0.0], [4.0, 3.0, 0.0]),
        ("insertion", 5.0, [10.0, 8.0, 4.0], [10.0, 6.0, 4.0]),
    ],
)
def test_two_pixel_curves_known_on_paper(curve, substrate, first, second):
    maps = torch.tensor([[[0.9, 0.2]], [[0.2, 0.9]]])
    assert two_pixels(curve, maps, substrate=substrate).tolist() == [first, second]


def test_equal_pixels_come_in_reading_order():
    images = torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]])
    rescore = lambda rows, alter: brightness(alter(slice(0, len(rows))))  # noqa: E731
    maps = torch.tensor([[[0.5, 0.5], [0.5, 0.9]]])
    logits = perturbation_logits(images, maps, rescore, torch.zeros_like(images), curve="insertion", n_steps=4)
    assert logits[0, :, 0].tolist() == [0, 1000, 1001, 1011, 1111]


def slow_curve(model, row, curve, counts):
    """One image, one forward per point, pixels moved one by one."""
    image, saliency, substrate = row
    flat = saliency.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda pixel: (-flat[pixel], pixel))
    start, finish = (substrate, image) if curve == "insertion" else (image, substrate)
    logits = []
    for count in counts:
        altered = start.clone()
        for pixel in order[:count]:
            row, column = divmod(pixel, image.shape[-1])
            altered[:, row, column] = finish[:, row, column]
        logits.append(model(altered[None])[0])
    return torch.stack(logits)


@pytest.mark.parametrize("curve", ["insertion", "deletion"])
@pytest.mark.parametrize("n_steps", [1, 6, 24])
def test_curves_agree_with_the_definition_pixel_by_pixel(model, scene, curve, n_steps):
    images, maps, substrate = scene
    maps = (4 * maps).round() / 4  # with ties
    fast = perturbation_logits(images, maps, chunked(model), substrate, curve=curve, n_steps=n_steps)
    counts = range(0, 25, 24 // n_steps)
    slow = [slow_curve(model, row, curve, counts) for row in zip(images, maps, substrate, strict=True)]
    # logits of order one, from images of order one, in another order of summation
    torch.testing.assert_close(fast, torch.stack(slow), rtol=0, atol=1e-5)


def test_steps_that_do_not_divide_the_image_are_equal_to_within_a_pixel(scene):
    images, maps, _ = scene
    ones = torch.ones_like(images)
    rescore = lambda rows, alter: brightness(alter(slice(0, len(rows))))  # noqa: E731
    logits = perturbation_logits(ones, maps, rescore, torch.zeros_like(ones), curve="insertion", n_steps=7)
    counts = logits[:, :, 0] / 3
    assert counts[0].tolist() == [0, 3, 7, 10, 14, 17, 21, 24]
    assert torch.equal(counts, counts[:1].expand(5, -1))


def test_on_a_linear_model_insertion_and_deletion_from_zero_add_up_to_the_whole(scene):
    images, maps, _ = scene
    rescore = lambda rows, alter: brightness(alter(slice(0, len(rows))))  # noqa: E731
    curves = [
        perturbation_logits(images, maps, rescore, torch.zeros_like(images), curve=curve, n_steps=8)
        for curve in ("insertion", "deletion")
    ]
    # sums over all pixels of an image, tens of times larger than their values
    torch.testing.assert_close(curves[0] + curves[1], brightness(images)[:, None].expand(-1, 9, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1, 7, 50])
def test_streaming_equals_direct_and_never_makes_more_than_a_chunk(model, scene, size):
    images, maps, substrate = scene
    calls = []
    direct = perturbation_logits(images, maps, chunked(model), substrate, curve="deletion", n_steps=8)
    streamed = perturbation_logits(images, maps, chunked(model, size, calls), substrate, curve="deletion", n_steps=8)
    # logits of order one: other chunks may be summed in another order
    torch.testing.assert_close(streamed, direct, rtol=0, atol=1e-6)
    assert max(calls) <= size
    assert sum(calls) == 5 * 9


@pytest.mark.parametrize("curve", ["insertion", "deletion"])
def test_a_map_without_an_order_is_undefined_costs_nothing_and_spoils_no_other(model, scene, curve):
    images, maps, substrate = scene
    clean = perturbation_logits(images, maps, chunked(model), substrate, curve=curve, n_steps=4)
    maps[0], maps[1, 2, 2], maps[3, 1, 1] = 0.7, torch.nan, torch.inf
    calls = []
    logits = perturbation_logits(images, maps, chunked(model, 3, calls), substrate, curve=curve, n_steps=4)
    assert logits.isnan().all(dim=(1, 2)).tolist() == [True, True, False, True, False]
    torch.testing.assert_close(logits[[2, 4]], clean[[2, 4]], rtol=0, atol=1e-6)
    assert sum(calls) == 2 * 5


def test_a_batch_of_undefined_maps_only_gives_undefined_rows(model, scene):
    images, maps, substrate = scene
    logits = perturbation_logits(images, 0 * maps, chunked(model), substrate, curve="insertion", n_steps=4)
    assert logits.shape == (5, 5, 4)
    assert logits.isnan().all()


def test_a_batch_equals_its_images_one_by_one(model, scene):
    images, maps, substrate = scene
    batch = perturbation_logits(images, maps, chunked(model), substrate, curve="insertion", n_steps=6)
    for i in range(5):
        alone = perturbation_logits(
            images[i : i + 1], maps[i : i + 1], chunked(model), substrate[i : i + 1], curve="insertion", n_steps=6
        )
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=1e-6)


def test_half_precision_maps_rank_like_the_same_numbers_in_full(model, scene):
    images, maps, substrate = scene
    half = perturbation_logits(images, maps.half(), chunked(model), substrate, curve="deletion", n_steps=8)
    full = perturbation_logits(images, maps.half().float(), chunked(model), substrate, curve="deletion", n_steps=8)
    assert torch.equal(half, full)


def test_area_is_the_trapezoidal_sum_of_the_evaluation_code_of_rise():
    scores = torch.rand(4, 9, generator=torch.Generator().manual_seed(0))
    expected = (scores.sum(1) - scores[:, 0] / 2 - scores[:, -1] / 2) / (9 - 1)
    torch.testing.assert_close(area_under_curve(scores), expected)
    assert area_under_curve(torch.ones(1, 5)).item() == 1.0


def test_wrong_inputs_are_refused(scene):
    images, maps, substrate = scene
    common = {"rescore": chunked(brightness), "substrate": substrate}
    with pytest.raises(ValueError, match="`n_steps` to be between 1 and 24"):
        perturbation_logits(images, maps, **common, curve="deletion", n_steps=25)
    with pytest.raises(ValueError, match="`curve`"):
        perturbation_logits(images, maps, **common, curve="removal", n_steps=2)
    with pytest.raises(ValueError, match=r"`maps` to be \(B, H, W\) for images \(5, 3, 6, 4\), but got \(5, 4, 6\)"):
        perturbation_logits(images, maps.mT, **common, curve="deletion", n_steps=2)
