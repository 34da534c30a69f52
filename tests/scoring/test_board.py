"""The scoreboard on explanations made by hand, whose every row is known on paper."""

import hashlib
from types import SimpleNamespace

import pytest
import torch

from lit_decom import Decomposition, Probe, Scoring, keys
from lit_decom.functional.chance import blob_components, random_maps, random_orthogonal_basis
from lit_decom.functional.image import upsample
from lit_decom.methods.base import CAM, METHODS
from lit_decom.metrics import (
    Coherency,
    EnergyPointingGame,
    FixedIndexPartAP,
    Gini,
    MapStability,
    PartAveragePrecision,
    PartCoverage,
    PartInformation,
    PartIoU,
    TargetSwitchRate,
)
from lit_decom.metrics.base import PerImageMetric
from lit_decom.scoring import Scoreboard

SIZE = 8


def masks(n):
    found = torch.zeros(n, SIZE, SIZE, dtype=torch.bool)
    found[:, 2:6, 2:6] = True
    return found


def probe(n=10, labels=None):
    images = torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(n, dtype=torch.long) if labels is None else torch.tensor(labels)
    parts = torch.stack([masks(n), ~masks(n)], dim=1)
    return Probe.from_tensors(images, labels, masks=masks(n), parts=parts, ids=[f"image {row}" for row in range(n)])


def decomposition(n, k=3, seed=1):
    """Orthogonal components with two signs, so that their rectified parts are not orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(n, SIZE * SIZE, k, generator=generator))[0].mT
    values = torch.tensor([5.0, 3.0, 1.0]).expand(n, k)
    return Decomposition(
        components=(directions * values[:, :, None]).reshape(n, k, SIZE, SIZE),
        strengths=values,
        channels=torch.zeros(n, 1, dtype=torch.long),
        loadings=torch.ones(n, 1, k),
        valid=torch.ones(n, k, dtype=torch.bool),
        energy=values.square().sum(dim=1),
        removed=values.square(),
        scores=torch.zeros(n, k),
        reference_scores=torch.zeros(n),
        contributions=torch.full((n, k), 1 / 3),
        fallback=torch.zeros(n, dtype=torch.bool),
    )


def capture(images, logits=None):
    """What the scoreboard and Grad-CAM read of a capture."""
    n = len(images)
    logits = torch.tensor([[2.0, 0.0]]).expand(n, 2) if logits is None else logits
    maps = torch.rand(n, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
    return SimpleNamespace(images=images, logits=logits, activations=maps, gradients=maps, mean=None, std=None)


class Same(CAM):
    """The method under test; its map is that of the decomposition."""

    def __call__(self, capture):
        return torch.ones(len(capture.images), SIZE, SIZE)


def board(*metrics, **options):
    given = {"baselines": (), "chance": False} | options
    named = {type(metric).__name__: metric for metric in metrics}
    return Scoreboard(named, Scoring(list(metrics), **given))


def scored(made, shown, found, logits=None, **options):
    made.reset()
    made.update(shown, capture(shown.images, logits), found, method=Same(), **options)
    return {score.key: score for score in made.scores(made.table())}


# ----- chance


def generator_of(image_id):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:4], "little"))


class Kept(PerImageMetric):
    """Remembers what it was shown."""

    higher_is_better = True
    shown: list = []  # noqa: RUF012 -- shared by copies on purpose

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_rows()

    def update(self, maps):
        Kept.shown.append(maps)
        self.append(maps.mean(dim=(1, 2)))


class KeptOSSMs(Kept):
    def update(self, ossms):
        Kept.shown.append(ossms)
        self.append(ossms.mean(dim=(1, 2, 3)))


@pytest.fixture(autouse=True)
def _nothing_kept():
    Kept.shown.clear()


def test_every_image_has_a_random_map_of_its_own_seeded_by_its_id():
    shown = probe(4)
    scored(board(Kept(), chance=True), shown, decomposition(4))
    _own, random, _center = Kept.shown
    for row, name in enumerate(shown.ids):
        expected = random_maps((1, SIZE, SIZE), (SIZE, SIZE), [generator_of(name)])
        torch.testing.assert_close(random[row], expected[0])
    assert not torch.allclose(random[0], random[1]), "one seed for all images"


def test_the_random_basis_turns_the_components_and_rectifies_afterwards():
    shown, found = probe(4), decomposition(4)
    scored(board(KeptOSSMs(), chance=True), shown, found)
    own, turned, _blobs = Kept.shown
    generators = [generator_of(name) for name in shown.ids]
    expected = random_orthogonal_basis(found.components, generators, found.valid).relu()
    torch.testing.assert_close(turned, upsample(expected, (SIZE, SIZE)).clamp(min=0))
    torch.testing.assert_close(own, found.ossms)
    of_ossms = random_orthogonal_basis(found.ossms, [generator_of(name) for name in shown.ids], found.valid).relu()
    assert not torch.allclose(turned, of_ossms, atol=1e-3)


def test_blobs_are_cut_from_grad_cams_map_into_as_many_as_there_are_components():
    shown, found = probe(4), decomposition(4)
    scored(board(KeptOSSMs(), chance=True), shown, found)
    blobs = Kept.shown[-1]
    map_of_grad_cam = METHODS["grad_cam"]()(capture(shown.images))
    expected = blob_components(map_of_grad_cam, 3, [generator_of(name) for name in shown.ids])
    torch.testing.assert_close(blobs, upsample(expected, (SIZE, SIZE)).clamp(min=0))


def test_metrics_of_components_and_parts_share_one_comparison(monkeypatch):
    asked = []

    def counted(kind):
        compare = kind.compare

        def comparing(self, *args):
            asked.append(self.shared)
            return compare(self, *args)

        monkeypatch.setattr(kind, "compare", comparing)

    for kind in (PartAveragePrecision.__bases__[0], PartInformation.__bases__[0]):
        counted(kind)
    metrics = [PartAveragePrecision(), PartIoU(), FixedIndexPartAP(), PartInformation(), PartCoverage()]
    found = scored(board(*metrics, chance=True), probe(10), decomposition(10))
    assert sorted(asked) == ["agreement"] * 3 + ["match"] * 3, "of the method, of turned components and of blobs"
    for metric in metrics:
        name = type(metric).__name__
        assert {f"{name}/all", f"{name}/all/random_basis", f"{name}/all/blob_components"} <= set(found)
        assert f"{name}/all/random_map" not in found


def test_what_belongs_to_a_set_is_chosen_anew_in_every_draw_of_a_comparison():
    made, shown, found = board(FixedIndexPartAP(), PartInformation(), chance=True), probe(16), decomposition(16)
    scores = scored(made, shown, found, alternating(16))
    table = made.table()
    for name, metric in made.metrics.items():
        for stratum in ("all", "correct"):
            rows = made.strata(table)[stratum]
            own, other = (table.columns[name, explanation][rows] for explanation in ("", "random_basis"))
            score = scores[f"{name}/{stratum}/random_basis"]
            assert score.paired_difference == tuple(metric.difference_interval(own, other).tolist())
            assert scores[f"{name}/{stratum}"].interval == tuple(metric.interval(own).tolist())
            assert scores[f"{name}/{stratum}"].value == pytest.approx(metric.reduce(own).item(), abs=1e-6)


class KeptValid(Kept):
    def update(self, ossms, valid=None):
        Kept.shown.append(valid)
        self.append(ossms.mean(dim=(1, 2, 3)))


def test_a_component_that_there_is_not_is_none_of_the_random_basis_either():
    shown, found = probe(4), decomposition(4)
    found.valid[:, 2] = False
    scored(board(KeptOSSMs(), KeptValid(), chance=True), shown, found)
    _own, own_valid, turned, turned_valid, *_blobs = Kept.shown
    assert (turned[:, 2] == 0).all()
    assert torch.equal(own_valid, found.valid)
    assert torch.equal(turned_valid, found.valid)


def test_maps_that_know_nothing_are_scored_once_and_remembered():
    made, shown = board(Kept(), chance=True), probe(4)
    first = scored(made, shown, decomposition(4))
    Kept.shown.clear()
    again = scored(made, shown, decomposition(4, seed=2))
    assert len(Kept.shown) == 1, "the explanation's own maps alone"
    for name in ("random_map", "center_map"):
        assert again[f"Kept/all/{name}"].value == first[f"Kept/all/{name}"].value
    assert again["Kept/all"].value != first["Kept/all"].value


def test_remembered_rows_follow_their_image_however_the_probe_is_cut():
    made, shown, found = board(EnergyPointingGame(), chance=True), probe(6), decomposition(6)
    whole = scored(made, shown, found)
    made.reset()
    for rows in ([5, 1, 3], [0, 2, 4]):
        piece = shown.select(rows)
        made.update(piece, capture(piece.images), decomposition(3), method=Same())
    table = made.table().ordered(shown.ids)
    random = {score.key: score for score in made.scores(table)}["EnergyPointingGame/all/random_map"]
    assert random.value == pytest.approx(whole["EnergyPointingGame/all/random_map"].value, abs=1e-7)


# ----- strata


def alternating(n):
    """The first half right, the second wrong."""
    logits = torch.tensor([[2.0, 0.0]]).repeat(n, 1)
    logits[n // 2 :] = torch.tensor([0.0, 2.0])
    return logits


def test_fixed_strata_are_those_of_the_reference_snapshot_and_moving_ones_those_of_now():
    made, shown, found = board(Gini()), probe(8), decomposition(8)
    before = scored(made, shown, found, alternating(8))
    made.fix_strata(made.table().names_by_id())
    after = scored(made, shown, found, alternating(8).flip(0))
    assert after["Gini/fixed_correct"].value == pytest.approx(before["Gini/correct"].value)
    assert after["Gini/fixed_incorrect"].value == pytest.approx(before["Gini/incorrect"].value)
    assert after["Gini/correct"].value == pytest.approx(before["Gini/incorrect"].value)
    assert before["Gini/correct"].value != pytest.approx(before["Gini/incorrect"].value)


def test_the_reference_epoch_outlives_a_resumed_run():
    made, shown, found = board(Gini()), probe(8), decomposition(8)
    scored(made, shown, found, alternating(8))
    made.fix_strata(made.table().names_by_id())
    resumed = board(Gini())
    assert not resumed.has_fixed_strata
    resumed.load_state_dict(made.state_dict())
    assert resumed.has_fixed_strata
    assert {"Gini/fixed_correct", "Gini/fixed_incorrect"} <= set(scored(resumed, shown, found, alternating(8)))


# ----- a metric that raises


class Raising(PerImageMetric):
    """Breaks at the second piece."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_rows()

    def update(self, maps):
        if len(maps) == 3:
            raise ArithmeticError("no logarithm of 0")
        self.append(maps.mean(dim=(1, 2)))


def pieces_of(made, *sizes, strict=False):
    made.strict = strict
    made.reset()
    start, shown = 0, probe(sum(sizes))
    for size in sizes:
        piece = shown.select(range(start, start + size))
        made.update(piece, capture(piece.images), decomposition(size), method=Same())
        start += size
    return made.table()


def test_a_metric_that_raises_is_missing_from_that_snapshot_and_from_no_other():
    made = board(Raising(), Gini(), baselines=("grad_cam",))
    table = pieces_of(made, 4, 3, 2)
    assert table.dropped == {"Raising": "ArithmeticError: no logarithm of 0"}
    assert {name for name, _ in table.columns} == {"Gini"}
    assert len(table.ids) == 9
    assert not pieces_of(made, 4, 4).dropped
    assert {name for name, _ in pieces_of(made, 4, 4).columns} == {"Gini", "Raising"}


def test_a_metric_that_raises_raises_where_that_is_asked_for():
    with pytest.raises(ArithmeticError, match="no logarithm"):
        pieces_of(board(Raising()), 3, strict=True)


# ----- what metrics are given


def test_coherency_explains_the_same_score_of_the_masked_image():
    asked = []

    class Asking(CAM):
        def __call__(self, capture):
            return torch.rand(len(capture.images), SIZE, SIZE, generator=torch.Generator().manual_seed(3))

    class Recording:
        def __init__(self, evidence):
            self.evidence = evidence

        def again(self, images, targets=None):
            asked.append(targets)
            return self.evidence

        def __getattr__(self, name):
            return getattr(self.evidence, name)

    shown = probe(2)
    made = board(Coherency())
    made.strict = True
    made.update(shown, Recording(capture(shown.images)), decomposition(2), method=Asking())
    assert asked == [None], "the bound score, whatever it is, and no class"


def test_maps_of_the_last_snapshot_are_what_stability_compares_with():
    made, shown = board(MapStability()), probe(3)
    assert not scored(made, shown, decomposition(3))["MapStability/all"].is_defined
    same = scored(made, shown, decomposition(3))["MapStability/all"]
    assert same.value == pytest.approx(1.0, abs=1e-6)
    assert not same.always_there
    other = scored(made, shown, decomposition(3, seed=5))["MapStability/all"]
    assert other.value < 0.9


def test_only_the_method_is_compared_with_what_it_was_before():
    made, shown = board(MapStability(), Gini(), baselines=("grad_cam",), chance=True), probe(3)
    for seed in (1, 2):
        found = scored(made, shown, decomposition(3, seed=seed))
    assert {key for key in found if key.startswith("MapStability")} == {"MapStability/all", "MapStability/correct"}
    assert "Gini/all/grad_cam" in found


def test_metrics_of_predictions_see_those_of_this_snapshot():
    made, shown = board(TargetSwitchRate()), probe(4)
    right = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
    turned = right.clone()
    turned[0] = right[0].flip(0)
    scored(made, shown, decomposition(4), right)
    assert scored(made, shown, decomposition(4), turned)["TargetSwitchRate/all"].value == pytest.approx(1 / 4)


def test_possible_keys_hold_every_score():
    made, shown = board(Gini(), PartCoverage(), chance=True, baselines=("grad_cam",)), probe(8)
    found = scored(made, shown, decomposition(8), alternating(8))
    made.fix_strata(made.table().names_by_id())
    found |= scored(made, shown, decomposition(8), alternating(8))
    assert set(found) <= made.possible_keys
    assert "Gini/gap" in found
    assert keys.score_key("Gini", "fixed_correct", "grad_cam") in found


def test_strata_that_cannot_be_are_refused_with_the_options():
    with pytest.raises(ValueError, match="Expected `strata` to be"):
        Scoring(strata="colour")
    with pytest.raises(ValueError, match="grad_camm"):
        Scoring(baselines=["grad_camm"])
    with pytest.raises(ValueError, match="different names"):
        Scoring([Gini(), Gini()])
    with pytest.raises(ValueError, match="`parts` for the metric 'part_coverage'"):
        Scoring([PartCoverage()]).metrics_for(Probe.from_tensors(torch.rand(1, 3, 4, 4), torch.tensor([0])))


def test_stability_since_an_image_was_first_right_goes_by_the_labels():
    # The first answer is class 0, which is right for the first and the third image alone.
    made, shown = board(MapStability("first_correct")), probe(3, labels=[0, 1, 0])
    scored(made, shown, decomposition(3))
    found = scored(made, shown, decomposition(3))["MapStability/all"]
    assert (found.value, found.n) == (pytest.approx(1.0, abs=1e-6), 3)
