"""How a module is asked that does not take images and return logits, and what is said where nobody told."""

from functools import partial

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput

from lit_decom import DecomCAM, Explainer, Probe, capture, evaluate, explain, find_target_layer
from lit_decom.evidence import ForwardError, TargetLayerError
from tests.helpers.networks import TARGETS, SmallCNN, assert_plain, noise_images, seeded


class Task(nn.Module):
    """As many LightningModules are: a network within, and a forward that takes a batch."""

    def __init__(self, net=None):
        super().__init__()
        self.model = seeded(SmallCNN()) if net is None else net
        self.loss = nn.CrossEntropyLoss()

    def forward(self, batch):
        return self.loss(self.model(batch["image"]), batch["label"])


def by_dict(task, images):
    return {"logits": task.model(images), "loss": None}


@pytest.mark.parametrize(
    "forward",
    [
        "model",
        by_dict,
        lambda task, images: task.model(images),
        lambda task, images: ImageClassifierOutput(logits=task.model(images)),
    ],
    ids=["name", "mapping", "tensor", "output of Hugging Face"],
)
def test_a_module_is_asked_as_it_was_said(forward):
    task, images = Task(), noise_images()
    evidence = capture(task, "stage2", images, TARGETS, forward=forward)
    assert_plain(evidence, seeded(SmallCNN()), "stage2", images)
    assert find_target_layer(task, images=images, forward=forward).name == "model.stage2"
    # Altered images take the same way.
    torch.testing.assert_close(evidence.relogits(images[:, None])[:, 0], evidence.logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(evidence.again(images).logits, evidence.logits)


def test_explaining_and_evaluating_ask_in_the_same_way():
    images = noise_images()
    probe, method = Probe.from_tensors(images, TARGETS), DecomCAM(n_components=2)
    named = Explainer(method, "stage2", forward="model")
    shown = explain(Task(), probe, named)
    plain = explain(seeded(SmallCNN()), probe, Explainer(method, "stage2"))
    assert torch.equal(shown.decomposition.cam, plain.decomposition.cam)
    scores = [
        [score.value for score in evaluate(network, probe, explainer, intervals=False, progress=False)]
        for network, explainer in ((Task(), named), (seeded(SmallCNN()), Explainer(method, "stage2")))
    ]
    assert torch.equal(*(torch.tensor(values).nan_to_num(7.5) for values in scores))
    assert named.settings["forward"] == "model"
    assert Explainer(method, forward=by_dict).settings["forward"] == "by_dict"
    assert Explainer(method, forward=partial(by_dict)).settings["forward"] == "partial(by_dict)"
    assert Explainer(method, target=partial(by_dict)).settings["target"] == "partial(by_dict)"
    assert Explainer(method, target=nn.Identity()).settings["target"] == "Identity"
    assert Explainer(method).settings["forward"] is None


def test_a_submodule_within_another_goes_by_the_end_of_its_name():
    outer = nn.ModuleDict({"task": Task()})
    assert_plain(
        capture(outer, "stage2", noise_images(), TARGETS, forward="model"), Task().model, "stage2", noise_images()
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("modle", r"Expected `forward` to be a submodule of Task, but got 'modle'\. Did you mean model\?"),
        ("0", r"Expected `forward` to name one submodule, but '0' fits model\.stage1\.0, model\.stage2\.0"),
    ],
)
def test_a_name_that_fits_no_submodule_is_answered_as_that_of_a_layer(name, words):
    with pytest.raises(TargetLayerError, match=words):
        capture(Task(), "stage2", noise_images(), 0, forward=name)


class Raising(Task):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, images):
        raise self.error


ERRORS = [
    KeyError("image"),
    TypeError("unhashable"),
    AttributeError("no pixels"),
    NotImplementedError("a batch, no images"),
    AssertionError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "ask",
    [
        lambda network, images: capture(network, "stage2", images, 0),
        lambda network, images: find_target_layer(network, images=images),
    ],
    ids=["capture", "search"],
)
def test_whatever_a_first_forward_raises_names_the_remedy_and_keeps_the_cause(error, ask):
    words = (
        rf"Expected Raising\.forward to take images \(1, 3, 32, 32\), but it raised {type(error).__name__}.*"
        r"Say how it is asked: `forward=` takes the name of a submodule .*\(it has 'model'\), or a function "
        r"`\(module, images\) -> logits`"
    )
    with pytest.raises(ForwardError, match=words) as raised:
        ask(Raising(error), noise_images(1))
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    ("forward", "asked"),
    [("model", "the submodule 'model' of Task"), (lambda task, _: task.loss(), "`forward=` for Task")],
)
def test_the_way_that_was_tried_is_named(forward, asked):
    network = Task(nn.Sequential(nn.Conv2d(1, 3, 3)))
    with pytest.raises(ForwardError, match=f"Expected {asked} to take images"):
        capture(network, "model.0", noise_images(), 0, forward=forward)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("too large"), KeyboardInterrupt()])
def test_what_has_nothing_to_do_with_how_it_is_asked_stays_as_it_is(error):
    with pytest.raises(type(error)) as raised:
        capture(Raising(error), "stage2", noise_images(), 0)
    assert raised.value is error


def test_an_error_after_the_first_forward_stays_as_it_is():
    network = seeded(SmallCNN())
    evidence = capture(network, "stage2", noise_images(), 0)
    handle = network.head.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(OSError("broken later")))
    with pytest.raises(OSError, match="broken later"):
        evidence.relogits(noise_images()[:, None])
    handle.remove()


def test_an_encoders_output_is_named_by_its_entries():
    class Encoder(SmallCNN):
        def forward(self, images):
            features = self.features(images)
            return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=features.mean(dim=(2, 3)))

    words = "return logits .*got BaseModelOutputWithPooling with last_hidden_state, pooler_output. Say how it is asked"
    with pytest.raises(ForwardError, match=words):
        capture(seeded(Encoder()), "stage2", noise_images(), 0)


NAMES = ("cat", "dog", "owl", "fox", "bear")


def test_more_values_than_classes_are_warned_about():
    network = Task(seeded(SmallCNN(n_classes=12)))
    probe = Probe.from_tensors(noise_images(), TARGETS, class_names=NAMES)
    explainer = Explainer(DecomCAM(n_components=2), "stage2", forward="model")
    with pytest.warns(UserWarning, match="returns 12 values per image for 5 classes.*every image counts as wrong"):
        evaluate(network, probe, explainer, new_head=False, intervals=False, progress=False)


def test_as_many_values_as_classes_or_unknown_classes_are_no_matter():
    explainer = Explainer(DecomCAM(n_components=2), "stage2")
    for names in (NAMES, None):  # a warning is an error
        probe = Probe.from_tensors(noise_images(), TARGETS, class_names=names)
        evaluate(seeded(SmallCNN()), probe, explainer, new_head=False, intervals=False, progress=False)
