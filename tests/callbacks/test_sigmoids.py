"""Trainings of networks that end in sigmoids, with the callback: what is logged, kept and drawn is of their answers."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from lit_decom import DecomCAM, Explainer, Probe, Scoring, evaluate
from lit_decom.callbacks.class_accuracy import ClassAccuracy
from lit_decom.callbacks.reporting import predictions_of
from lit_decom.metrics import AverageDrop, EnergyPointingGame
from lit_decom.observer import Observer
from lit_decom.process import Process
from lit_decom.render import heat
from lit_decom.report.runs import read_run
from tests.helpers.modules import Spots, Tiny, callback, seed_all, tiny, trainer
from tests.helpers.page import Page

LABELS = ("red", "green", "blue")


class Sigmoids(Tiny):
    """Tells which colours an image has; or, with one logit, whether it has the first."""

    def __init__(self, n_labels=3):
        super().__init__()
        self.head = nn.Linear(12, n_labels)

    def forward(self, images):
        logits = super().forward(images)
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def loss(self, batch):
        logits = self(batch[0])
        return F.binary_cross_entropy_with_logits(logits, batch[1].to(logits))

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", self.loss(batch))


def data(n_labels=3, n=16, seed=0):
    images = Spots(n, seed).images
    answers = torch.stack([(torch.arange(n) >> bit) & 1 for bit in range(3)], dim=1)
    for label in range(3):
        images[:, label, 4 + 8 * label : 12 + 8 * label, 4 + 8 * label : 12 + 8 * label] += answers[
            :, label, None, None
        ]
    return TensorDataset(images, answers.float() if n_labels > 1 else answers[:, 0].float())


def module(n_labels=3):
    seed_all(0)
    return Sigmoids(n_labels)


def trained(folder, n_labels=3, *, network=None, max_epochs=2, **settings):
    made = callback(**{"probe": 12, "metrics": "default", "report": True} | settings)
    network = module(n_labels) if network is None else network
    run = trainer(folder, made, max_epochs=max_epochs)
    run.fit(network, DataLoader(data(n_labels), 4), DataLoader(data(n_labels, seed=2), 4))
    return made, network


@pytest.fixture(scope="module", params=[1, 3], ids=["one logit", "three labels"])
def run(request, tmp_path_factory):
    made, network = trained(tmp_path_factory.mktemp("run"), request.param)
    return made, network.eval()


# ----- what a training leaves


def answers_of(made, network):
    """For each row the logit of its label, and whether that label is there, from the network itself."""
    logits = network(made.probe.images).detach()
    if logits.ndim == 1:
        return logits, made.probe.labels == 1
    return logits.gather(1, made.probe.labels[:, None])[:, 0], torch.ones(len(made.probe), dtype=torch.bool)


def test_a_row_is_correct_where_its_logit_is_on_the_side_of_its_label(run):
    made, network = run
    z, there = answers_of(made, network)
    right = (z > 0) == there
    numbers = made.last_snapshot.numbers
    assert numbers["accuracy"] == pytest.approx(float(right.float().mean()))
    assert (numbers["count/all"], numbers.get("count/correct", 0)) == (len(right), int(right.sum()))


def test_scores_of_the_label_are_half_its_logit(run):
    made, network = run
    z, there = answers_of(made, network)
    record = made.last_snapshot
    rows = torch.arange(len(z))
    assert_close(record.logits[rows, record.labels], torch.where(there, z, -z) / 2, rtol=1e-4, atol=1e-5)
    # The probability of the answer that is right.
    assert_close(record.logits.softmax(dim=1)[rows, record.labels], torch.where(there, z, -z).sigmoid())
    assert torch.equal(record.targets, record.labels)


def test_the_losses_of_the_report_are_those_of_the_sigmoids(run):
    made, network = run
    z, there = answers_of(made, network)
    found = F.cross_entropy(made.last_snapshot.logits, made.last_snapshot.labels, reduction="none")
    assert_close(found, F.binary_cross_entropy_with_logits(z, there.float(), reduction="none"), rtol=1e-4, atol=1e-5)


def test_records_pictures_and_page_are_read_back(run):
    made, _ = run
    kept = read_run(made.directory.path)
    assert kept.notes == ()
    assert [record.epoch for record in kept.records] == [0, 1]
    assert_close(kept.last.logits, made.last_snapshot.logits)
    assert kept.probe.multilabel == made.probe.multilabel
    assert len(list((made.directory.path / "pictures").glob("*.jpg"))) == 2
    page = Page(made.report_path)
    verdicts = [verdict for image in page.data["runs"][0]["images"] for verdict in image["verdicts"]]
    assert verdicts
    assert not [verdict for verdict in verdicts if "not finite" in verdict]
    assert len(page.data["names"]) == len(made.probe)


def test_independent_labels_have_no_decision_factors_and_one_logit_has_one(run):
    made, _ = run
    shares = made.last_snapshot.factor_shares
    assert (shares is None) == made.probe.multilabel
    assert shares is None or len(shares) == 1


def test_names_of_labels_and_of_their_absence_are_on_the_page(tmp_path):
    made, network = trained(tmp_path, probe=named_probe(), n_images=12)
    classes = {key.split("/")[2] for key in network.trainer.callback_metrics if key.startswith("decomcam/class_gain/")}
    assert classes == set(LABELS)
    words = Page(made.report_path).words
    for name in made.probe.ids[:8]:  # as many as are drawn
        image, label = name.split(":")
        assert f"{label} · image {image} " in words
    assert "9 labels of 6 images" in words
    assert "the probe's labels, which are there" in words
    assert any(f"no {label}" in made.report_path.read_text() for label in LABELS)
    assert all(set(predictions_of(kept)["predicted"]) <= set(range(6)) for kept in made.directory.records())


def named_probe():
    images, answers = data(seed=2).tensors
    return Probe.from_tensors(images[1:7], answers[1:7], class_names=LABELS)


def test_components_of_most_energy_can_be_shared_by_rows(tmp_path):
    made, _ = trained(tmp_path, shared="svd", n_shared=2, max_epochs=1, metrics=())
    assert made.last_snapshot.shared_energy.shape == (2,)


@pytest.mark.parametrize(
    "target", ["predicted", "contrast", lambda logits, labels: logits.gather(1, labels[:, None])[:, 0]]
)
def test_other_targets_are_about_the_label_of_the_row(tmp_path, target):
    made, _ = trained(tmp_path, target=target, max_epochs=1, metrics=(), probe=named_probe())
    asked = made.probe.asked
    found = made.last_snapshot.targets
    assert (found == -1).all() if callable(target) else torch.equal(found % 3, asked)


# ----- what does not go together


def test_one_class_for_all_rows_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"every row of the probe asks about one label, but got 2"):
        trained(tmp_path, target=2, probe=named_probe())


def test_a_network_of_other_labels_is_refused(tmp_path):
    run = trainer(tmp_path, callback(probe=named_probe()))
    with pytest.raises(MisconfigurationException, match="one logit for each of the probe's 3 labels, but got 4"):
        run.fit(tiny(), DataLoader(Spots(8), 4), DataLoader(Spots(8), 4))


# ----- strata and scores


def test_one_logit_and_two_are_scored_alike():
    one = module(1).eval()
    two = module(2).eval()
    two.first, two.second = one.first, one.second
    with torch.no_grad():
        two.head.weight.copy_(torch.cat([-one.head.weight, one.head.weight]) / 2)
        two.head.bias.copy_(torch.cat([-one.head.bias, one.head.bias]) / 2)
    images, answers = data(1).tensors
    masks = images.mean(dim=1) > 0.5
    probe = Probe.from_tensors(images, answers, masks=masks)
    scoring = Scoring([AverageDrop(), EnergyPointingGame()], reference_epoch=99)
    explainer = Explainer(DecomCAM(n_components=3), "second")
    ours, theirs = (
        evaluate(network, probe, explainer, scoring, new_head=False, intervals=False, progress=False)
        for network in (one, two)
    )
    assert [(score.metric, score.stratum) for score in ours] == [(score.metric, score.stratum) for score in theirs]
    assert {score.stratum for score in ours} >= {"all", "correct", "incorrect"}
    assert [score.value for score in ours] == pytest.approx([score.value for score in theirs], rel=1e-4, abs=1e-6)


def test_strata_by_class_accuracy_know_how_often_each_label_is_found():
    network = module().eval()
    images, answers = data(n=24).tensors
    counted = ClassAccuracy()
    for start in range(0, 24, 8):
        counted.count(network, (images[start : start + 8], answers[start : start + 8]), None, None)
    found = counted.accuracy(Process())
    passes = network(images) > 0
    for label in range(3):
        there = answers[:, label] == 1
        assert float(found[label]) == pytest.approx(float(passes[there, label].float().mean()))
        assert float(found[3 + label]) == pytest.approx(float((~passes[~there, label]).float().mean()))
    observer = Observer(Explainer(DecomCAM(n_components=2), "second"), Scoring([AverageDrop()], "class_accuracy"))
    observer.prepare(network, named_probe())
    observer.class_accuracy = found
    assert observer.observe(network, epoch=0, step=0).numbers["count/all"] == len(named_probe())


def test_class_accuracy_of_one_logit_takes_labels_in_floating_point():
    network = module(1).eval()
    images, answers = data(1).tensors
    counted = ClassAccuracy()
    counted.count(network, (images, answers[:, None]), None, None)
    passes = network(images) > 0
    expected = [float((passes[answers == value] == bool(value)).float().mean()) for value in (0, 1)]
    assert counted.accuracy(Process()).tolist() == pytest.approx(expected)


# ----- precision


@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
def test_a_training_in_double_precision_draws_its_grids(tmp_path, default):
    for cached in (heat._colours, heat.heat_colours):
        cached.cache_clear()
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        made = callback(probe=4, metrics=())
        run = trainer(tmp_path, made, precision="64-true")
        run.fit(tiny(), DataLoader(Spots(8), 4), DataLoader(Spots(8), 4))
    finally:
        torch.set_default_dtype(before)
    assert made.last_snapshot.logits.dtype == torch.float64
    assert len(list((made.directory.path / "pictures").glob("*.jpg"))) == 1
