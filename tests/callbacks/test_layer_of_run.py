"""One layer throughout a run: what a training found is explained when it is validated, tested, resumed and replayed."""

import pytest
import timm
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_decom import Probe
from lit_decom.callbacks import ReplayCallback
from lit_decom.callbacks.trainer_access import layer_of_checkpoint
from lit_decom.evidence import target_layer
from tests.callbacks.test_replay import Data
from tests.helpers.modules import CLASSES, Aliased, Keep, Spots, Wrapped, callback, fit, loader, seed_all, tiny, trainer


def resnet26():
    """timm's, whose last normalisations begin at zero."""
    return Wrapped(timm.create_model("resnet26", num_classes=4))


def large_probe(n=2):
    generator = torch.Generator().manual_seed(0)
    return Probe.from_tensors(torch.rand(n, 3, 64, 64, generator=generator), torch.arange(n), class_names=CLASSES)


def explained(observer):
    return observer.last_snapshot.settings["target_layer"]


@pytest.mark.slow
def test_a_network_whose_weights_would_lead_elsewhere_is_explained_at_one_layer(tmp_path):
    def observer():
        return callback(target_layer=None, probe=large_probe())

    seed_all(0)
    first, module = observer(), resnet26()
    run = trainer(tmp_path, Keep(tmp_path), first, max_epochs=2)
    run.fit(module, loader(Spots(8)), loader(Spots(4)))
    layer, checkpoint = explained(first), tmp_path / "epoch=0.ckpt"
    assert layer.startswith("net.")
    run.validate(module, loader(Spots(4)), verbose=False)
    assert explained(first) == layer
    afresh = observer()
    trainer(tmp_path, afresh).validate(resnet26(), loader(Spots(4)), ckpt_path=checkpoint, verbose=False)
    assert explained(afresh) == layer
    resumed = observer()
    trainer(tmp_path, resumed, max_epochs=2).fit(resnet26(), loader(Spots(8)), loader(Spots(4)), ckpt_path=checkpoint)
    assert explained(resumed) == layer
    # It was followed: the second snapshot knows the components of the first.
    assert resumed.last_snapshot.similarity.isfinite().any()


@pytest.fixture
def fickle(monkeypatch):
    """Let the search find another layer each time that it is made."""
    found, by_name = iter(["second", "first", "second.0", "first.0", "second.1"]), target_layer.find_target_layer

    def search(model, name=None, images=None, **options):
        return by_name(model, name or next(found), images, **options)

    monkeypatch.setattr("lit_decom.explainer.find_target_layer", search)


def train(tmp_path, observer, max_epochs=1, **arguments):
    return fit(tmp_path, Keep(tmp_path / "kept"), observer, max_epochs=max_epochs, **arguments)


def first_checkpoint(tmp_path):
    return tmp_path / "kept" / "epoch=0.ckpt"


@pytest.mark.usefixtures("fickle")
def test_the_layer_found_is_kept_in_checkpoints_and_explained_ever_after(tmp_path):
    first = callback(target_layer=None)
    run = train(tmp_path, first)
    assert explained(first) == "second"
    run.validate(run.lightning_module, loader(), verbose=False)
    assert explained(first) == "second"
    resumed, checkpoint = callback(target_layer=None), first_checkpoint(tmp_path)
    train(tmp_path, resumed, 2, ckpt_path=checkpoint)
    assert explained(resumed) == "second"
    for stage in ("validate", "test"):
        afresh = callback(target_layer=None)
        getattr(trainer(tmp_path, afresh), stage)(tiny(), loader(), ckpt_path=checkpoint, verbose=False)
        assert explained(afresh) == "second"


@pytest.mark.usefixtures("fickle")
def test_a_new_training_searches_anew(tmp_path):
    observer = callback(target_layer=None)
    train(tmp_path, observer)
    train(tmp_path, observer)
    assert explained(observer) == "first"


@pytest.mark.usefixtures("fickle")
def test_looking_at_another_run_leaves_the_layer_of_this_one(tmp_path):
    theirs, ours = callback(target_layer=None), callback(target_layer=None)
    train(tmp_path / "theirs", theirs)
    run = train(tmp_path / "ours", ours)
    assert (explained(theirs), explained(ours)) == ("second", "first")
    state = ours.state_dict()
    checkpoint = first_checkpoint(tmp_path / "theirs")
    assert layer_of_checkpoint(checkpoint, "decomcam") == "second"
    assert layer_of_checkpoint(checkpoint, "another") is None
    assert layer_of_checkpoint(None, "decomcam") is None
    # As in Lightning 2.5, which gives callbacks no state of a checkpoint that is validated.
    ours.load_state_dict = lambda state: None
    run.validate(run.lightning_module, loader(), ckpt_path=checkpoint, verbose=False)
    assert explained(ours) == "second"
    assert ours.state_dict()["target_layer"] == state["target_layer"] == "first"


@pytest.mark.usefixtures("fickle")
def test_replay_explains_the_layer_that_the_run_explained(tmp_path):
    live = callback(target_layer=None)
    train(tmp_path, live, 2)
    replay = callback(ReplayCallback, target_layer=None)
    run = trainer(tmp_path, replay, limit_val_batches=1)
    replay.replay(run, tiny(), Data(), tmp_path / "kept")
    assert explained(replay) == explained(live) == "second"


@pytest.mark.parametrize("name", ["second", "stage"])
def test_a_resumed_run_may_name_the_layer_that_it_began_with(tmp_path, name):
    train(tmp_path, callback(), module=tiny(Aliased))
    resumed = callback(target_layer=name)
    train(tmp_path, resumed, 2, ckpt_path=first_checkpoint(tmp_path), module=tiny(Aliased))
    assert resumed.last_snapshot.similarity.isfinite().any()


def test_a_resumed_run_that_names_another_layer_is_refused(tmp_path):
    train(tmp_path, callback())
    words = r"`target_layer` to be the one this run began with \('second'\), but got 'first'\. .*start a new run"
    with pytest.raises(MisconfigurationException, match=words):
        train(tmp_path, callback(target_layer="first"), 2, ckpt_path=first_checkpoint(tmp_path))


def test_another_layer_of_a_checkpoint_may_be_looked_at(tmp_path):
    train(tmp_path, callback())
    looking = callback(target_layer="first")
    trainer(tmp_path, looking).validate(tiny(), loader(), ckpt_path=first_checkpoint(tmp_path), verbose=False)
    assert explained(looking) == "first"


@pytest.mark.parametrize("content", [b"no checkpoint", None])
def test_a_checkpoint_that_cannot_be_read_names_no_layer(tmp_path, content):
    path = tmp_path / "x.ckpt"
    if content is not None:
        path.write_bytes(content)
    assert layer_of_checkpoint(path, "decomcam") is None
