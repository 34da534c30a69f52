"""Every experiment's quick version runs and leaves its tables and figure; its answers follow from what it measured."""

import csv
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from experiments.checkpoint_selection import run as checkpoint_selection
from experiments.common import FEWEST, mean_interval, read_csv
from experiments.method_comparison import run as method_comparison
from experiments.shortcut import run as shortcut
from experiments.stratified_protocol import run as stratified_protocol
from experiments.text_targets import run as text_targets

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/run.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_quick_version_leaves_its_results(name, tmp_path):
    words = [sys.executable, "-m", f"experiments.{name}.run", "--quick", "--output", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, timeout=600)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (ROOT / "experiments" / name / "results.csv").open() as file:
        committed = list(csv.DictReader(file))
    assert rows
    assert rows[0].keys() == committed[0].keys(), "the committed results come from this program"
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_readme_names_its_command(name):
    text = (ROOT / "experiments" / name / "README.md").read_text()
    assert f"python -m experiments.{name}.run" in text


def measured(experiment, table="results"):
    return read_csv(ROOT / "experiments" / experiment / f"{table}.csv")


def assert_equal_tables(found, committed):
    """Equal up to the five digits on disk, and what other sums make of them."""
    assert len(found) == len(committed)
    for row, expected in zip(found, committed, strict=True):
        assert row.keys() == expected.keys()
        for key, value in expected.items():
            known = pytest.approx(value, rel=1e-3, abs=1e-4, nan_ok=True) if isinstance(value, float) else value
            assert row[key] == known, (key, row)


class TestTheCommittedAnswersFollowFromTheCommittedMeasurements:
    def test_of_text_targets(self):
        assert_equal_tables(text_targets.results(measured("text_targets", "images")), measured("text_targets"))

    def test_of_method_comparison(self):
        found = method_comparison.answers(measured("method_comparison"))
        assert_equal_tables(found, measured("method_comparison", "answer"))
        for row in found:
            assert row["networks"] == row["decom_cam_better"] + row["decom_cam_worse"] + row["undecided"]

    def test_of_checkpoint_selection(self):
        rows = measured("checkpoint_selection")
        runs = [[row for row in rows if row["seed"] == seed] for seed in sorted({row["seed"] for row in rows})]
        assert_equal_tables(checkpoint_selection.answers(runs, eps=0.02), measured("checkpoint_selection", "answer"))

    @pytest.mark.slow
    def test_of_shortcut(self):
        found = shortcut.answers(measured("shortcut"), n_resamples=10_000)
        assert_equal_tables(found, measured("shortcut", "answer"))

    @pytest.mark.slow
    def test_of_the_stratified_protocol(self):
        images = measured("stratified_protocol", "images")
        methods = ["decom_cam", "grad_cam", "grad_cam_pp", "layer_cam", "eigen_cam"]
        assert_equal_tables(stratified_protocol.table(images, methods), measured("stratified_protocol"))
        assert_equal_tables(stratified_protocol.firsts(images, methods), measured("stratified_protocol", "answer"))


class TestTextTargets:
    def test_relatives_and_strangers_are_not_in_the_image(self):
        kinds = torch.tensor([pair for pair in product(range(8), repeat=2) if pair[0] != pair[1]])
        asked = text_targets.asked_kinds(kinds)
        common = text_targets.IN_COMMON
        assert torch.equal(asked["named"], kinds)
        for name in ("relative", "stranger"):
            assert not (asked[name][:, :, None] == kinds[:, None, :]).any()
        assert (asked["stranger"][:, 0] != asked["stranger"][:, 1]).all()
        assert (common[asked["relative"], kinds] == 2).all()
        # As much nearer to the one animal than to the other as the named kind is, but where all parts differ.
        nearer = common[asked["relative"], kinds] - common[asked["relative"], kinds.flip(1)]
        of_named = (3 - common[kinds[:, 0], kinds[:, 1]])[:, None].expand(-1, 2)
        assert torch.equal(nearer, torch.where(of_named == 3, 1, of_named))

    def test_maps_that_do_not_depend_on_the_prompt_have_exactly_half(self):
        generator = torch.Generator().manual_seed(0)
        masks = torch.zeros(4, 2, 8, 8, dtype=torch.bool)
        masks[:, 0, 2:5, :3], masks[:, 1, 1:7, 4:] = True, True
        pairs = text_targets.Pairs(torch.zeros(4, 3, 8, 8), torch.zeros(4, 2, dtype=torch.long), masks, None)
        maps = torch.rand(4, 8, 8, generator=generator)
        shares = text_targets.shares_of(pairs, [maps, maps])
        torch.testing.assert_close(shares["named"], torch.full((4,), 0.5))
        assert (shares["named_left"] - 0.5).abs().min() > 0.01


class TestShortcut:
    def test_rank_correlations_are_those_of_scipy_along_any_axis(self):
        rng = np.random.default_rng(0)
        a, b = rng.integers(6, size=(2, 5, 20)).astype(float)  # with ties
        expected = [spearmanr(first, second).statistic for first, second in zip(a, b, strict=True)]
        np.testing.assert_allclose(shortcut.spearman(a, b), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(shortcut.spearman(a.T, b.T, axis=0), expected, rtol=0, atol=1e-12)
        assert shortcut.spearman(np.ones(20), a[0]) == 0

    def test_a_partial_correlation_is_that_of_what_a_line_through_the_ranks_leaves(self):
        a, b, *given = np.random.default_rng(1).normal(size=(4, 25)) + np.arange(25) / 6
        for known in (given[:1], given):
            line = np.stack([np.ones(25), *(rankdata(values) for values in known)], axis=1)
            left = [ranks - line @ np.linalg.lstsq(line, ranks)[0] for ranks in (rankdata(a), rankdata(b))]
            assert shortcut.partial(a, b, *known) == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-12)
        assert np.isnan(shortcut.partial(a, b, b))


class TestStratifiedProtocol:
    METHODS = ("decom_cam", "grad_cam", "eigen_cam")

    @staticmethod
    def images(n, better, spread=0.05):
        """Images of one bin on which DecomCAM is better than one other method, and as good as the third."""
        rng = np.random.default_rng(0)
        rows = []
        for image in range(n):
            base, noise = rng.normal(0.5, 0.3), rng.normal(0, spread, size=3)
            insertion = base + noise + [better, 0, 0]
            rows.append(
                {"network": "a", "image": image, "class": "piko", "bin": "0.5_0.6"}
                | {
                    f"insertion_{method}": value
                    for method, value in zip(TestStratifiedProtocol.METHODS, insertion, strict=True)
                }
                | {f"deletion_{method}": base / 2 for method in TestStratifiedProtocol.METHODS}
            )
        return rows

    def first(self, images):
        (of_bin, everywhere) = stratified_protocol.firsts(images, list(self.METHODS))
        assert everywhere["bin"] == "every_bin"
        return of_bin["first"]

    def test_a_method_is_first_only_if_it_beats_every_other_beyond_doubt(self):
        assert self.first(self.images(40, better=0.1)) == "decom_cam"
        assert self.first(self.images(40, better=-0.1)) == "none"  # the two others tie
        assert self.first(self.images(40, better=0.005)) == "none"
        assert self.first(self.images(FEWEST - 1, better=0.1)) == "too few"

    def test_differences_are_paired_image_by_image(self):
        rows = stratified_protocol.table(self.images(40, better=0.1), list(self.METHODS))
        (row,) = (
            row for row in rows if (row["bin"], row["metric"], row["method"]) == ("0.5_0.6", "overall", "grad_cam")
        )
        # images spread by 0.3, differences by 0.07
        assert row["value_high"] - row["value_low"] > 0.07
        assert row["more_by_high"] - row["more_by_low"] < 0.06
        assert row["more_by_low"] < row["decom_cam_more_by"] < row["more_by_high"]
        assert row["decom_cam_more_by"] == pytest.approx(0.1, abs=0.03)

    def test_wrong_answers_are_in_no_bin(self):
        images = self.images(12, better=0.1)
        wrong = [row | {"bin": "answered_wrong", "insertion_decom_cam": -9.0} for row in images]
        assert_equal_tables(
            stratified_protocol.table(images + wrong, list(self.METHODS)),
            stratified_protocol.table(images, list(self.METHODS)),
        )

    def test_bins_are_tenths_and_their_lower_edge_is_inside(self):
        found = [stratified_protocol.bin_of(accuracy) for accuracy in (0.0, 0.099, 0.1, 0.3, 0.7, 0.99, 1.0)]
        assert found == ["0.0_0.1", "0.0_0.1", "0.1_0.2", "0.3_0.4", "0.7_0.8", "0.9_1.0", "0.9_1.0"]


def test_too_few_are_given_no_interval():
    assert np.isnan(mean_interval(np.arange(FEWEST - 1.0))).all()
    low, high = mean_interval(np.array([*np.arange(float(FEWEST)), np.nan]))
    assert low < 4.5 < high
