"""Maps of several classes, from the baseline that makes them to the page."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from lit_decom import DecomCAM, Explainer, Probe, Scoring
from lit_decom.explainer import Explanations
from lit_decom.methods import FMGCAM
from lit_decom.observer import Observer
from lit_decom.records import RunDirectory
from lit_decom.render import class_colours
from tests.helpers.networks import SmallCNN, noise_images, seeded
from tests.helpers.page import report
from tests.helpers.runs import CLASSES, Plan, planted_run, record_of

PLAN = Plan()


def class_maps():
    """Of three classes in each image, at a corner of its own each."""
    maps = torch.zeros(PLAN.n_images, 3, 7, 7)
    maps[:, 0, :3, :3] = maps[:, 1, :3, 4:] = maps[:, 2, 4:, :3] = 1.0
    return maps.half(), torch.tensor([[0, 1, 2], [1, 0, 3], [2, 0, 1], [0, 3, 2]])


def run_with_maps(path):
    maps, classes = class_maps()
    records = {2: record_of(PLAN, 2, class_maps=maps, class_map_classes=classes)}
    return planted_run(path, PLAN, records=records)


def test_the_page_shows_each_image_with_its_classes(tmp_path):
    page = report(run_with_maps(tmp_path / "run"))
    pictures = [entry for entry in page.all("img") if entry.get("class") == "still" and ": " in entry["alt"]]
    pictures = [entry for entry in pictures if entry["src"].startswith("data:") and len(entry["alt"].split(": ")) == 2]
    shown = pictures[-PLAN.n_images :]
    assert shown[0]["alt"] == f"{CLASSES[0]}: {CLASSES[0]}, {CLASSES[1]}, {CLASSES[2]}"
    assert "Where the likeliest classes are seen" in page.words
    colours = class_colours(class_maps()[1])
    for entry, classes in zip(shown, class_maps()[1].tolist(), strict=True):
        data = base64.b64decode(entry["src"].split(",")[1])
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3).astype(int)
        for index in classes:
            # A swatch of a hundred pixels, the border of which JPEG mixes with white.
            near = np.abs(pixels - np.array(colours[index]) * 255).max(axis=1) < 24
            assert near.sum() > 30


def test_a_run_without_such_maps_has_no_word_of_them(tmp_path):
    assert "likeliest classes" not in report(planted_run(tmp_path / "run", PLAN)).words


def test_records_keep_them(tmp_path):
    directory = RunDirectory(run_with_maps(tmp_path / "run"))
    *before, last = directory.records()
    assert torch.equal(last.class_maps, class_maps()[0])
    assert torch.equal(last.class_map_classes, class_maps()[1])
    assert before[0].class_maps is None


def observed(baselines, n=6, batch_size=4):
    probe = Probe.from_tensors(noise_images(n), torch.arange(n) % 5)
    observer = Observer(
        Explainer(DecomCAM(n_components=3), target_layer="stage2", batch_size=batch_size), Scoring(baselines=baselines)
    )
    network = seeded(SmallCNN())
    observer.prepare(network, probe)
    return network, probe, observer.observe(network, epoch=0, step=1)


def test_a_baseline_that_tells_classes_apart_leaves_its_maps_in_the_snapshot():
    network, probe, snapshot = observed(("grad_cam", "fm_g_cam"))
    evidence = Explainer(target_layer="stage2").capture(network, probe)
    expected = FMGCAM().class_maps(evidence)
    assert torch.equal(snapshot.class_map_classes, expected.classes)
    torch.testing.assert_close(snapshot.class_maps.float(), expected.maps, rtol=0, atol=2e-3)
    assert any(score.explanation == "fm_g_cam" for score in snapshot.metric_scores)


def test_without_it_there_are_none():
    _, _, snapshot = observed(("grad_cam",))
    assert snapshot.class_maps is None
    assert snapshot.class_map_classes is None


def test_shares_of_several_processes_are_brought_into_order():
    network, probe = seeded(SmallCNN()), Probe.from_tensors(noise_images(5), torch.arange(5))
    explainer = Explainer(DecomCAM(n_components=3), target_layer="stage2")

    def explained(part):
        return Explanations.joined(
            [Explanations.of(piece.told_apart([FMGCAM()])) for piece in explainer.pieces(network, part)]
        )

    whole = explained(probe).class_maps
    found = Explanations.interleaved([explained(probe.shard(rank, 2)) for rank in range(2)]).class_maps
    assert torch.equal(found.classes, whole.classes)
    torch.testing.assert_close(found.maps, whole.maps, rtol=0, atol=1e-4)
