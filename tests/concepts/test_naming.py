import math
from collections import defaultdict

import pytest
import torch
from torch import nn

from lit_decom.concepts import ConceptTree, Namer
from lit_decom.concepts.naming import _elsewhere, region_of
from lit_decom.functional.decision_factors import decision_factors
from lit_decom.functional.image import gaussian_blur

SIZE = 32
# Concept 0 and 1 of the upper left corner, 2 and 3 of the lower right one.
TREE = ConceptTree(
    {
        "a": {"crown": {"colour": "a red crown"}, "foot": {"colour": "a red foot"}},
        "b": {"crown": {"colour": "a blue crown"}, "foot": {"colour": "a blue foot"}},
    }
)
CROWN, FOOT = (slice(0, 8), slice(0, 8)), (slice(24, 32), slice(24, 32))


SHOWN = defaultdict(list)
"""What each network was shown: attributes of one are put back when it was looked at, this is not."""


class Sees(nn.Module):
    """Scores a corner's concepts by how much redder than blue its pixels are, and nothing else of the image."""

    def __init__(self, sees=(CROWN, FOOT)):
        super().__init__()
        self.sees = sees

    def forward(self, images):
        SHOWN[self].append(images.clone())
        scores = []
        for rows, columns in self.sees:
            red = (images[:, 0, rows, columns] - images[:, 2, rows, columns]).mean(dim=(1, 2))
            # Texts of their own weigh differently, which says nothing of the image.
            scores += [10 + red, 7 - red]
        return torch.stack(scores, dim=1)


def pictures(n=1, *, crown="red", foot="blue", seed=0):
    images = 0.1 * torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    for (rows, columns), colour in ((CROWN, crown), (FOOT, foot)):
        images[:, 0 if colour == "red" else 2, rows, columns] += 2.0
    return images


def at(where, n=1):
    regions = torch.zeros(n, SIZE, SIZE, dtype=torch.bool)
    regions[:, where[0], where[1]] = True
    return regions


@pytest.mark.parametrize(
    ("crown", "where", "words"),
    [("red", CROWN, "a red crown"), ("blue", CROWN, "a blue crown"), ("red", FOOT, "a blue foot")],
)
def test_a_region_is_named_for_what_it_shows(crown, where, words):
    name = Namer(Sees(), TREE).name(pictures(crown=crown), at(where))
    assert (name.concept.words, name.given, name.confidence) == (words, True, 1.0)
    assert str(name) == f"{words} (100%)"


def test_a_region_that_shows_nothing_gets_no_name():
    scorer = Sees()
    given = []
    for seed in range(40):
        rows, columns = 8 + seed % 8, 8 + (3 * seed) % 8
        noise = 0.1 * torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        name = Namer(scorer, TREE, seed=seed).name(noise, at((slice(rows, rows + 6), slice(columns, columns + 6))))
        given.append(name.given)
        assert name.given or str(name) == "no name"
    # 5 % at most by accident: more than 6 of 40 would be one case in a hundred.
    assert sum(given) <= 6


def test_the_scores_are_those_of_the_region_over_the_blurred_image():
    scorer, image = Sees(), pictures()
    namer = Namer(scorer, TREE, blur=0.2)
    namer.name(image, at(CROWN))
    shown = torch.cat(SHOWN[scorer])
    blurred = gaussian_blur(image[0], 0.2 * SIZE)
    assert len(shown) == 1 + namer.n_places == math.ceil(4 / 0.05)
    torch.testing.assert_close(shown[0, :, *CROWN], image[0, :, *CROWN])
    torch.testing.assert_close(shown[0, :, 8:], blurred[:, 8:])
    for other in shown[1:]:
        seen = (other != blurred).any(dim=0)
        assert seen.sum() == 64
        torch.testing.assert_close(other[:, seen], image[0][:, seen])


def test_confidence_is_the_share_of_other_places_that_speak_less_for_it():
    class Listed(nn.Module):
        """Gives scores of a list, one image after the other."""

        def __init__(self, values):
            super().__init__()
            self.values = list(values)

        def forward(self, images):
            rows = [self.values.pop(0) for _ in images]
            return torch.tensor([[row, 0.0, 0.0, 0.0] for row in rows])

    n = math.ceil(4 / 0.05) - 1
    (image,), region = pictures(1)[None], at(CROWN)
    best = Namer(Listed([9.0, *range(-n, 0)]), TREE).name(image, region)
    assert (best.confidence, best.given) == (1.0, True)
    second = Namer(Listed([9.0, 9.5, *range(1 - n, 0)]), TREE).name(image, region)
    assert (second.confidence, second.given) == (pytest.approx((n - 1) / n), False)
    tied = Namer(Listed([9.0, 9.0, *range(1 - n, 0)]), TREE).name(image, region)
    assert not tied.given


def test_by_chance_confidence_is_above_half_and_names_are_rare():
    """The concept is the best of two pairs, so by chance 5/6 of places speak less for it."""
    generator = torch.Generator().manual_seed(0)
    namer = Namer(nn.Identity(), TREE)
    crown, foot = torch.randn(2, 400, 1 + namer.n_places, generator=generator).double()
    judged = [namer._judge(torch.stack([a, -a, b, -b], dim=1)) for a, b in zip(crown, foot, strict=True)]
    assert sum(name.confidence for name in judged) / 400 == pytest.approx(5 / 6, abs=0.03)
    assert sum(name.given for name in judged) / 400 < 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_several_images_are_judged_by_their_mean():
    images = torch.cat([pictures(3, crown="red"), pictures(3, crown="blue", seed=1)])
    scorer = Sees()
    assert Namer(scorer, TREE).name(images[:3], at(CROWN, 3)).concept.words == "a red crown"
    weak = images.clone()
    weak[3:, 2, CROWN[0], CROWN[1]] -= 1.0
    assert Namer(scorer, TREE).name(weak, at(CROWN, 6)).concept.words == "a red crown"
    weak[:3, 0, CROWN[0], CROWN[1]] -= 1.5
    assert Namer(scorer, TREE).name(weak, at(CROWN, 6)).concept.words == "a blue crown"


def test_images_without_a_region_are_left_out():
    images, regions = pictures(3), at(CROWN, 3)
    regions[0], regions[1] = False, True
    scorer = Sees()
    assert Namer(scorer, TREE).name(images, regions).concept.words == "a red crown"
    assert sum(map(len, SHOWN[scorer])) == 80
    assert Namer(scorer, TREE).name(images, torch.zeros_like(regions)) is None


def test_names_do_not_depend_on_the_size_of_the_batches_and_leave_the_scorer_alone():
    scorer = Sees().train()
    state = torch.get_rng_state()
    images, regions = pictures(2), at(FOOT, 2)
    assert Namer(scorer, TREE, batch_size=7).name(images, regions) == Namer(scorer, TREE).name(images, regions)
    assert scorer.training
    assert torch.equal(torch.get_rng_state(), state)


def test_other_places_are_the_same_shape_far_enough_away():
    corner = torch.zeros(24, SIZE, dtype=torch.bool)
    corner[2, 30] = True
    found = torch.stack(_elsewhere(corner, 2000, torch.Generator().manual_seed(0)))
    assert (found.sum(dim=(1, 2)) == 1).all()
    rows, columns = (found.nonzero()[:, 1] - 2) % 24, (found.nonzero()[:, 2] - 30) % SIZE
    down, right = torch.minimum(rows, 24 - rows), torch.minimum(columns, SIZE - columns)
    assert ((down >= 3) | (right >= 4)).all()
    # Every place far enough away comes: 24 x 32 less the 5 x 7 that are nearer in both directions.
    assert 650 < len(set(zip(rows.tolist(), columns.tolist(), strict=True))) <= 24 * SIZE - 5 * 7
    shape = at((slice(2, 6), slice(28, 32)))[0]
    assert {int(other.sum()) for other in _elsewhere(shape, 50, torch.Generator().manual_seed(0))} == {16}


def test_the_region_of_a_map_is_where_it_is_above_half_its_maximum():
    maps = torch.zeros(3, 8, 8)
    maps[0, 2, 2], maps[1] = 4.0, -1.0
    maps[2, 1, 1], maps[2, 6, 6] = 4.0, 1.0
    found = region_of(maps, (32, 32))
    assert found[0, 10, 10]
    assert 9 <= found[0].sum() <= 32
    assert not found[1].any()
    assert found[2, 6, 6]
    assert not found[2, 26, 26]


def two_sided(n=24):
    """Images with a red crown or a blue one, and factors whose scores tell which, with maps on the crown."""
    images = torch.cat([pictures(n // 2), pictures(n // 2, crown="blue", seed=1)])
    side = torch.tensor([1.0] * (n // 2) + [-1.0] * (n // 2))
    other = torch.tensor([1.0, -1.0] * (n // 2))
    pooled = torch.stack([side, 0.8 * other], dim=1)
    head = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.5], [0.0, -1.5]])
    factors = decision_factors(pooled @ head.T, head, pooled)
    sign = torch.sign((factors.scores[:, 0] * side).sum())
    maps = torch.zeros(n, factors.codes.shape[1], 8, 8)
    maps[:, 0, :2, :2] = (sign * side)[:, None, None]
    return images, factors, maps, sign


def test_both_sides_of_a_factor_are_named_where_its_scores_are_highest_and_lowest():
    images, factors, maps, sign = two_sided()
    assert not factors.states
    named = Namer(Sees(), TREE).name_factors(images, factors.scores, maps, n_images=6)
    high, low = named[0] if sign > 0 else named[0][::-1]
    assert (high.concept.words, low.concept.words) == ("a red crown", "a blue crown")
    assert high.given
    assert low.given
    assert named[1] == (None, None), "its map is 0 everywhere"


@pytest.mark.parametrize("state", ["rotation_margin", "tied", "constant_share"])
def test_factors_that_mean_nothing_singly_never_get_a_name(state):
    images, factors, maps, _ = two_sided()
    value = {"rotation_margin": 0.0, "tied": True, "constant_share": 0.9}[state]
    vars(factors)[state] = torch.tensor(value)
    scorer = Sees()
    named = Namer(scorer, TREE).name_factors(images, factors.scores, maps, states=factors.states)
    assert named == [(None, None)] * 2
    assert not SHOWN[scorer]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (at(CROWN).float(), r"Expected `regions` to be bool \(1, 32, 32\), but got torch.float32 \(1, 32, 32\)"),
        (at(CROWN, 2), r"but got torch.bool \(2, 32, 32\)"),
    ],
)
def test_regions_that_do_not_fit_are_refused(regions, message):
    with pytest.raises(ValueError, match=message):
        Namer(Sees(), TREE).name(pictures(), regions)


def test_a_scorer_of_other_concepts_is_refused():
    with pytest.raises(ValueError, match="Expected `scorer` to give 4 scores, one for each concept, but got 2"):
        Namer(Sees([CROWN]), TREE).name(pictures(), at(CROWN))


@pytest.mark.parametrize("option", [{"level": 0.0}, {"level": 1.0}, {"blur": 0.0}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=f"Expected .*`{next(iter(option))}`"):
        Namer(Sees(), TREE, **option)
