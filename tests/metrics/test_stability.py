import copy
import pickle
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F
from torchmetrics import MetricCollection

from lit_decom.functional.stability import map_similarity
from lit_decom.metrics import MapHistory, MapStability, SettledAt, TargetSwitchRate
from tests.helpers.evidence import SharedHistory
from tests.helpers.metric_tester import assert_two_processes_equal_one, check_metric

THRESHOLDS = (0.0, 0.7, 0.75, 0.9)
IDS = ["a", "b", "c", "d", "e"]
CORRECT, WRONG = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]])


def drawn_maps(seed, size=(6, 5)):
    return torch.rand(5, *size, generator=torch.Generator().manual_seed(seed))


def drawn_logits(seed):
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def inputs():
    history = SharedHistory(thresholds=THRESHOLDS)
    for epoch in range(3):
        history.observe(epoch, drawn_maps(epoch), IDS, drawn_logits(epoch), torch.zeros(5, dtype=torch.long))
    return {"maps": drawn_maps(9), "ids": IDS, "logits": drawn_logits(9), "history": history}


def chosen(inputs, *names):
    return {name: inputs[name] for name in (*names, "ids", "history")}


@pytest.mark.parametrize("reference", ["previous", "first_correct"])
def test_map_stability_keeps_the_contract(inputs, reference):
    metric = MapStability(reference)
    expected = check_metric(metric, chosen(inputs, "maps"))
    assert 0.5 < expected.item() < 1
    assert_two_processes_equal_one(metric, chosen(inputs, "maps"), expected)


def test_the_switch_rate_keeps_the_contract(inputs):
    assert 0 < check_metric(TargetSwitchRate(), chosen(inputs, "logits")).item() < 1


def test_settling_keeps_the_contract(inputs):
    assert 0 <= check_metric(SettledAt(threshold=0.7), chosen(inputs, "maps")).item() <= 2


@pytest.mark.parametrize("similarity", ["cosine", "pearson", "spearman"])
def test_maps_are_compared_with_the_snapshot_before(inputs, similarity):
    metric = MapStability(similarity=similarity)
    metric.update(**chosen(inputs, "maps"))
    torch.testing.assert_close(metric.values, map_similarity(inputs["maps"], drawn_maps(2), similarity))


def test_the_first_correct_map_is_kept_per_image():
    history, metric = MapHistory(), MapStability("first_correct")
    first, second, third = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]], [[[3.0, 4.0]]]])
    label = torch.tensor([0])
    for epoch, (shown, logits) in enumerate([(first, WRONG), (second, CORRECT), (first, CORRECT), (first, WRONG)]):
        history.observe(epoch, shown, ["a"], logits, label)
    history.observe(3, third, ["never right"], WRONG, label)
    metric.update(torch.cat([third, third]), ["a", "never right"], history)
    assert metric.values[0].item() == pytest.approx(0.8)
    assert metric.values[1].isnan()
    assert metric.n_undefined == 1


def test_a_blank_map_is_no_first_correct_one():
    history = MapHistory()
    label, shown = torch.tensor([0]), torch.tensor([[[3.0, 4.0]]])
    history.observe(0, torch.zeros(1, 1, 2), ["a"], CORRECT, label)
    history.observe(1, shown, ["a"], CORRECT, label)
    assert history.compare(shown, ["a"], "first_correct").item() == pytest.approx(1)


def test_without_labels_no_map_is_the_first_correct_one():
    history = MapHistory()
    history.observe(0, torch.eye(2)[None], ["a"], CORRECT)
    assert history.compare(torch.eye(2)[None], ["a"], "first_correct").isnan().all()


def test_images_are_matched_by_id_not_by_place(inputs):
    order = [3, 0, 4, 1, 2]
    forth, shuffled = MapStability(), MapStability()
    forth.update(**chosen(inputs, "maps"))
    shuffled.update(inputs["maps"][order], [IDS[i] for i in order], inputs["history"])
    assert torch.equal(shuffled.values, forth.values[order])


def test_an_image_seen_for_the_first_time_is_undefined_and_counted(inputs):
    ids = ["a", "new", "c", "d", "newer"]
    for metric, known in ((MapStability(), "maps"), (TargetSwitchRate(), "logits"), (SettledAt(threshold=0.0), "maps")):
        metric.update(**(chosen(inputs, known) | {"ids": ids}))
        assert metric.values.isnan().tolist() == [False, True, False, False, True]
        assert metric.n_undefined == 2


def test_broken_maps_are_undefined_and_spoil_no_other(inputs):
    clean = inputs["history"].compare(inputs["maps"], IDS)
    inputs["maps"][1, 0, 0], inputs["maps"][3] = torch.nan, 0.0
    values = inputs["history"].compare(inputs["maps"], IDS)
    assert values.isnan().tolist() == [False, True, False, True, False]
    assert torch.equal(values[[0, 2, 4]], clean[[0, 2, 4]])
    # The next snapshot has nothing to compare these two with.
    inputs["history"].observe(3, inputs["maps"], IDS, inputs["logits"])
    assert inputs["history"].compare(drawn_maps(0), IDS).isnan().tolist() == [False, True, False, True, False]


def test_the_switch_rate_counts_changed_predictions():
    history, metric = MapHistory(), TargetSwitchRate()
    maps = drawn_maps(0)[:4]
    history.observe(0, maps, IDS[:4], torch.cat([CORRECT, CORRECT, WRONG, CORRECT]))
    now = torch.cat([CORRECT, WRONG, CORRECT, torch.full((1, 2), torch.nan)])
    metric.update(now, IDS[:4], history)
    assert metric.values[:3].tolist() == [0, 1, 1]
    assert metric.values[3].isnan()
    assert metric.compute().item() == pytest.approx(2 / 3)


LEFT, RIGHT = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
BROKEN = torch.full((1, 1, 2), torch.nan)


@pytest.mark.parametrize(
    ("shown", "now", "expected"),
    [
        ([LEFT], LEFT, 0),
        ([LEFT, LEFT, LEFT], LEFT, 0),
        ([LEFT, RIGHT, RIGHT], RIGHT, 10),
        ([LEFT, LEFT, RIGHT], RIGHT, 20),
        ([LEFT, LEFT, LEFT], RIGHT, None),
        ([LEFT, BROKEN, LEFT], LEFT, 20),
        ([LEFT, LEFT, LEFT], BROKEN, None),
        ([], LEFT, None),
    ],
)
def test_settling_is_the_start_of_the_unbroken_series_of_similar_maps(shown, now, expected):
    history, metric = MapHistory(), SettledAt(threshold=0.9)
    for snapshot, one in enumerate(shown):
        history.observe(10 * snapshot, one, ["a"], CORRECT)
    metric.update(now, ["a"], history)
    (value,) = metric.values.tolist()
    assert metric.n_undefined == (expected is None)
    assert expected is None or value == expected


def test_the_threshold_of_settling_is_reached_by_equality():
    before, now = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0, 4.0]]])
    similarity = map_similarity(now, before).item()
    history = MapHistory(thresholds=[similarity, similarity + 1e-6])
    history.observe(5, before, ["a"], CORRECT)
    assert history.settled_since(now, ["a"], similarity).item() == 5
    assert history.settled_since(now, ["a"], similarity + 1e-6).isnan().all()


def test_settling_is_what_the_similarities_of_all_snapshots_say():
    thresholds, ids, generator = (0.8, 0.9, 0.95), ["a", "b", "c"], torch.Generator().manual_seed(0)
    history, shown = MapHistory(thresholds=thresholds), []
    for epoch in range(40):
        # Maps that change ever less, with a jump now and then.
        step = 3.0 if torch.rand((), generator=generator) < 0.1 else 2.0 / (1 + epoch)
        last = shown[-1] if shown else torch.ones(3, 4, 4)
        shown.append((last + step * torch.randn(3, 4, 4, generator=generator)).abs())
        for threshold in thresholds:
            found = history.settled_since(shown[-1], ids, threshold)
            torch.testing.assert_close(found, series_begins(shown, threshold), equal_nan=True)
        history.observe(epoch, shown[-1], ids, CORRECT.expand(3, -1))


def series_begins(shown, threshold):
    """First map of the longest series up to the last one in which each is like the one before."""
    like = torch.stack([torch.full((3,), torch.nan), *(map_similarity(b, a) for a, b in pairwise(shown))]) >= threshold
    begins = [min((t for t in range(len(like) - 1) if column[t + 1 :].all()), default=torch.nan) for column in like.T]
    return torch.tensor(begins)


def test_the_state_is_as_large_after_many_snapshots_as_after_three(inputs):
    def size(history):
        return sum(
            value.numel() if torch.is_tensor(value) else len(str(value)) for value in history.state_dict().values()
        )

    before = size(inputs["history"])
    for epoch in range(3, 60):
        # Similar to the ones before, so that every image has settled long ago.
        inputs["history"].observe(epoch, drawn_maps(0), IDS, drawn_logits(0), torch.zeros(5, dtype=torch.long))
    assert size(inputs["history"]) == before


def test_settling_is_known_for_the_thresholds_that_are_followed(inputs):
    with pytest.raises(ValueError, match=r"`threshold` to be one of \(0.0, 0.7, 0.75, 0.9\), but got 0.5"):
        inputs["history"].settled_since(inputs["maps"], IDS, 0.5)
    other = MapHistory(thresholds=[0.5])
    other.load_state_dict(inputs["history"].state_dict())
    now = drawn_maps(2)
    assert other.settled_since(now, IDS, 0.5).tolist() == [2.0] * 5, "since the last maps that it took over"


def test_settling_refuses_a_history_that_compares_in_another_way(inputs):
    with pytest.raises(ValueError, match="`history` to have similarity 'pearson'"):
        SettledAt(similarity="pearson").update(**chosen(inputs, "maps"))


def test_metrics_only_read_the_history_and_reset_leaves_it_alone(inputs):
    before = copy.deepcopy(inputs["history"])
    collection = MetricCollection([MapStability(), TargetSwitchRate(), SettledAt()])
    collection.update(**inputs, masks=None)
    assert set(collection.compute()) == {"MapStability", "TargetSwitchRate", "SettledAt"}
    collection.reset()
    after = inputs["history"].state_dict()
    for name, value in before.state_dict().items():
        if torch.is_tensor(value):
            torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True)
        else:
            assert after[name] == value
    collection.update(**inputs)
    assert not collection.compute()["MapStability"].isnan()


def test_large_maps_are_averaged_down_before_any_comparison():
    history = MapHistory(max_size=4)
    before, now = drawn_maps(0, (16, 8)), drawn_maps(1, (16, 8))
    history.observe(0, before, IDS, drawn_logits(0))
    expected = map_similarity(*(F.avg_pool2d(maps, 4) for maps in (now, before)))
    torch.testing.assert_close(history.compare(now, IDS), expected)
    assert history.state_dict()["previous"].shape == (5, 4, 2)
    whole = MapHistory(max_size=None)
    whole.observe(0, before, IDS, drawn_logits(0))
    torch.testing.assert_close(whole.compare(now, IDS), map_similarity(now, before))


def test_half_precision_and_inference_tensors_are_remembered_as_plain_ones():
    history = MapHistory()
    with torch.inference_mode():
        maps = drawn_maps(0).half().clone()
        history.observe(0, maps, IDS, drawn_logits(0))
    state = history.state_dict()
    assert state["previous"].dtype == torch.float32
    assert not state["previous"].is_inference()
    assert not history._maps["previous"]["a"].is_inference()
    # a cosine moves by the square of what float16 rounds off, 5e-4
    assert history.compare(drawn_maps(0), IDS).min().item() == pytest.approx(1, abs=1e-5)


def test_remembered_maps_are_copies():
    history, maps = MapHistory(max_size=None), drawn_maps(0)
    history.observe(0, maps, IDS, drawn_logits(0))
    maps.zero_()
    assert history.compare(drawn_maps(0), IDS).min().item() == pytest.approx(1)
    # One image's map does not keep its whole batch alive.
    assert history._maps["previous"]["a"].untyped_storage().nbytes() == 4 * 6 * 5


def same_answers(history, other, inputs):
    for answer in (
        lambda one: one.compare(inputs["maps"], IDS),
        lambda one: one.compare(inputs["maps"], IDS, "first_correct"),
        lambda one: one.switched(inputs["logits"], IDS),
        lambda one: one.settled_since(inputs["maps"], IDS, 0.75),
    ):
        torch.testing.assert_close(answer(history), answer(other), rtol=0, atol=0, equal_nan=True)


def test_a_resumed_history_gives_the_same_answers_and_continues_alike(inputs, tmp_path):
    history, resumed = inputs["history"], MapHistory(thresholds=THRESHOLDS)
    torch.save(history.state_dict(), tmp_path / "state.pt")
    resumed.observe(7, drawn_maps(7), ["forgotten", *IDS[1:]], drawn_logits(7))
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert len(resumed) == 5
    same_answers(history, resumed, inputs)
    for one in (history, resumed):
        one.observe(3, drawn_maps(3), IDS, drawn_logits(3), torch.zeros(5, dtype=torch.long))
    same_answers(history, resumed, inputs)


def test_histories_of_two_processes_merge_into_that_of_one(inputs):
    merged = MapHistory(thresholds=THRESHOLDS)
    for part in (slice(0, 2), slice(2, None)):
        share = MapHistory(thresholds=THRESHOLDS)
        for epoch in range(3):
            labels = torch.zeros(5, dtype=torch.long)[part]
            share.observe(epoch, drawn_maps(epoch)[part], IDS[part], drawn_logits(epoch)[part], labels)
        merged.merge(share.state_dict())
    same_answers(merged, inputs["history"], inputs)


def test_an_empty_history_has_a_state_too(tmp_path):
    history = MapHistory()
    torch.save(history.state_dict(), tmp_path / "state.pt")
    history.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert len(history) == 0


def test_a_state_made_under_other_settings_is_refused(inputs):
    with pytest.raises(ValueError, match=r"state of MapHistory\(similarity='cosine', max_size=8\), but got"):
        MapHistory(max_size=8).load_state_dict(inputs["history"].state_dict())


def test_histories_can_be_copied_and_pickled(inputs):
    for other in (copy.deepcopy(inputs["history"]), pickle.loads(pickle.dumps(inputs["history"]))):
        same_answers(inputs["history"], other, inputs)
        other.clear()
        assert len(other) == 0
    assert len(inputs["history"]) == 5


def test_wrong_inputs_are_refused(inputs):
    history, maps = inputs["history"], inputs["maps"]
    with pytest.raises(ValueError, match="`ids` to be 5 different ids, but got 5, 4 different"):
        history.compare(maps, ["a", "a", "b", "c", "d"])
    with pytest.raises(ValueError, match="`ids`"):
        history.observe(3, maps, IDS[:4], inputs["logits"])
    with pytest.raises(ValueError, match="one shape"):
        history.compare(maps[:, 1:], IDS)
    with pytest.raises(ValueError, match="`reference` to be one of 'previous', 'first_correct'"):
        MapStability("last")
    with pytest.raises(ValueError, match="`similarity`"):
        MapStability(similarity="hog")
    with pytest.raises(ValueError, match="`similarity`"):
        SettledAt(similarity="hog")
    with pytest.raises(ValueError, match="`max_size` to be at least 1, but got 0"):
        MapHistory(max_size=0)


def test_no_direction_is_claimed_and_conventions_show():
    metrics = [MapStability("first_correct", "pearson"), TargetSwitchRate(), SettledAt(0.8)]
    assert [metric.higher_is_better for metric in metrics] == [None, None, None]
    assert [repr(metric) for metric in metrics] == [
        "MapStability(reference='first_correct', similarity='pearson')",
        "TargetSwitchRate()",
        "SettledAt(threshold=0.8, similarity='cosine')",
    ]
    assert metrics[0].plot_lower_bound == -1.0
    assert MapStability().plot_lower_bound == 0.0
    assert metrics[2].plot_upper_bound is None
