import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from lit_decom.functional.parts import (
    match_parts,
    part_agreement,
    part_average_precision,
    part_coverage,
    part_iou,
    part_purity,
)


def rectangle(rows: slice, columns: slice, value: float = 1.0, size: int = 20) -> Tensor:
    out = torch.zeros(size, size)
    out[rows, columns] = value
    return out


def critter() -> Tensor:
    """A body of 10 x 10 with an eye of 2 x 2 inside it, and a tail of 4 x 4 beside it, of 20 x 20 pixels."""
    body = rectangle(slice(5, 15), slice(5, 15))
    eye = rectangle(slice(7, 9), slice(7, 9))
    tail = rectangle(slice(10, 14), slice(15, 19))
    return torch.stack([body, eye, tail]).bool().unsqueeze(0)


def balanced(p: float, a: float) -> float:
    inside, outside = p / a, (1 - p) / (1 - a)
    return inside / (inside + outside)


def test_a_blurred_eye_is_an_eye_and_the_body_around_it_a_body():
    on_the_eye = rectangle(slice(6, 10), slice(6, 10), 0.5) + rectangle(slice(7, 9), slice(7, 9), 4.0)
    on_the_body = rectangle(slice(4, 16), slice(4, 16))
    match = match_parts(torch.stack([on_the_eye, on_the_body]).unsqueeze(0), critter())
    assert match.part.tolist() == [[1, 0]]
    p_eye = (4 * 4.5) / (16 * 0.5 + 4 * 4.0)
    p_body = 96 / 144
    assert match.purity[0].tolist() == pytest.approx([balanced(p_eye, 4 / 400), balanced(p_body, 96 / 400)])


def test_energy_purity_is_the_share_inside_and_favours_the_large_part():
    on_the_eye = rectangle(slice(6, 10), slice(6, 10))
    match = match_parts(on_the_eye[None, None], critter(), purity="energy")
    assert match.part.tolist() == [[0]]
    assert match.purity.item() == pytest.approx(12 / 16)
    assert match_parts(on_the_eye[None, None], critter()).part.tolist() == [[1]]


def test_a_uniform_component_has_balanced_purity_one_half_for_a_part_of_any_size():
    for side in (1, 5, 19):
        part = rectangle(slice(0, side), slice(0, side)).bool()[None, None]
        assert match_parts(torch.ones(1, 1, 20, 20), part).purity.item() == pytest.approx(0.5)


def test_nine_times_the_density_of_the_rest_is_a_balanced_purity_of_nine_tenths():
    for side in (1, 5, 19):
        part = rectangle(slice(0, side), slice(0, side)).bool()
        component = torch.ones(20, 20) + 8 * part
        assert match_parts(component[None, None], part[None, None]).purity.item() == pytest.approx(0.9)


def test_a_pixel_of_two_parts_belongs_to_the_smaller():
    on_the_eye = rectangle(slice(7, 9), slice(7, 9))[None, None]
    for order in ([0, 1, 2], [1, 0, 2]):
        match = match_parts(on_the_eye, critter()[:, order], purity="energy")
        assert order[match.part.item()] == 1
        assert match.purity.item() == 1


def test_coverage_counts_each_part_once_and_each_component_for_one_part():
    eye, tail = rectangle(slice(7, 9), slice(7, 9)), rectangle(slice(10, 14), slice(15, 19))
    both = eye + tail * 0.01
    assert part_coverage(match_parts(torch.stack([eye, eye]).unsqueeze(0), critter())).item() == pytest.approx(1 / 3)
    assert part_coverage(match_parts(torch.stack([eye, tail]).unsqueeze(0), critter())).item() == pytest.approx(2 / 3)
    assert part_coverage(match_parts(both[None, None], critter()), min_purity=0.0).item() == pytest.approx(1 / 3)


def test_a_component_below_the_purity_claims_nothing():
    component = torch.ones(20, 20) + 8 * critter()[0, 2]
    match = match_parts(component[None, None], critter()[:, 2:])
    assert part_coverage(match, min_purity=0.89).item() == 1
    assert part_coverage(match, min_purity=0.91).item() == 0


def test_a_part_that_is_not_shown_is_not_missed():
    parts = torch.cat([critter(), critter()])
    parts[1, 2] = False
    eye = rectangle(slice(7, 9), slice(7, 9)).expand(2, 1, 20, 20)
    match = match_parts(eye, parts)
    assert match.present.tolist() == [[True, True, True], [True, True, False]]
    assert part_coverage(match).tolist() == pytest.approx([1 / 3, 1 / 2])


def test_negative_energy_and_missing_components_claim_nothing():
    eye, tail = rectangle(slice(7, 9), slice(7, 9)), rectangle(slice(10, 14), slice(15, 19))
    ossms = torch.stack([eye - tail, tail, torch.zeros(20, 20)]).unsqueeze(0)
    match = match_parts(ossms, critter(), valid=torch.tensor([[True, False, True]]))
    assert match.part.tolist() == [[1, -1, -1]]
    assert match.purity[0].isnan().tolist() == [False, True, True]
    assert part_coverage(match).item() == pytest.approx(1 / 3)
    assert part_purity(match).item() == 1


def test_padding_may_hold_anything():
    eye = rectangle(slice(7, 9), slice(7, 9))
    ossms = torch.stack([eye, torch.full((20, 20), torch.nan)]).unsqueeze(0)
    valid = torch.tensor([[True, False]])
    assert part_coverage(match_parts(ossms, critter(), valid)).item() == pytest.approx(1 / 3)
    assert part_coverage(match_parts(ossms, critter())).isnan().all()


def test_undefined_images_are_nan_and_leave_the_others_alone():
    eye = rectangle(slice(7, 9), slice(7, 9))
    ossms = eye.expand(4, 2, 20, 20).clone()
    parts = critter().expand(4, 3, 20, 20).clone()
    ossms[1] = 0
    ossms[2, 1, 0, 0] = torch.inf
    parts[3] = False
    for score in (part_coverage, part_purity):
        assert score(match_parts(ossms, parts)).isnan().tolist() == [False, True, True, True]


def test_a_part_that_fills_the_image_says_nothing():
    match = match_parts(torch.rand(1, 1, 4, 4) + 0.1, torch.ones(1, 1, 4, 4, dtype=torch.bool))
    assert match.purity.item() == 0.5


def match_by_definition(components: Tensor, parts: Tensor, kind: str) -> list[tuple[int, float]]:
    sizes = parts.sum(dim=(1, 2)).tolist()
    n_pixels = parts[0].numel()
    owned: list[list[tuple[int, int]]] = [[] for _ in sizes]
    for i, j in parts.any(dim=0).nonzero().tolist():
        owned[min((r for r in range(len(sizes)) if parts[r, i, j]), key=lambda r: sizes[r])].append((i, j))
    out = []
    for component in components:
        energy = [[max(0.0, x) for x in row] for row in component.tolist()]
        shares = [sum(energy[i][j] for i, j in pixels) / sum(map(sum, energy)) for pixels in owned]
        if kind == "balanced":
            shares = [balanced(p, len(pixels) / n_pixels) for p, pixels in zip(shares, owned, strict=True)]
        out.append((shares.index(max(shares)), max(shares)))
    return out


@pytest.mark.parametrize("kind", ["energy", "balanced"])
def test_the_match_agrees_with_a_loop_over_components_and_parts(kind):
    generator = torch.Generator().manual_seed(0)
    ossms = torch.randn(3, 4, 6, 5, generator=generator)
    parts = torch.rand(3, 3, 6, 5, generator=generator) < torch.tensor([0.3, 0.4, 0.6])[:, None, None]
    match = match_parts(ossms, parts, purity=kind)
    for b in range(3):
        expected_parts, expected_purities = zip(*match_by_definition(ossms[b], parts[b], kind), strict=True)
        assert match.part[b].tolist() == list(expected_parts)
        # sums of float32 over the pixels of a map
        assert match.purity[b].tolist() == pytest.approx(expected_purities, rel=1e-5)


def test_half_precision_and_autocast_do_not_round_the_sums():
    generator = torch.Generator().manual_seed(0)
    ossms = torch.rand(1, 2, 20, 20, generator=generator).half()
    exact = match_parts(ossms.float(), critter()).purity
    assert torch.equal(match_parts(ossms, critter()).purity, exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(match_parts(ossms.float(), critter()).purity, exact)


def test_arguments_that_do_not_fit_are_refused():
    ossms = torch.rand(1, 2, 20, 20)
    with pytest.raises(ValueError, match="agree in all but the second dimension"):
        match_parts(ossms[:, :, :10], critter())
    with pytest.raises(ValueError, match="at least one part"):
        match_parts(ossms, critter()[:, :0])
    with pytest.raises(TypeError, match=r"Expected `parts` to be of type torch\.bool"):
        match_parts(ossms, critter().float())
    with pytest.raises(ValueError, match=r"Expected `valid` to have shape \(1, 2\), but got \(1, 3\)"):
        match_parts(ossms, critter(), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="Expected `purity`"):
        match_parts(ossms, critter(), purity="lift")
    for odd in (0, 255):
        with pytest.raises(ValueError, match=f"Expected `n_levels` to be even and at least 2, but got {odd}"):
            part_agreement(ossms, critter(), n_levels=odd)
    with pytest.raises(ValueError, match="agree in all but the second dimension"):
        part_agreement(ossms[:, :, :10], critter())
    with pytest.raises(ValueError, match="Expected `min_purity`"):
        part_coverage(match_parts(ossms, critter()), min_purity=90)


# ----- how well components outline parts


def random_components(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Components of many scales, with values that tie and values below 0, and parts that overlap."""
    generator = torch.Generator().manual_seed(seed)
    ossms = torch.randn(3, 4, 9, 7, generator=generator) * torch.tensor([1e-20, 1.0, 30.0, 1e20])[:, None, None]
    ossms[:, 1] = ossms[:, 1].round()
    parts = torch.rand(3, 3, 9, 7, generator=generator) < torch.tensor([0.05, 0.2, 0.6])[:, None, None]
    parts[:, :, 0, 0] = True
    return ossms, parts


def levels_of(component: Tensor, n_levels: int = 256) -> list[int]:
    top = component.max()
    return [min(int(max(value, 0.0) / top * n_levels), n_levels - 1) for value in component.flatten()]


def average_precision_by_definition(values: list[int], inside: list[bool]) -> float:
    """Precision at each value, times the recall gained there; pixels of one value are taken together."""
    found, area = 0.0, 0.0
    for threshold in sorted(set(values), reverse=True):
        chosen = [hit for value, hit in zip(values, inside, strict=True) if value >= threshold]
        area += sum(chosen) / len(chosen) * (sum(chosen) - found) / sum(inside)
        found = sum(chosen)
    return area


def test_average_precision_and_iou_agree_with_a_loop_over_thresholds_and_with_scikit_learn():
    ossms, parts = random_components()
    found = part_agreement(ossms, parts)
    for b, k, r in torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(3)).tolist():
        values, inside = levels_of(ossms[b, k]), parts[b, r].flatten().tolist()
        expected = average_precision_by_definition(values, inside)
        # sums of float32 over 256 levels
        assert found.average_precision[b, k, r].item() == pytest.approx(expected, abs=1e-5)
        assert average_precision_score(inside, values) == pytest.approx(expected, abs=1e-9)
        above = (ossms[b, k] >= ossms[b, k].max() / 2).flatten().tolist()
        both = sum(one and other for one, other in zip(above, inside, strict=True))
        assert found.iou[b, k, r].item() == pytest.approx(both / (sum(above) + sum(inside) - both), abs=1e-6)


def test_the_best_component_counts_for_each_part_and_parts_count_alike():
    ossms, parts = random_components()
    found = part_agreement(ossms, parts)
    for table, value in (
        (found.average_precision, part_average_precision(found)),
        (found.iou, part_iou(found)),
    ):
        by_hand = [sum(max(table[b, k, r].item() for k in range(4)) for r in range(3)) / 3 for b in range(3)]
        assert value.tolist() == pytest.approx(by_hand, abs=1e-6)


def test_neither_units_nor_the_cut_into_batches_matter():
    ossms, parts = random_components()
    whole = part_agreement(ossms, parts)
    scaled = part_agreement(ossms * 2.0**10, parts)
    assert torch.equal(whole.average_precision, scaled.average_precision)
    single = torch.cat([part_agreement(ossms[i : i + 1], parts[i : i + 1]).iou for i in range(3)])
    assert torch.equal(whole.iou, single)
    assert part_agreement(ossms[:0], parts[:0]).iou.shape == (0, 4, 3)


def test_rounding_of_a_resized_zero_ranks_nothing():
    eye = rectangle(slice(7, 9), slice(7, 9))
    noise = torch.rand(20, 20, generator=torch.Generator().manual_seed(0)) * 1e-7
    clean, noisy = (part_agreement(each[None, None], critter()).average_precision for each in (eye, eye + noise))
    torch.testing.assert_close(clean, noisy, rtol=0, atol=1e-6)


def test_parts_that_are_not_shown_and_components_that_do_not_exist():
    eye, tail = rectangle(slice(7, 9), slice(7, 9)), rectangle(slice(10, 14), slice(15, 19))
    ossms = torch.stack([eye, tail, torch.full((20, 20), torch.nan)]).expand(5, 3, 20, 20).clone()
    parts = critter().expand(5, 3, 20, 20).clone()
    parts[1, 2] = False
    parts[2] = False
    ossms[3] = 0
    valid = torch.tensor([[True, True, False]]).expand(5, 3).clone()
    valid[4, 2] = True
    found = part_agreement(ossms, parts, valid)
    assert found.iou[0].tolist() == [[pytest.approx(4 / 100), 1, 0], [0, 0, 1], [0, 0, 0]]
    assert found.average_precision[0, 2].tolist() == [0, 0, 0]
    assert found.iou[1, :, 2].isnan().all()
    assert part_iou(found)[:2].tolist() == pytest.approx([(0.04 + 1 + 1) / 3, (0.04 + 1) / 2])
    for score in (part_iou, part_average_precision):
        assert score(found).isnan().tolist() == [False, False, True, True, True]


def test_a_component_beside_all_parts_falls_on_one_of_them_by_nothing():
    beside = rectangle(slice(17, 20), slice(0, 3))
    match = match_parts(beside[None, None], critter())
    assert (match.part.item(), match.purity.item()) == (0, 0.0)
