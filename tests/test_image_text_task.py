import lightning as L
import pytest
import torch
import yaml
from torch.nn import functional as F

from lit_decom import DecomCAMCallback, Log, ZeroShotClassifier, shipped_configs
from lit_decom.data import CrittersDataModule
from lit_decom.data.captions import WORDS
from lit_decom.tasks import ImageTextTask, WarmupCosineLR
from lit_decom.tasks.image_text import contrastive_loss
from tests.helpers.networks import noise_images

NAMES = list(CrittersDataModule(8, 8, 8).class_names)
SMALL = {"width": 8, "n_stages": 2, "text_width": 16, "text_blocks": 1}
CONFIG = yaml.safe_load(shipped_configs.find("clip_critters.yaml").read_text())


def task(**arguments):
    torch.manual_seed(0)
    return ImageTextTask(WORDS, NAMES, model_args=SMALL, **arguments)


def trainer(tmp_path, **arguments):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=tmp_path, **quiet | {"enable_checkpointing": False} | arguments)


def test_the_loss_is_the_mean_over_images_and_over_texts():
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    rows = -(torch.tensor([2.0, 3.0]) - logits.exp().sum(dim=1).log()).mean()
    columns = -(torch.tensor([2.0, 3.0]) - logits.exp().sum(dim=0).log()).mean()
    torch.testing.assert_close(contrastive_loss(logits), (rows + columns) / 2)
    assert float(contrastive_loss(100 * torch.eye(4))) < 1e-6


def test_what_is_logged_is_over_captions_and_over_labels(tmp_path):
    data, module = CrittersDataModule(8, 16, 16, 32, captions=True, batch_size=8), task()
    logged = trainer(tmp_path).validate(module, data, verbose=False)[0]
    module.eval()
    losses, right = [], []
    with torch.no_grad():
        for images, target in data.val_dataloader():
            losses.append(contrastive_loss(module.model(images, target["caption"])))
            right.append(module(images).argmax(dim=1) == target["label"])
    assert logged["val/loss"] == pytest.approx(float(torch.stack(losses).mean()), abs=1e-5)
    assert logged["val/acc"] == pytest.approx(float(torch.cat(right).float().mean()))
    assert set(trainer(tmp_path).test(module, data, verbose=False)[0]) == {"test/acc"}


def test_its_logits_are_those_of_the_classifier_that_is_made_of_it():
    module, images = task(templates=["a photo of a {}", "a {}"]).eval(), noise_images(3)
    made = ZeroShotClassifier.from_image_text(module.model, NAMES, ["a photo of a {}", "a {}"])
    torch.testing.assert_close(module(images), made(images))


def test_labels_are_never_learnt_from(tmp_path):
    states = []
    for shift in (0, 1):
        data, module = CrittersDataModule(16, 8, 8, 32, captions=True, batch_size=8), task()
        data.train_dataset.targets = (data.train_dataset.targets + shift) % 8
        L.seed_everything(0, verbose=False)
        trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(module, data)
        states.append(module.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_scale_stays_below_a_hundred(tmp_path):
    module = task(optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    with torch.no_grad():
        module.model.logit_scale.fill_(6.0)
    data = CrittersDataModule(8, 8, 8, 32, captions=True, batch_size=8)
    trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(module, data)
    assert module.model.logit_scale.exp().item() == pytest.approx(100)


def test_it_is_watched_while_it_learns_and_restored_from_its_checkpoint(tmp_path):
    module = task(scheduler=lambda optimizer: WarmupCosineLR(optimizer, 1))
    watcher = DecomCAMCallback(probe=2, target_layer="layer2", log=Log(n_images=0), dirpath=tmp_path / "watched")
    run = trainer(tmp_path, max_epochs=1, callbacks=[watcher])
    run.fit(module, CrittersDataModule(16, 8, 8, 32, captions=True, batch_size=8))
    assert watcher.last_snapshot.logits.shape == (2, 8)
    run.save_checkpoint(tmp_path / "task.ckpt")
    restored = ImageTextTask.load_from_checkpoint(tmp_path / "task.ckpt").eval()
    images = noise_images(2)
    assert torch.equal(restored(images), module.eval()(images))


def test_the_shipped_configuration_knows_every_word_and_every_class():
    given = CONFIG["model"]["init_args"]
    assert tuple(given["words"]) == WORDS
    assert given["class_names"] == NAMES
    ImageTextTask(given["words"], NAMES, given["templates"], SMALL)(noise_images(1))


@pytest.mark.slow
def test_it_learns_the_critters_from_captions_alone(tmp_path):
    """A shorter training than the shipped configuration's, far above the chance of 1 in 8."""
    L.seed_everything(1, verbose=False)
    given = CONFIG["model"]["init_args"]
    module = ImageTextTask(
        given["words"],
        NAMES,
        given["templates"],
        given["model_args"],
        optimizer=lambda params: torch.optim.AdamW(params, lr=given["optimizer"]["init_args"]["lr"]),
        scheduler=lambda optimizer: WarmupCosineLR(optimizer, 6),
    )
    data = CrittersDataModule(2000, 200, 8, 64, captions=True, batch_size=64)
    run = trainer(tmp_path, max_epochs=6, num_sanity_val_steps=0)
    run.fit(module, data)
    assert float(run.callback_metrics["val/acc"]) > 0.4
    images, target = next(iter(data.val_dataloader()))
    told = module.eval().model.encode_texts(["an animal with pointed ears", "an animal with round ears"])
    ears = (F.normalize(module.model.image_encoder(images), dim=1) @ F.normalize(told, dim=1).T).argmax(dim=1)
    assert float((ears == target["label"] // 4).float().mean()) > 0.75
