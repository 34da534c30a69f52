"""Run directories with records whose every number is known, without a training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_decom.methods.decomposition import Decomposition
from lit_decom.probe import Probe
from lit_decom.records import RunDirectory, Snapshot
from lit_decom.scores import Score, numbers_of

CLASSES = ("owl", "cat <script>alert('x')</script>", "fox & hen", 'dog "rex"')
CHANCE_LEVELS = {"random_map": 0.25, "center_map": 0.375, "grad_cam": 0.4375}


@dataclass(frozen=True)
class Plan:
    """What to plant.

    Components are bumps of light, one per identity. Identities 0 and 1 change their ranks at every epoch; in the last
    epoch the weakest component has ended and another one is born in its place.
    """

    n_epochs: int = 3
    n_images: int = 4
    n_components: int = 3
    grid: tuple[int, int] = (7, 7)
    size: tuple[int, int] = (56, 56)
    tracked: bool = True
    scored: bool = True
    shared: int = 2
    factors: bool = False  # decision factors in place of shared components
    run_id: str = "planted"
    turned: bool = False  # the ranks the other way round, and every pattern negated


def gain(epoch: int, image: int, identity: int) -> float:
    """The planted score gain."""
    return 2.0 - 0.75 * identity + 0.25 * epoch - 0.125 * image


def score(epoch: int, stratum: str) -> float:
    """The planted energy pointing game."""
    return {"all": 0.5, "correct": 0.625, "incorrect": 0.3125}[stratum] + 0.03125 * epoch


def identities_at(plan: Plan, epoch: int) -> list[int]:
    """The identity of each rank."""
    names = list(range(plan.n_components))
    if plan.n_components > 1 and epoch % 2:
        names[:2] = names[1::-1]
    if epoch > 0 and epoch == plan.n_epochs - 1:
        names[-1] = plan.n_components
    return names[::-1] if plan.turned else names


@lru_cache(maxsize=8)
def probe_of(plan: Plan) -> Probe:
    """Images with a coloured blob where each component looks."""
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(plan.n_images, 3, 1, 1, generator=generator) * 0.4 + 0.2
    images = base.expand(-1, -1, *plan.size).clone()
    for image in range(plan.n_images):
        for identity in range(plan.n_components):
            tint = torch.rand(3, 1, 1, generator=generator)
            images[image] += tint * bump(plan.size, image, identity)
    labels = torch.arange(plan.n_images) % len(CLASSES)
    return Probe.from_tensors(images.clamp(0, 1), labels, class_names=CLASSES, mean=torch.zeros(3), std=torch.ones(3))


def bump(size: tuple[int, int], image: int, identity: int) -> Tensor:
    """A blob whose place depends on the image and the component."""
    middle = torch.tensor([(0.31 * identity + 0.17 * image) % 0.8 + 0.1, (0.53 * identity + 0.29 * image) % 0.8 + 0.1])
    rows = (torch.arange(size[0]) + 0.5) / size[0] - middle[0]
    columns = (torch.arange(size[1]) + 0.5) / size[1] - middle[1]
    return (-(rows[:, None].square() + columns[None].square()) / 0.02).exp()


def record_of(plan: Plan, epoch: int, **changes: Any) -> Snapshot:
    """The record of one epoch; ``changes`` replace attributes."""
    n, k = plan.n_images, plan.n_components
    names = identities_at(plan, epoch)
    patterns = torch.stack([torch.stack([bump(plan.grid, image, name) for name in names]) for image in range(n)])
    patterns = patterns / patterns.flatten(2).norm(dim=2)[:, :, None, None]
    gains = torch.tensor([[gain(epoch, image, name) for name in names] for image in range(n)])
    values = torch.arange(k, 0, -1).float().expand(n, k) * (1 + 0.5 * epoch)
    decomposition = Decomposition(
        components=patterns * values[:, :, None, None] * (-1 if plan.turned else 1),
        strengths=values,
        channels=torch.arange(5).expand(n, 5),
        loadings=torch.eye(5, k).expand(n, 5, k),
        valid=torch.ones(n, k, dtype=torch.bool),
        energy=values.square().sum(dim=1) * 1.25,
        removed=values.square(),
        scores=gains + 1,
        reference_scores=torch.ones(n),
        contributions=torch.ones(n, k),
        fallback=torch.zeros(n, dtype=torch.bool),
    )
    probe = probe_of(plan)
    logits = 3 * torch.nn.functional.one_hot(probe.labels, len(CLASSES)).float()
    logits[-1] = logits[-1].roll(1)  # the last image is taken for another class
    record = Snapshot.of(
        decomposition,
        epoch=epoch,
        step=10 * (epoch + 1),
        ids=probe.ids,
        labels=probe.labels,
        targets=probe.labels,
        logits=logits,
        numbers=logged_of(plan, epoch),
        metric_scores=scores_of(plan, epoch) if plan.scored else (),
        settings=settings_of(plan),
        **(_tracking(plan, epoch) if plan.tracked else {}),
        **(_sharing(plan, epoch) if plan.shared and not plan.factors else {}),
        **(_deciding(plan, epoch) if plan.factors else {}),
    )
    return replace(record, **changes)


def scores_of(plan: Plan, epoch: int) -> tuple[Score, ...]:
    """What was scored, in powers of two, so that it is exact however it is written.

    By paired differences the energy pointing game beats random maps, but not a centred blob, and the average drop
    loses.
    """
    n = plan.n_images
    counts = {"all": n, "correct": n - 1, "incorrect": 1}
    found = []
    for metric, is_higher in (("energy_pointing_game", True), ("average_drop", False)):
        for stratum, images in counts.items():
            value, sure = score(epoch, stratum), (metric, stratum) != ("average_drop", "all") and images > 1
            ends = (value - 0.0625, value + 0.0625) if sure else None
            found.append(Score(metric, stratum, "", value, images, interval=ends, higher_is_better=is_higher))
            for name, level in CHANCE_LEVELS.items():
                margin = value - level if is_higher else level - value
                spread = 0.25 if name == "center_map" else 0.03125
                paired = (margin - spread, margin + spread) if images > 1 else None
                found.append(
                    Score(metric, stratum, name, level, images, paired_difference=paired, higher_is_better=is_higher)
                )
    gap = Score("energy_pointing_game", "gap", "", 0.3125, n, interval=(0.25, 0.375))
    fixed = Score("energy_pointing_game", "fixed_correct", "", 0.71875, 2, undefined=1, higher_is_better=True)
    return (*found, gap, fixed)


def logged_of(plan: Plan, epoch: int) -> dict[str, float]:
    """What was logged."""
    numbers = {"effective_rank": 2.5 + epoch, "blank_maps": 0.0, "score_gain/rank_01": 1.0}
    numbers |= {"seconds/explain": 1.0, "seconds/score": 0.25, "seconds/track": 0.25}
    if plan.factors:
        numbers |= {"completeness": 0.75 + 0.0625 * epoch, "factor_agreement": 0.875}
        numbers |= {"factor_layer_r2": 0.96875, "factor_random_r2": 0.40625, "factor_constant_share": 0.625}
    return numbers | (numbers_of(scores_of(plan, epoch)) if plan.scored else {})


def settings_of(plan: Plan) -> dict[str, Any]:
    """As the callback writes them."""
    return {
        "method": f"DecomCAM(n_components={plan.n_components}, integration='paper')",
        "target_layer": "backbone.layer3",
        "target": "label",
        "probe_digest": probe_of(plan).digest,
        "torch": "2.x",
    }


def planted_run(path: Path, plan: Plan | None = None, *, records: Mapping[int, Snapshot] | None = None) -> Path:
    """Write a run directory.

    Args:
        path: the folder.
        plan: what to plant.
        records: replace those of some epochs.
    """
    plan = plan or Plan()
    RunDirectory(path).open(plan.run_id, probe_of(plan), settings_of(plan))
    for epoch in range(plan.n_epochs):
        ((records or {}).get(epoch) or record_of(plan, epoch)).save(path)
    return path


def in_old_layout(path: Path) -> Path:
    """Rewrite a record as version 0.1.0 did: scores as numbers by key alone, and no word on the layout."""
    with path.open("rb") as file, np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    texts = json.loads(arrays.pop("json").item())
    kept = {name: texts[name] for name in ("epoch", "step", "ids", "numbers", "settings")}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays, json=np.array(json.dumps(kept)))
    return path


def _tracking(plan: Plan, epoch: int) -> dict[str, Tensor]:
    n, k = plan.n_images, plan.n_components
    now = torch.tensor(identities_at(plan, epoch)).expand(n, k).clone()
    before = torch.tensor(identities_at(plan, epoch - 1) if epoch else []).expand(n, -1)
    births = (now[:, :, None] != before[:, None]).all(dim=2)
    ended = [name for name in before[0].tolist() if name not in now[0].tolist()] if epoch else []
    known = torch.where(births, torch.nan, 0.75)
    return {
        "identities": now,
        "births": births,
        "deaths": torch.tensor(ended, dtype=torch.int64).expand(n, -1).clone(),
        "flips": torch.zeros(n, k, dtype=torch.bool),
        "similarity": known,
        "confidence": known,
        "drift": torch.full((n,), 0.05 if epoch else torch.nan),
    }


def _sharing(plan: Plan, epoch: int) -> dict[str, Tensor]:
    s, m = plan.shared, min(3, plan.n_images)
    corner = torch.arange(s)[:, None].expand(s, m) * 4 + epoch
    return {
        "shared_patterns": torch.rand(plan.n_images, s, *plan.grid, generator=torch.Generator().manual_seed(1)).half(),
        "shared_energy": torch.tensor([0.5 / (name + 1) for name in range(s)]),
        "shared_identities": torch.arange(s),
        "shared_images": torch.arange(m).expand(s, m).clone(),
        "shared_boxes": torch.stack([corner, corner, corner + 24, corner + 24], dim=2),
    }


FACTOR_CODES = torch.tensor([[2.0, 1.0], [1.0, -1.5], [-1.0, 1.5], [-2.0, -0.25]])


def factors_at(plan: Plan, epoch: int) -> list[int]:
    """The identity of each decision factor: two, which swap ranks at every epoch; in the last one 2 takes 1's place."""
    names = [0, 2 if 0 < epoch == plan.n_epochs - 1 else 1]
    return names[::-1] if epoch % 2 else names


def _deciding(plan: Plan, epoch: int) -> dict[str, Any]:
    """Every factor speaks for the right class of every image; the first one misleads in the last image."""
    labels = probe_of(plan).labels
    names = factors_at(plan, epoch)
    ranks = [min(name, 1) for name in names]
    codes = FACTOR_CODES[:, ranks]
    scores = codes[labels].sign() * (1 + 0.125 * torch.arange(plan.n_images)[:, None])
    scores[-1, ranks.index(0)] *= -1
    spots = [torch.stack([bump(plan.grid, image, rank) for rank in ranks]) for image in range(plan.n_images)]
    m = min(3, plan.n_images)
    return {
        "factor_codes": codes,
        "factor_directions": torch.eye(5, 2)[:, ranks],
        "factor_scores": scores,
        "factor_shares": torch.tensor([0.5 + 0.0625 * epoch, 0.25])[ranks],
        "factor_maps": (torch.stack(spots) * scores[:, :, None, None]).half(),
        "factor_identities": torch.tensor(names),
        "factor_images": torch.arange(m).expand(2, m).clone(),
        "factor_boxes": torch.zeros(2, m, 4, dtype=torch.int64),
    }
