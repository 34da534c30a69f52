import io
import math

import pytest
import torch

from lit_decom.components import ComponentTracker, Tracked, summarize
from lit_decom.functional.shared_basis import basis_from_maps

POOL = 9
TENSORS = (
    "seen", "first", "identities", "births", "deaths", "flips", "swaps", "similarity", "confidence", "drift",
)  # fmt: skip


def orthonormal(k, dim, generator):
    return torch.linalg.qr(torch.randn(dim, k, generator=generator)).Q.T


class World:
    """Images with a pool of orthonormal components; a snapshot shows some of them, in any order and with any sign."""

    def __init__(self, seed, n_images=3, k=5, wobble=0.03):
        self.generator = torch.Generator().manual_seed(seed)
        self.patterns = [orthonormal(POOL, 25, self.generator) for _ in range(n_images)]
        self.loadings = [orthonormal(POOL, 20, self.generator) for _ in range(n_images)]
        self.ids = tuple(f"image-{i}" for i in range(n_images))
        self.k, self.wobble = k, wobble

    def snapshot(self, shown=None):
        """Draw a snapshot: (arguments of update, shown (B, K) index in the pool or -1, signs (B, K))."""
        n, k, generator = len(self.ids), self.k, self.generator
        if shown is None:
            shown = torch.stack([torch.randperm(POOL, generator=generator)[:k] for _ in range(n)])
            shown[torch.rand(n, k, generator=generator) < 0.15] = -1
            shown[:, 0] = torch.where((shown < 0).all(1), 0, shown[:, 0])
        signs = torch.where(torch.rand(n, k, generator=generator) < 0.5, -1.0, 1.0)
        values = torch.rand(n, k, generator=generator).add(0.5).sort(dim=1, descending=True).values
        patterns = torch.stack([self.patterns[i][shown[i]] for i in range(n)]) * signs[..., None]
        loadings = torch.stack([self.loadings[i][shown[i]] for i in range(n)]) * signs[..., None]
        patterns = patterns + self.wobble * torch.randn(patterns.shape, generator=generator)
        channels = torch.stack([torch.randperm(20, generator=generator) for _ in range(n)])
        loadings = loadings.gather(2, channels[:, None].expand(-1, k, -1)).mT
        arguments = {
            "patterns": (patterns * values[..., None]).reshape(n, k, 5, 5),
            "singular_values": values,
            "loadings": loadings,
            "channels": channels,
            "valid": shown >= 0,
            "ids": self.ids,
        }
        return arguments, shown, signs


class Ledger:
    """What the tracker should say, kept by someone who knows which component is which."""

    def __init__(self, patience):
        self.patience, self.alive, self.next = patience, {}, {}

    def read(self, name, shown, signs):
        """Return identities, births, deaths, flips and swaps of one image."""
        alive = self.alive.setdefault(name, {})
        identities, births, flips, swaps = [], [], [], []
        present = [member for member in shown.tolist() if member >= 0]
        for member, entry in alive.items():
            entry["missed"] += member not in present
        dead = [member for member, entry in alive.items() if entry["missed"] > self.patience]
        deaths = {alive.pop(member)["identity"] for member in dead}
        for rank, (member, sign) in enumerate(zip(shown.tolist(), signs.tolist(), strict=True)):
            old = alive.get(member)
            births.append(member >= 0 and old is None)
            flips.append(member >= 0 and old is not None and old["sign"] != sign)
            swaps.append(member >= 0 and old is not None and old["rank"] != rank)
            if births[-1]:
                old = {"identity": self.next.get(name, 0)}
                self.next[name] = old["identity"] + 1
            identities.append(old["identity"] if member >= 0 else -1)
            if member >= 0:
                alive[member] = {**old, "sign": sign, "rank": rank, "missed": 0}
        return identities, births, deaths, flips, swaps


def assert_same(one: Tracked, other: Tracked):
    assert one.step == other.step
    assert one.ids == other.ids
    for name in TENSORS:
        assert torch.allclose(getattr(one, name), getattr(other, name), rtol=0, atol=0, equal_nan=True), name


def pick(tracked, name):
    """One image's row of everything."""
    index = tracked.ids.index(name)
    return {
        field: sorted(v for v in row.tolist() if v >= 0) if field == "deaths" else row
        for field, row in ((field, getattr(tracked, field)[index]) for field in TENSORS)
    }


@pytest.mark.parametrize("patience", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_planted_histories_are_recovered_exactly(seed, patience):
    world, ledger, tracker = World(seed), Ledger(patience), ComponentTracker(patience=patience)
    n_deaths = n_flips = n_swaps = n_births = 0
    for step in range(12):
        arguments, shown, signs = world.snapshot()
        tracked = tracker.update(**arguments, step=step)
        for image, name in enumerate(world.ids):
            identities, births, deaths, flips, swaps = ledger.read(name, shown[image], signs[image])
            assert tracked.identities[image].tolist() == identities
            assert tracked.births[image].tolist() == births
            assert {death for death in tracked.deaths[image].tolist() if death >= 0} == deaths
            assert tracked.flips[image].tolist() == flips
            assert tracked.swaps[image].tolist() == swaps
            assert tracked.first[image] == (step == 0)
            n_deaths, n_births = n_deaths + len(deaths), n_births + sum(births)
            n_flips, n_swaps = n_flips + sum(flips), n_swaps + sum(swaps)
        continued = (tracked.identities >= 0) & ~tracked.births
        assert torch.equal(~tracked.confidence.isnan(), continued)
        assert (tracked.confidence[continued] > 0.8).all()
    assert min(n_deaths, n_flips, n_swaps, n_births) > 3


@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("seed", range(10))
def test_identities_are_never_given_twice(seed, patience):
    """On noise, where anything may match anything."""
    generator = torch.Generator().manual_seed(seed)
    tracker = ComponentTracker(min_similarity=0.5, patience=patience)
    ids = ("a", "b")
    born, dead, alive = ({name: set() for name in ids} for _ in range(3))
    for step in range(15):
        k = int(torch.randint(1, 6, (), generator=generator))
        valid = torch.rand(2, k, generator=generator) < 0.7
        patterns = torch.randn(2, k, 3, 3, generator=generator)
        tracked = tracker.update(patterns, torch.ones(2, k), ids=ids, step=step, valid=valid)
        for image, name in enumerate(ids):
            now = [i for i in tracked.identities[image].tolist() if i >= 0]
            new = set(tracked.identities[image][tracked.births[image]].tolist())
            gone = {i for i in tracked.deaths[image].tolist() if i >= 0}
            assert len(now) == len(set(now)) == int(valid[image].sum())
            assert not new & born[name]
            assert set(now) - new <= alive[name]
            assert gone <= alive[name]
            assert not gone & set(now)
            born[name] |= new
            dead[name] |= gone
            alive[name] = (alive[name] | new) - gone
            if patience == 0 and now:
                assert alive[name] == set(now)
    for name in ids:
        assert born[name] == set(range(len(born[name])))
        assert not dead[name] & alive[name]
        assert len(dead[name]) > 3


@pytest.mark.parametrize("patience", [0, 1])
def test_two_and_two_snapshots_are_four(patience):
    world = World(20)
    snapshots = [world.snapshot()[0] for _ in range(4)]
    snapshots[1]["patterns"][2] = torch.nan
    straight = ComponentTracker(patience=patience)
    expected = [straight.update(**snapshot, step=step) for step, snapshot in enumerate(snapshots)]
    first = ComponentTracker(patience=patience)
    resumed = ComponentTracker(patience=patience)
    got = [first.update(**snapshots[step], step=step) for step in (0, 1)]
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    first.update(**snapshots[2], step=2)
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    got += [resumed.update(**snapshots[step], step=step) for step in (2, 3)]
    assert int(expected[3].births.sum()) > 0
    assert int((~expected[3].births & (expected[3].identities >= 0)).sum()) > 0
    for one, other in zip(expected, got, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("how", ["NaN", "no valid component", "left out"])
def test_an_image_that_is_not_seen_keeps_its_identities(how):
    world, tracker = World(30, wobble=0.0), ComponentTracker()
    shown = torch.tensor([[0, 1, 2, 3, 4]] * 3)
    before = tracker.update(**world.snapshot(shown)[0], step=0)
    snapshot, _, _ = world.snapshot(shown)
    others = [0, 2]
    if how == "NaN":
        for name in ("patterns", "loadings", "singular_values"):
            snapshot[name][1] = torch.nan
    elif how == "no valid component":
        snapshot["valid"][1] = False
    else:
        snapshot = {name: [part[i] for i in others] for name, part in snapshot.items()}
        snapshot = {name: part if name == "ids" else torch.stack(part) for name, part in snapshot.items()}
    gap = tracker.update(**snapshot, step=1)
    if how != "left out":
        row = pick(gap, "image-1")
        assert not row["seen"]
        assert not row["first"]
        assert (row["identities"] == -1).all()
        assert not row["births"].any()
        assert row["deaths"] == []
        assert row["drift"].isnan()
    assert (gap.identities[[i for i, name in enumerate(gap.ids) if name != "image-1"]] >= 0).all()
    after = tracker.update(**world.snapshot(shown.flip(1))[0], step=2)
    assert torch.equal(after.identities, before.identities.flip(1))
    assert after.seen.all()
    assert not after.first.any()
    assert after.deaths.shape == (3, 0)


def test_an_image_not_seen_at_first_starts_when_it_is():
    world, tracker = World(31), ComponentTracker()
    snapshot, _, _ = world.snapshot()
    snapshot["valid"][0] = False
    assert tracker.update(**snapshot, step=0).first.tolist() == [False, True, True]
    assert tracker.update(**world.snapshot()[0], step=1).first.tolist() == [True, False, False]


def test_one_bad_image_never_changes_another():
    one, other = World(32), World(32)
    clean, dirty = ComponentTracker(), ComponentTracker()
    for step in range(4):
        expected = clean.update(**one.snapshot()[0], step=step)
        snapshot, _, _ = other.snapshot()
        snapshot["loadings"][0, step % 2] = torch.nan
        snapshot["patterns"][0, :, step % 3] = torch.inf
        got = dirty.update(**snapshot, step=step)
        for name in ("image-1", "image-2"):
            for field, value in pick(expected, name).items():
                same = pick(got, name)[field]
                assert value == same if field == "deaths" else torch.allclose(value, same, atol=0, equal_nan=True)


def test_identities_do_not_depend_on_batches_or_order():
    whole, parts = ComponentTracker(patience=1), ComponentTracker(patience=1)
    world = World(33)
    for step in range(5):
        snapshot, _, _ = world.snapshot()
        expected = whole.update(**snapshot, step=step)
        for i in (2, 0, 1):
            part = {name: value[i : i + 1] for name, value in snapshot.items()}
            got = pick(parts.update(**part, step=step), world.ids[i])
            for field, value in pick(expected, world.ids[i]).items():
                same = got[field]
                assert value == same if field == "deaths" else torch.allclose(value, same, atol=0, equal_nan=True)


@pytest.mark.parametrize("patience", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_images_that_are_followed_at_once_are_followed_as_if_each_were_alone(seed, patience):
    together, alone = ComponentTracker(patience=patience), ComponentTracker(patience=patience)
    # Few patterns to choose from, so that images differ in what returns; equally many in each, so that they are alike.
    world = World(50 + seed, n_images=8, k=6)
    for step in range(6):
        shown = torch.stack([torch.randperm(POOL, generator=world.generator)[: world.k] for _ in world.ids])
        shown[: 4 * (step % 2), 0] = -1
        snapshot, _, _ = world.snapshot(shown)
        expected = together.update(**snapshot, step=step)
        if step:
            assert len(set(expected.identities[4:].flatten(1).amax(dim=1).tolist())) > 1, "images that differ"
        for i, name in enumerate(world.ids):
            part = {field: value[i : i + 1] for field, value in snapshot.items()}
            got = pick(alone.update(**part, step=step), name)
            for field, value in pick(expected, name).items():
                same = got[field]
                assert value == same if field == "deaths" else torch.allclose(value, same, atol=1e-12, equal_nan=True)


def single(rows, values=None):
    """A snapshot of one image whose patterns are given row by row."""
    patterns = torch.tensor(rows, dtype=torch.float64).unsqueeze(0)
    values = torch.ones(patterns.shape[:2]) if values is None else torch.tensor([values])
    return {"patterns": patterns, "singular_values": values, "ids": ("x",)}


E1, E2, E3 = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("patience", "absent", "identity", "deaths"),
    [(0, 1, 2, [[1], []]), (1, 1, 1, [[], []]), (1, 2, 2, [[], [1], []]), (2, 2, 1, [[], [], []])],
)
def test_patience_says_how_often_a_component_may_be_missed(patience, absent, identity, deaths):
    tracker = ComponentTracker(patience=patience)
    tracker.update(**single([E1, E2]), step=0)
    gone = [tracker.update(**single([E1]), step=step) for step in range(1, 1 + absent)]
    back = tracker.update(**single([E1, E2]), step=9)
    assert [[d for d in t.deaths[0].tolist() if d >= 0] for t in (*gone, back)] == deaths
    assert back.identities.tolist() == [[0, identity]]
    assert back.births.tolist() == [[False, identity == 2]]


@pytest.mark.parametrize("seed", range(5))
def test_patience_turns_births_into_returns_and_nothing_else(seed):
    generator = torch.Generator().manual_seed(seed)
    trackers = [ComponentTracker(patience=p, min_similarity=0.4) for p in (0, 3)]
    last, returns = [None, None], 0
    for step in range(12):
        patterns = torch.linalg.qr(torch.randn(1, 10, 6, generator=generator)).Q.mT
        now = [t.update(patterns, torch.ones(1, 6), ids=("x",), step=step) for t in trackers]
        continued = []
        for which, tracked in enumerate(now):
            if last[which] is not None:
                same = tracked.identities[0][:, None] == last[which].identities[0]
                continued.append(torch.where(same.any(1), same.int().argmax(1), -1).tolist())
            last[which] = tracked
        assert not continued or continued[0] == continued[1]
        assert not (now[1].births & ~now[0].births).any()
        returns += int((now[0].births & ~now[1].births).sum())
    assert returns > 0


def test_a_return_that_resembles_a_living_component_has_low_confidence():
    tracker = ComponentTracker(patience=1, min_similarity=0.7)
    tracker.update(**single([E1, [0.0, 0.8, 0.6]]), step=0)
    tracker.update(**single([E1, E3]), step=1)
    back = tracker.update(**single([E1, E3, E2]), step=2)
    assert back.identities.tolist() == [[0, 2, 1]]
    torch.testing.assert_close(back.similarity[0, 2].item(), 0.8)
    torch.testing.assert_close(back.confidence[0, 2].item(), 0.8 - 0.6)


def test_a_pair_rotated_in_its_plane_is_followed_without_confidence():
    tracker = ComponentTracker()
    tracker.update(**single([E1, E2, E3]), step=0)
    half = math.sqrt(0.5)
    tracked = tracker.update(**single([[half, half, 0.0], [-half, half, 0.0], E3]), step=1)
    assert tracked.confidence[0, :2].max() < 1e-6
    assert tracked.confidence[0, 2] == 1


def test_drift_on_paper():
    tracker = ComponentTracker()
    assert tracker.update(**single([E1, E2], [3.0, 1.0]), step=0).drift.isnan().all()
    same = tracker.update(**single([E1, E2], [3.0, 1.0]), step=1)
    torch.testing.assert_close(same.drift.item(), 0.0)
    # The component with 9 of 10 units of energy is lost, the one with 1 of 10 now has all: 1 - (0.1 + 1) / 2.
    lost = tracker.update(**single([E2], [5.0]), step=2)
    torch.testing.assert_close(lost.drift.item(), 0.45)
    turned = tracker.update(**single([[0.6, -0.8, 0.0]], [2.0]), step=3)
    torch.testing.assert_close(turned.drift.item(), 0.2)
    gone = tracker.update(**single([E3], [2.0]), step=4)
    assert gone.drift.item() == 1.0


def test_a_return_counts_as_drift():
    tracker = ComponentTracker(patience=1)
    tracker.update(**single([E1, E2]), step=0)
    tracker.update(**single([E1]), step=1)
    back = tracker.update(**single([E1, E2]), step=2)
    assert back.identities.tolist() == [[0, 1]]
    torch.testing.assert_close(back.drift.item(), 1 - (1 + 0.5) / 2)


def test_loadings_tell_apart_what_patterns_cannot():
    patterns = torch.tensor([[[1.0, 0.1], [1.0, -0.1]]])
    sides = torch.eye(2).unsqueeze(0)
    tracker = ComponentTracker()
    tracker.update(patterns, torch.ones(1, 2), ids=("x",), step=0, loadings=sides)
    tracked = tracker.update(patterns.flip(1), torch.ones(1, 2), ids=("x",), step=1, loadings=sides)
    assert tracked.identities.tolist() == [[0, 1]]
    blind = ComponentTracker(channel_weight=0.0)
    blind.update(patterns, torch.ones(1, 2), ids=("x",), step=0, loadings=sides)
    assert blind.state_dict()["images"]["x"]["observations"][0]["loadings"] is None
    tracked = blind.update(patterns.flip(1), torch.ones(1, 2), ids=("x",), step=1, loadings=sides)
    assert tracked.identities.tolist() == [[1, 0]]


def test_components_of_a_shared_basis_are_tracked_as_one_image():
    generator = torch.Generator().manual_seed(0)
    directions = orthonormal(3, 8, generator)
    tracker = ComponentTracker()
    identities = []
    for step, strengths in enumerate(([3.0, 2.0, 1.0], [1.0, 3.0, 2.0])):
        scaled = directions * torch.tensor(strengths)[:, None]
        patterns = torch.stack([orthonormal(3, 9, generator) for _ in range(4)])
        basis = basis_from_maps(torch.einsum("kc,bkp->bcp", scaled, patterns).reshape(4, 8, 3, 3), 3)
        tracked = tracker.update(
            basis.patterns, basis.energies.sqrt()[None], ids=("shared",), step=step, valid=basis.valid[None]
        )
        identities.append(tracked.identities[0].tolist())
    assert identities == [[0, 1, 2], [1, 2, 0]]
    assert tracked.confidence.min() > 0.99


def test_only_the_last_decomposition_is_kept():
    world, tracker = World(40), ComponentTracker()

    def n_numbers():
        observations = [s for image in tracker.state_dict()["images"].values() for s in image["observations"]]
        return sum(v.numel() for s in observations for v in s.values() if isinstance(v, torch.Tensor))

    shown = torch.arange(5).expand(3, 5)
    tracker.update(**world.snapshot(shown)[0], step=0)
    once = n_numbers()
    for step in range(1, 6):
        tracker.update(**world.snapshot((shown + step) % POOL)[0], step=step)
    assert n_numbers() == once


def test_state_is_a_copy_of_what_it_was_given():
    world, tracker, twin = World(41), ComponentTracker(), ComponentTracker()
    snapshot, shown, _ = world.snapshot()
    tracker.update(**snapshot, step=0)
    twin.update(**{name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in snapshot.items()}, step=0)
    for name in ("patterns", "loadings", "channels", "singular_values"):
        snapshot[name].zero_()
    following, _, _ = world.snapshot(shown)
    assert_same(tracker.update(**following, step=1), twin.update(**following, step=1))


def test_state_holds_no_graph_and_the_random_state_stays():
    before = torch.get_rng_state()
    patterns = torch.eye(3).unsqueeze(0).requires_grad_()
    tracker = ComponentTracker()
    with torch.inference_mode():
        tracker.update(patterns * 2, torch.ones(1, 3), ids=("x",), step=0)
    tracked = tracker.update(patterns * 2, torch.ones(1, 3), ids=("x",), step=1)
    assert tracked.identities.tolist() == [[0, 1, 2]]
    assert not tracked.similarity.requires_grad
    assert not tracker.state_dict()["images"]["x"]["observations"][0]["patterns"].requires_grad
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_is_tracked():
    tracker = ComponentTracker()
    for step in range(2):
        tracked = tracker.update(
            torch.eye(3, dtype=torch.bfloat16)[None], torch.ones(1, 3, dtype=torch.bfloat16), ids=("x",), step=step
        )
    assert tracked.confidence.tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 4}, "`step` to be above 5, the last step of image 'image-0', but got 4"),
        ({"step": 5}, "but got 5"),
        ({"ids": ("image-0", "b", "b")}, "`ids` to name 3 different images"),
        ({"ids": ("image-0", "b")}, "`ids` to name 3 different images"),
        ({"singular_values": torch.ones(3, 4)}, r"`singular_values` to have shape \(3, 5\), but got \(3, 4\)"),
        ({"loadings": None}, "given together"),
        ({"patterns": torch.ones(3, 5, 4, 4)}, "same images and grid"),
        ({"valid": torch.ones(3, 4, dtype=torch.bool)}, r"`valid` to have shape \(3, 5\)"),
    ],
)
def test_a_refused_update_changes_nothing(change, message):
    world, tracker, twin = World(42), ComponentTracker(), ComponentTracker()
    snapshots = [world.snapshot()[0] for _ in range(2)]
    for each in (tracker, twin):
        each.update(**snapshots[0], step=5)
    with pytest.raises(ValueError, match=message):
        tracker.update(**{**snapshots[1], "step": 6, **change})
    assert_same(tracker.update(**snapshots[1], step=7), twin.update(**snapshots[1], step=7))


def test_an_error_in_the_last_image_undoes_the_first():
    tracker = ComponentTracker()
    patterns = torch.eye(2).reshape(1, 2, 1, 2)
    tracker.update(patterns, torch.ones(1, 2), ids=("b",), step=0)
    wider = torch.ones(2, 2, 1, 3)
    with pytest.raises(ValueError, match="same images and grid"):
        tracker.update(wider, torch.ones(2, 2), ids=("a", "b"), step=1)
    assert list(tracker.state_dict()["images"]) == ["b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_similarity": -0.1}, "`min_similarity` to be between 0 and 1, but got -0.1"),
        ({"patience": -1}, "`patience` to be at least 0, but got -1"),
        ({"spatial_weight": -1.0}, "`spatial_weight` to be non-negative and finite, but got -1.0"),
        ({"spatial_weight": 0.0, "channel_weight": 0.0}, "to be above 0"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ComponentTracker(**arguments)


def test_channels_alone_need_loadings_from_the_first_snapshot_on():
    with pytest.raises(ValueError, match="without loadings"):
        ComponentTracker(spatial_weight=0.0).update(**single([E1]), step=0)
    world = World(40)
    tracker = ComponentTracker(spatial_weight=0.0)
    snapshot, shown, _ = world.snapshot()
    tracker.update(**snapshot, step=0)
    snapshot["patterns"] = torch.rand_like(snapshot["patterns"])
    again = tracker.update(**snapshot, step=1)
    assert not again.births.any(), "whatever the patterns"
    assert torch.equal(again.identities >= 0, shown >= 0)


def test_a_state_of_another_version_is_refused():
    with pytest.raises(ValueError, match="version 1, but got None"):
        ComponentTracker().load_state_dict({"images": {}})


def test_no_images_are_no_events():
    tracked = ComponentTracker().update(torch.zeros(0, 3, 2, 2), torch.zeros(0, 3), ids=(), step=0)
    assert tracked.identities.shape == (0, 3)
    assert tracked.deaths.shape == (0, 0)


def test_summary_on_paper():
    tracker = ComponentTracker()
    ids = ("a", "b", "c")

    def snapshot(rows, step, valid):
        return tracker.update(torch.tensor(rows), torch.ones(3, 2), ids=ids, step=step, valid=torch.tensor(valid))

    first = snapshot([[E1, E2]] * 3, 0, [[True, True], [True, True], [False, False]])
    assert all(math.isnan(value) for value in summarize(first).values())
    flipped = [-1.0, 0.0, 0.0]
    second = snapshot([[E2, flipped], [E3, E1], [E1, E2]], 1, [[True, True]] * 3)
    # a: two swaps, one of them flipped. b: one birth, one death, one swap. c: seen for the first time.
    assert summarize(second) == pytest.approx(
        {
            "births": 0.5,
            "deaths": 0.5,
            "flips": 0.5,
            "swaps": 1.5,
            "drift": (0 + 0.5) / 2,
            "similarity": 1.0,
            "confidence": 1.0,
        }
    )
