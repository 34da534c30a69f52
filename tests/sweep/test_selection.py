import itertools
import random

import pytest
import torch

from lit_decom.functional.shares import share_intervals
from lit_decom.sweep.selection import choose, difference_interval, difference_of, pareto_front
from lit_decom.sweep.spec import Objective
from lit_decom.sweep.trial import Outcome, Reading

SCORE, ACC = Objective("score", "maximize"), Objective("acc", "maximize")
LOSS = Objective("loss", "minimize")


def reading(value, half=None, per_image=None):
    interval = None if half is None else (value - half, value + half)
    return Reading(value, value, 0, value, 0, interval, None if half is None else 10, per_image)


def trial(number, state="complete", **values):
    readings = {name: value if isinstance(value, Reading) else reading(value) for name, value in values.items()}
    return Outcome(number, state, {"x": number}, readings)


def test_the_front_is_what_no_other_trial_beats_in_everything():
    trials = [
        trial(0, score=1, loss=5),
        trial(1, score=2, loss=5),
        trial(2, score=3, loss=9),
        trial(3, score=0, loss=1),
    ]
    assert pareto_front(trials, [SCORE, LOSS]) == (1, 2, 3)
    assert pareto_front(trials, [SCORE]) == (2,)
    assert pareto_front([trial(4, score=1, loss=1), trial(7, score=1, loss=1)], [SCORE, LOSS]) == (4, 7)


def test_the_front_agrees_with_its_definition_on_random_trials():
    generator = random.Random(0)
    for _ in range(30):
        trials = [trial(n, score=generator.randint(0, 4), acc=generator.randint(0, 4)) for n in range(8)]
        points = {t.number: (t.readings["score"].value, t.readings["acc"].value) for t in trials}
        beaten = {
            a
            for a, b in itertools.permutations(points, 2)
            if points[b] != points[a] and points[b][0] >= points[a][0] and points[b][1] >= points[a][1]
        }
        assert set(pareto_front(trials, [SCORE, ACC])) == set(points) - beaten


def test_the_choice_is_the_best_score_within_eps_of_the_best_accuracy():
    trials = [trial(0, score=0.9, acc=0.50), trial(1, score=0.7, acc=0.90), trial(2, score=0.6, acc=0.91)]
    assert choose(trials, [SCORE, ACC], eps=0).chosen.number == 2
    assert choose(trials, [SCORE, ACC], eps=0.01).chosen.number == 1, "0.91 - 0.90 is 0.01 though not in floating point"
    assert choose(trials, [SCORE, ACC], eps=0.5).chosen.number == 0
    choice = choose(trials, [SCORE, ACC], eps=0.01)
    assert choice.within == {0: "no", 1: "yes", 2: "yes"}


def test_a_goal_to_minimize_turns_the_margin_round():
    trials = [trial(0, score=0.9, loss=1.2), trial(1, score=0.7, loss=1.05), trial(2, score=0.6, loss=1.0)]
    assert choose(trials, [SCORE, LOSS], eps=0.1).chosen.number == 1
    assert choose(trials, [LOSS, SCORE], eps=0.2).chosen.number == 1


def test_trials_that_did_not_end_are_never_chosen():
    trials = [trial(0, score=1), trial(1, state="pruned", score=9), trial(2, state="failed")]
    assert choose(trials, [SCORE], eps=0).chosen.number == 0
    with pytest.raises(ValueError, match="at least one complete trial"):
        choose(trials[1:], [SCORE], eps=0)
    with pytest.raises(ValueError, match="`eps`"):
        choose(trials, [SCORE], eps=-1)


def test_margins_without_a_common_trial_are_set_aside_and_that_shows():
    trials = [trial(0, score=1, acc=0.9, loss=9), trial(1, score=2, acc=0.1, loss=1)]
    choice = choose(trials, [SCORE, ACC, LOSS], eps=0.1)
    assert choice.chosen.number == 1
    assert set(choice.within.values()) == {"no"}


def test_ties_are_said_where_intervals_overlap_and_only_there():
    trials = [
        trial(0, score=reading(0.60, 0.05)),
        trial(1, score=reading(0.58, 0.05)),
        trial(2, score=reading(0.3, 0.05)),
    ]
    choice = choose(trials, [SCORE], eps=0)
    assert (choice.chosen.number, choice.tied, choice.unknown) == (0, (1,), ())


def test_without_intervals_only_equal_values_tie_and_the_rest_is_not_known():
    choice = choose([trial(0, score=0.6), trial(1, score=0.6), trial(2, score=0.5)], [SCORE], eps=0)
    assert (choice.chosen.number, choice.tied, choice.unknown) == (0, (1,), (2,))


def test_pairs_of_images_tell_apart_what_intervals_cannot():
    generator = random.Random(0)
    hard = [generator.random() for _ in range(40)]
    a = {f"image {i}": value * 0.9 + 0.1 for i, value in enumerate(hard)}
    b = {f"image {i}": value * 0.9 for i, value in enumerate(hard)}
    first = reading(sum(a.values()) / 40, 0.1, a)
    second = reading(sum(b.values()) / 40, 0.1, b)
    assert difference_of(first, second) == pytest.approx((0.1, 0.1), abs=1e-6)
    alone = difference_interval(first.value, first.interval, second.value, second.interval)
    assert alone[0] < 0 < alone[1]
    others = {f"other {i}": value for i, value in enumerate(b.values())}
    assert difference_of(first, reading(second.value, 0.1, others)) == alone, "other images are no pairs"
    skewed = reading(second.value + 0.05, 0.1, b)
    assert difference_of(first, skewed)[0] < 0, "a value that is not the mean of its images is not compared by them"


def test_it_is_said_where_the_margin_is_within_the_uncertainty():
    trials = [
        trial(0, score=0.9, acc=reading(0.80, 0.02)),
        trial(1, score=0.8, acc=reading(0.88, 0.02)),
        trial(2, score=0.7, acc=reading(0.895, 0.02)),
        trial(3, score=0.6, acc=reading(0.90, 0.02)),
    ]
    choice = choose(trials, [SCORE, ACC], eps=0.01)
    assert choice.within == {0: "no", 1: "unsure, no", 2: "unsure, yes", 3: "yes"}
    assert choice.chosen.number == 2


def test_the_difference_of_shares_agrees_with_published_values():
    # Newcombe 1998, Statistics in Medicine 17: 873-890, table II, method 10: 56/70 - 48/80
    shares = [(torch.arange(count) < wins).double() for wins, count in ((56, 70), (48, 80))]
    a, b = (tuple(share_intervals(share[:, None])[0].tolist()) for share in shares)
    assert difference_interval(56 / 70, a, 48 / 80, b) == pytest.approx((0.0524, 0.3339), abs=5e-5)
