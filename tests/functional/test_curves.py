import math

import pytest
import torch

from lit_decom.functional.curves import identity_series, mean_absolute_change, settled_since

NAN = float("nan")


def story():
    """One image with a swap, a death with a birth, and a NaN; a second image that misses the middle snapshot."""
    identities = torch.tensor([[[0, 1], [0, 1]], [[1, 0], [-1, -1]], [[1, 2], [1, 0]]])
    values = torch.tensor([[[10.0, 1.0], [5.0, 4.0]], [[2.0, 9.0], [NAN, NAN]], [[NAN, 8.0], [6.0, 1.0]]])
    return identities, values


def test_series_follow_identities_through_swaps_and_gaps():
    assert identity_series(*story(), steps=[0, 3, 6]) == {
        (0, 0): [(0, 10.0), (3, 9.0)],
        (0, 1): [(0, 1.0), (3, 2.0)],
        (0, 2): [(6, 8.0)],
        (1, 0): [(0, 5.0), (6, 1.0)],
        (1, 1): [(0, 4.0), (6, 6.0)],
    }


def test_change_by_identity_and_by_rank_on_paper():
    change = mean_absolute_change(*story())
    # First to second snapshot: ranks 10 -> 2 and 1 -> 9, identities 10 -> 9 and 1 -> 2. Second to third: identity 2 is
    # born at the rank where 9 was, identity 1 becomes NaN. The second image is never seen twice in a row.
    assert change.by_identity == 1.0
    assert change.by_rank == 8.0
    assert change.pairs == 2
    assert math.isclose(change.by_rank_all, (8 + 8 + 1) / 3, rel_tol=1e-6)
    assert change.rank_pairs == 3


def test_change_over_ranks_that_do_not_move_is_the_same_both_ways():
    generator = torch.Generator().manual_seed(0)
    identities = torch.arange(5).expand(7, 3, 5)
    change = mean_absolute_change(identities, torch.randn(7, 3, 5, generator=generator))
    assert change.by_identity == change.by_rank == change.by_rank_all
    assert change.pairs == change.rank_pairs == 6 * 3 * 5


def test_change_agrees_with_a_slow_walk_over_dictionaries():
    generator = torch.Generator().manual_seed(1)
    identities = torch.stack(
        [torch.stack([torch.randperm(6, generator=generator)[:4] for _ in range(3)]) for _ in range(5)]
    )
    identities[torch.rand(identities.shape, generator=generator) < 0.2] = -1
    values = torch.randn(identities.shape, generator=generator)
    by_identity, by_rank, everything = [], [], []
    for t in range(1, 5):
        for image in range(3):
            last = dict(zip(identities[t - 1, image].tolist(), values[t - 1, image].tolist(), strict=True))
            for rank in range(4):
                identity, value = int(identities[t, image, rank]), float(values[t, image, rank])
                if identity < 0 or identities[t - 1, image, rank] < 0:
                    continue
                everything.append(abs(value - float(values[t - 1, image, rank])))
                if identity in last:
                    by_identity.append(abs(value - last[identity]))
                    by_rank.append(everything[-1])
    change = mean_absolute_change(identities, values)
    assert change.pairs == len(by_identity) > 5
    # differences of float32 values of order one
    assert math.isclose(change.by_identity, sum(by_identity) / len(by_identity), rel_tol=1e-5)
    assert math.isclose(change.by_rank, sum(by_rank) / len(by_rank), rel_tol=1e-5)
    assert math.isclose(change.by_rank_all, sum(everything) / len(everything), rel_tol=1e-5)


def test_one_snapshot_has_no_change():
    change = mean_absolute_change(torch.zeros(1, 2, 3, dtype=torch.long), torch.zeros(1, 2, 3))
    assert math.isnan(change.by_identity)
    assert math.isnan(change.by_rank_all)
    assert change.pairs == change.rank_pairs == 0


@pytest.mark.parametrize(
    ("drift", "expected"),
    [
        ([NAN, 0.05, 0.05, 0.05], 10),
        ([NAN, 0.5, 0.05, 0.1], 20),
        ([NAN, 0.05, 0.5, 0.05], 30),
        ([NAN, 0.05, 0.05, 0.11], None),
    ],
)
def test_settled_since_the_last_large_drift(drift, expected):
    identities = torch.zeros(4, 1, 1, dtype=torch.long)
    assert settled_since(identities, torch.tensor(drift)[:, None], steps=[10, 20, 30, 40]) == [expected]


def test_settling_counts_sightings_only():
    identities = torch.tensor([[[-1], [0], [-1]], [[0], [-1], [0]], [[-1], [0], [-1]], [[0], [-1], [-1]]])
    drift = torch.tensor([[NAN, NAN, NAN], [NAN, NAN, NAN], [NAN, 0.0, NAN], [0.0, NAN, NAN]])
    assert settled_since(identities, drift, steps=[1, 2, 3, 4]) == [2, 1, None]


def test_shapes_and_steps_that_do_not_fit_are_refused():
    identities, values = story()
    with pytest.raises(ValueError, match=r"got \(3, 2, 2\) and \(3, 2, 1\)"):
        identity_series(identities, values[..., :1], steps=[0, 1, 2])
    with pytest.raises(ValueError, match="`steps` to hold 3 steps, but got 2"):
        identity_series(identities, values, steps=[0, 1])
    with pytest.raises(ValueError, match="`steps` to hold 3 steps, but got 2"):
        settled_since(identities, values[..., 0], steps=[0, 1])
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(2, 2\)"):
        settled_since(identities, values[:2, :, 0], steps=[0, 1, 2])
