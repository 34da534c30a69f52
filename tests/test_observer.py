"""The observer's promises: records that do not depend on shards or batches, memory over snapshots, resuming."""

import pytest
import torch
from torch.testing import assert_close

from lit_decom import Components, DecomCAM, Explainer, Probe
from lit_decom.components import SharedComponents
from lit_decom.explainer import Explanations
from lit_decom.observer import Observer
from lit_decom.process import Process, Stopwatch
from lit_decom.scoring import Scoring
from tests.helpers.networks import SmallCNN, seeded


def probe(n=6):
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(n, 16, 16, dtype=torch.bool)
    masks[:, 4:10, 4:10] = True
    return Probe.from_tensors(torch.randn(n, 3, 16, 16, generator=generator), torch.arange(n) % 3, masks=masks)


def network(seed=0):
    return seeded(SmallCNN(), seed)


METHOD = DecomCAM(n_components=3)


def new_observer(batch_size=16, **options):
    made = Observer(Explainer(METHOD, batch_size=batch_size), components=Components(2, **options))
    if isinstance(made.shared, SharedComponents):
        made.shared.n_scored = 2
    return made


@pytest.fixture(params=["decision_factors", "svd"])
def shared(request):
    """Which components the probe shares."""
    return request.param


def observer(model, images, **settings):
    made = new_observer(**settings)
    made.prepare(model, images)
    return made


def numbers(record):
    return {name: value for name, value in record.numbers.items() if not name.startswith("seconds/")}


def test_what_scores_remember_outlives_a_second_preparation():
    """As of a Trainer whose `fit` is called once more."""

    def second(*, again):
        watched = Observer(Explainer(METHOD), Scoring("default"), Components(0))
        watched.prepare(network(), probe())
        watched.observe(network(), epoch=0, step=1)
        if again:
            watched.prepare(network(1), probe())
        return watched.observe(network(1), epoch=1, step=2)

    expected = numbers(second(again=False))
    assert "map_stability/all" in expected
    assert numbers(second(again=True)) == expected


def test_two_processes_find_what_one_finds():
    model, images = network(), probe()
    alone = observer(model, images).observe(model, epoch=0, step=1)
    parts = []
    for rank in range(2):
        share = images.shard(rank, 2)
        watched = observer(model, share)
        parts.append(watched._explain_share(model, 0, Process(), lambda _n: None, Stopwatch()).explanations)
    joined = Explanations.interleaved(parts)
    assert_close(joined.decomposition.score_gains, alone.decomposition.score_gains, rtol=1e-4, atol=1e-5)
    assert torch.equal(joined.targets, alone.targets)


def test_numbers_do_not_depend_on_the_batch_size(shared):
    model, images = network(), probe()
    whole = observer(model, images, batch_size=6, shared=shared).observe(model, epoch=0, step=1)
    pieces = observer(model, images, batch_size=2, shared=shared).observe(model, epoch=0, step=1)
    assert numbers(whole).keys() == numbers(pieces).keys()
    for name, value in numbers(whole).items():
        if not name.startswith("shared_gain"):  # scored on the first piece alone
            assert abs(value - numbers(pieces)[name]) < 1e-4, name


def test_the_same_network_twice_has_no_births_deaths_flips_or_drift():
    model, images = network(), probe()
    watched = observer(model, images)
    watched.observe(model, epoch=0, step=1)
    again = watched.observe(model, epoch=1, step=2)
    for name in ("births", "deaths", "flips", "swaps"):
        assert again.numbers[name] == 0
    assert abs(again.numbers["drift"]) < 1e-5
    assert abs(again.numbers["map_stability/all"] - 1) < 1e-5
    assert again.numbers["target_switch_rate/all"] == 0


def test_a_resumed_observer_goes_on_as_the_first_would_have(shared):
    images = probe()
    whole, first = (observer(network(0), images, shared=shared) for _ in range(2))
    for watched in (whole, first):
        watched.observe(network(0), epoch=0, step=1)
        watched.observe(network(1), epoch=1, step=2)
    resumed = new_observer(shared=shared)
    resumed.load_state_dict(first.state_dict())
    resumed.prepare(network(2), images)
    expected, found = (watched.observe(network(2), epoch=2, step=3) for watched in (whole, resumed))
    assert torch.equal(expected.identities, found.identities)
    name = "factor_identities" if shared == "decision_factors" else "shared_identities"
    assert torch.equal(getattr(expected, name), getattr(found, name))
    assert numbers(expected) == numbers(found)


def test_fixed_strata_keep_their_images():
    images, watched = probe(), observer(network(0), probe())
    first = watched.observe(network(0), epoch=0, step=1)
    second = watched.observe(network(5), epoch=1, step=2)
    for name in ("fixed_correct", "fixed_incorrect"):
        if f"gini/{name}" in first.numbers:
            assert second.numbers[f"count/{name}"] == first.numbers[f"count/{name}"]
    moving = (second.logits.argmax(dim=1) == images.labels).sum()
    assert second.numbers.get("count/correct", 0.0) == float(moving)


def test_frozen_shared_components_keep_their_directions():
    images, model = probe(), network(0)
    frozen = observer(model, images, shared="svd", freeze_shared=True)
    before = frozen.observe(model, epoch=0, step=1)
    after = frozen.observe(network(3), epoch=1, step=2)
    assert torch.equal(before.shared_identities, after.shared_identities)
    assert after.shared_energy.sum() < before.shared_energy.sum(), "what drifts away is not explained"
