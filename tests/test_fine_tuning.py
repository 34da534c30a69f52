"""CLIP towers under ClassificationTask: linear probe and full fine-tuning, watched by the callback."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch

from lit_decom import DecomCAMCallback, Log, ZeroShotClassifier
from lit_decom.cli import main
from lit_decom.data import CrittersDataModule
from lit_decom.tasks import ClassificationTask
from tests.models.test_zero_shot_towers import letters, noise_images, open_clip_model

# What is frozen is in evaluation mode on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")

NAMES = list(CrittersDataModule(8, 8, 8).class_names)


def classifier(kind="resnet"):
    return ZeroShotClassifier.from_open_clip(open_clip_model(kind), NAMES, tokenizer=letters)


def fitted(task, tmp_path, callbacks=()):
    L.seed_everything(0, verbose=False)
    data = CrittersDataModule(16, 8, 8, image_size=64, batch_size=8)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
    )
    trainer.fit(task, data)
    return trainer


def watching(tmp_path, layer):
    return DecomCAMCallback(probe=2, target_layer=layer, log=Log(n_images=0), dirpath=tmp_path / "watched")


def changed(task, before):
    return {name for name, value in task.model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(("kind", "layer"), [("resnet", "layer3"), ("vit", "transformer.resblocks.0")])
def test_a_linear_probe_moves_nothing_but_its_head_and_is_watched(tmp_path, kind, layer):
    network = classifier(kind)
    expected = network(noise_images(2, 64))
    task = ClassificationTask(network, len(NAMES), trains="head")
    torch.testing.assert_close(task(noise_images(2, 64)), expected, rtol=1e-4, atol=1e-4)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    watcher = watching(tmp_path, layer)
    fitted(task, tmp_path, [watcher])
    assert changed(task, before) == {"head.weight", "head.bias"}, "running statistics stay as well"
    assert watcher.last_snapshot.epoch == 0
    assert watcher.last_snapshot.scores.isfinite().all()


def test_full_fine_tuning_moves_the_tower_towards_prompts_that_stay(tmp_path):
    task = ClassificationTask(classifier(), len(NAMES))
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    watcher = watching(tmp_path, "layer3")
    fitted(task, tmp_path, [watcher])
    assert "class_embeddings" not in changed(task, before)
    assert {name for name, _ in task.model.named_parameters()} <= changed(task, before)
    assert watcher.last_snapshot.epoch == 0


def test_a_probe_of_any_network_keeps_its_modes_and_optimizes_the_head_alone():
    task = ClassificationTask("small_resnet", 3, {"width": 8, "dropout": 0.5}, trains="head").train()
    assert not any(module.training for module in task.model.modules())
    assert task.val_acc.training
    optimized = {id(p) for group in task.configure_optimizers().param_groups for p in group["params"]}
    assert optimized == {id(task.model.fc.weight), id(task.model.fc.bias)}
    assert task.hparams["trains"] == "head"


def test_a_checkpoint_of_a_probe_is_restored(tmp_path):
    task = ClassificationTask(classifier(), len(NAMES), trains="head")
    with torch.no_grad():
        task.model.head.bias.add_(1.0)
    trainer = L.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "probe.ckpt")
    restored = ClassificationTask.load_from_checkpoint(tmp_path / "probe.ckpt", model=classifier())
    images = noise_images(2, 64)
    assert torch.equal(restored(images), task(images))


@pytest.mark.parametrize(("given", "told"), [((0.5, 0.5, 0.5), 1), ((0.48, 0.45, 0.4), 0)])
def test_images_that_are_normalised_otherwise_are_warned_of(tmp_path, recwarn, given, told):
    network = classifier()
    network.mean, network.std = (0.48, 0.45, 0.4), (0.25, 0.25, 0.25)
    task = ClassificationTask(network, len(NAMES), trains="head")
    task._trainer = SimpleNamespace(datamodule=CrittersDataModule(8, 8, 8, 64, mean=given))
    task.setup("fit")
    said = [str(warning.message) for warning in recwarn if "as the model was trained with" in str(warning.message)]
    assert len(said) == told
    if said:
        assert "Expected the data's `mean` to be [0.48, 0.45, 0.4]" in said[0]
        assert "but got [0.5, 0.5, 0.5]" in said[0]


TRAINED = torch.tensor([0.48, 0.45, 0.4])


@pytest.mark.parametrize(
    ("mean", "told"),
    [(TRAINED.tolist(), 0), (TRAINED[:, None, None], 0), (255 * TRAINED, 0), ([0.1, 0.2, 0.3], 1), (0.5, 1), (None, 0)],
)
def test_normalisations_of_other_data_modules_are_compared_in_whatever_shape(recwarn, mean, told):
    network = classifier()
    network.mean, network.std = tuple(TRAINED.tolist()), None
    task = ClassificationTask(network, len(NAMES), trains="head")
    task._trainer = SimpleNamespace(datamodule=SimpleNamespace(mean=mean))
    task.setup("fit")
    assert len([entry for entry in recwarn if "as the model was trained with" in str(entry.message)]) == told


def test_the_command_line_says_what_to_do_without_a_network(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("open_clip.factory.download_pretrained", refuse)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "quickstart.yaml", "--config", "model/open_clip.yaml", "--trainer.logger=false"])
    assert stopped.value.code not in (0, None)
    told = capsys.readouterr().err
    assert "no route to host" in told
    assert "pass `pretrained=` the path of the file" in told
    assert "Traceback" not in told
