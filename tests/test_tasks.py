from pathlib import Path

import lightning as L
import pytest
import torch
import torchvision
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI, ReduceLROnPlateau
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lit_decom.data import CritterAttributesDataModule, CrittersDataModule
from lit_decom.models.small_resnet import SmallResNet
from lit_decom.tasks import ClassificationTask, WarmupCosineLR, build_model, replace_head

CONFIGS = Path(__file__).parents[1] / "configs"

# one model of each
# fmt: off
FAMILIES = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf",
    "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11",
    "vit_b_16", "wide_resnet50_2",
]
# fmt: on

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    # Lightning 2.6 still uses it
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*litlogger.*"),
]


class Fixed(nn.Module):
    """Logits are the first pixels of the image plus a bias that learns."""

    def __init__(self, n):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, images):
        return images[:, 0, 0, : len(self.bias)] + self.bias


def loader(logits, labels, batch_size=3):
    images = logits[:, None, None, :].expand(-1, 3, 4, -1).clone()
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def trainer(tmp_path, **arguments):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=tmp_path, **quiet | {"enable_checkpointing": False} | arguments)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 4, generator=generator), torch.randint(4, (8,), generator=generator)


def sgd(params):
    return torch.optim.SGD(params, lr=0.0)


@pytest.mark.parametrize(("kind", "n_labels"), [("binary", 1), ("multilabel", 4)])
@pytest.mark.parametrize("scale", [3.0, 0.5], ids=["logits", "logits that could be probabilities"])
def test_sigmoids_are_trained_and_judged_at_their_threshold(tmp_path, problem, kind, n_labels, scale):
    logits = problem[0].abs() * scale * torch.tensor([1, -1, 1, 1])
    # Where every logit lies in 0..1, torchmetrics takes them for probabilities.
    logits = (logits.clamp(0, 1) if scale < 1 else logits)[:, :n_labels]
    labels = (torch.arange(8)[:, None] // torch.tensor([1, 2, 3, 4]) % 2)[:, :n_labels]
    given = labels[:, 0] if kind == "binary" else labels.float()
    task = ClassificationTask(
        Fixed(n_labels), 2 if kind == "binary" else 4, optimizer=sgd, label_smoothing=0.2, task=kind
    )
    run = trainer(tmp_path, max_epochs=1)
    run.fit(task, loader(logits, given), loader(logits, given))
    for stage, smoothing in (("train", 0.2), ("val", 0.0)):
        smoothed = labels * (1 - smoothing) + smoothing / 2
        expected = -(smoothed * logits.sigmoid().log() + (1 - smoothed) * (-logits).sigmoid().log()).mean()
        assert float(run.callback_metrics[f"{stage}/loss"]) == pytest.approx(float(expected), abs=1e-6)
        right = ((logits.sigmoid() > 0.5).long() == labels).float().mean()
        assert float(run.callback_metrics[f"{stage}/acc"]) == pytest.approx(float(right))
    probabilities = torch.cat(trainer(tmp_path).predict(task, loader(logits, given)))
    torch.testing.assert_close(probabilities, logits.sigmoid())


def test_a_task_that_is_not_that_of_the_data_is_refused(tmp_path):
    data = CritterAttributesDataModule(["snout"], n_train=8, n_val=8, image_size=32)
    with pytest.raises(
        MisconfigurationException, match=r"`task` to be 'binary', as that of CritterAttributesDataModule"
    ):
        trainer(tmp_path, max_epochs=1).fit(ClassificationTask(num_classes=2, model_args={"width": 8}), data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "regression"}, r"`task` to be one of multiclass, binary, multilabel, but got 'regression'"),
        ({"task": "binary"}, r"`num_classes` to be 2 for `task='binary'`, but got 8"),
    ],
)
def test_tasks_that_there_are_not_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassificationTask(**arguments)


def test_loss_and_accuracy_are_means_over_samples_not_batches(tmp_path, problem):
    logits, labels = problem
    task = ClassificationTask(Fixed(4), 4, optimizer=sgd, label_smoothing=0.2)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(task, loader(logits, labels), loader(logits, labels))
    logged = run.callback_metrics | trainer(tmp_path).test(task, loader(logits, labels), verbose=False)[0]
    accuracy = (logits.argmax(1) == labels).float().mean()
    for stage in ("train", "val", "test"):
        smoothing = 0.2 if stage == "train" else 0.0
        expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        assert float(logged[f"{stage}/loss"]) == pytest.approx(float(expected), abs=1e-6)
        assert float(logged[f"{stage}/acc"]) == pytest.approx(float(accuracy))
    assert set(logged) == {f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", "acc")}


def test_the_task_is_its_network(problem):
    images = torch.rand(2, 3, 32, 32)
    network = SmallResNet(4, width=8).eval()
    task = ClassificationTask(network, 4).eval()
    assert task.model is network
    assert torch.equal(task(images), network(images))
    probabilities = task.predict_step((images, torch.zeros(2)), 0)
    torch.testing.assert_close(probabilities, network(images).softmax(1))


def test_a_batch_may_hold_labels_or_a_dictionary_with_labels():
    images, labels = torch.zeros(2, 3, 4, 4), torch.tensor([1, 0])
    for target in (labels, {"label": labels, "masks": torch.zeros(2, 1, 4, 4)}):
        unpacked = ClassificationTask.unpack([images, target])
        assert unpacked[0] is images
        assert unpacked[1] is labels
    with pytest.raises(ValueError, match=r"key 'label', but got \['masks'\]"):
        ClassificationTask.unpack([images, {"masks": labels}])


def test_callbacks_can_monitor_validation(tmp_path):
    data = CrittersDataModule(16, 16, 8, image_size=32, batch_size=8)
    callbacks = [
        ModelCheckpoint(tmp_path, filename="best", monitor="val/acc", mode="max"),
        EarlyStopping("val/loss"),
    ]
    run = trainer(tmp_path, max_epochs=2, callbacks=callbacks, enable_checkpointing=True)
    run.fit(ClassificationTask(model_args={"width": 8}), data)
    assert (tmp_path / "best.ckpt").is_file()
    assert float(callbacks[0].best_model_score) in [k / 16 for k in range(17)]
    assert float(callbacks[1].best_score) <= float(run.callback_metrics["val/loss"])


def test_training_on_critters_lowers_the_loss(tmp_path):
    L.seed_everything(0, verbose=False)
    losses = []

    class Record(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            losses.append(float(trainer.callback_metrics["train/loss"]))

    data = CrittersDataModule(32, 8, 8, image_size=32, batch_size=16, augmentation=[])
    trainer(tmp_path, max_epochs=12, callbacks=[Record()]).fit(ClassificationTask(model_args={"width": 8}), data)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_checkpoint_restores_the_task(tmp_path, weights_only):
    task = ClassificationTask(model_args={"width": 8, "n_stages": 2}, num_classes=3, label_smoothing=0.1).eval()
    run = trainer(tmp_path)
    run.strategy.connect(task)
    run.save_checkpoint(tmp_path / "task.ckpt")
    restored = ClassificationTask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=weights_only).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(restored(images), task(images))
    assert restored.label_smoothing == 0.1
    assert restored.hparams == task.hparams


def test_a_given_network_is_not_copied_into_the_hyperparameters():
    task = ClassificationTask(SmallResNet(2, width=8), 2)
    assert "model" not in task.hparams
    assert task.hparams["num_classes"] == 2
    assert ClassificationTask().hparams["model"] == "small_resnet"


class TestOptimizers:
    def test_adamw_by_default(self):
        optimizer = ClassificationTask(model_args={"width": 8}).configure_optimizers()
        assert isinstance(optimizer, torch.optim.AdamW)
        assert optimizer.defaults["lr"] == 1e-3

    def test_the_schedule_advances_as_asked(self, tmp_path, problem):
        rates = {}
        for interval in ("epoch", "step"):
            task = ClassificationTask(
                Fixed(4),
                4,
                optimizer=lambda params: torch.optim.SGD(params, lr=1.0),
                scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
                scheduler_interval=interval,
            )
            trainer(tmp_path, max_epochs=2).fit(task, loader(*problem, batch_size=2), loader(*problem))
            rates[interval] = task.optimizers().param_groups[0]["lr"]
        assert rates == {"epoch": 0.5**2, "step": 0.5**8}

    def test_the_rate_rises_for_the_warmup_and_falls_along_a_cosine_to_zero(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
        scheduler = WarmupCosineLR(optimizer, total_steps=6, warmup=0.34)
        rates = []
        for _ in range(8):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        half = 2**0.5 / 2
        assert rates == pytest.approx([2 / 3, 4 / 3, 2, 1 + half, 1, 1 - half, 0, 0])

    @pytest.mark.parametrize(("steps", "warmup"), [(0, 0.1), (5, 1.0), (5, -0.1)])
    def test_an_impossible_schedule_is_refused(self, steps, warmup):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
        with pytest.raises(ValueError, match=r"Expected `(total_steps|warmup)` to be at least"):
            WarmupCosineLR(optimizer, steps, warmup)

    def test_a_plateau_schedule_follows_its_monitor(self, tmp_path, problem):
        task = ClassificationTask(
            Fixed(4),
            4,
            optimizer=lambda params: torch.optim.SGD(params, lr=0.0),
            scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, monitor="val/loss", patience=0),
        )
        assert task.configure_optimizers()["lr_scheduler"]["monitor"] == "val/loss"
        run = trainer(tmp_path, max_epochs=3)
        run.fit(task, loader(*problem), loader(*problem))
        assert task.lr_schedulers().num_bad_epochs == 0  # reset when the rate was reduced
        assert task.lr_schedulers().last_epoch == 3


class TestModels:
    def test_by_name_with_arguments(self):
        assert build_model("small_resnet", 5, width=8).fc.out_features == 5
        network = build_model("mobilenet_v3_small", 5, dropout=0.5)
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 5)

    def test_an_unknown_name_lists_the_known_ones(self):
        with pytest.raises(ValueError, match=r"one of small_resnet, alexnet, .*resnet18.*, but got 'resnet19'"):
            ClassificationTask("resnet19")

    def test_a_detection_model_is_no_classifier(self):
        with pytest.raises(ValueError, match="but got 'fasterrcnn_resnet50_fpn'"):
            build_model("fasterrcnn_resnet50_fpn", 2)

    def test_pretrained_weights_come_with_a_new_head(self, monkeypatch):
        asked = []

        def get_model(name, **arguments):
            asked.append(arguments)
            return torchvision.models.resnet18()

        monkeypatch.setattr(torchvision.models, "get_model", get_model)
        task = ClassificationTask("resnet18", 3, weights="DEFAULT")
        assert asked == [{"weights": "DEFAULT"}]
        assert task.model.fc.out_features == 3

    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_head_of_every_family_of_torchvision_is_found(self, name):
        arguments = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        with torch.device("cpu" if name.startswith("regnet") else "meta"):  # RegNet computes its widths with tensors
            network = torchvision.models.get_model(name, weights=None, **arguments)
            before = {path: tuple(p.shape) for path, p in network.named_parameters()}
            replace_head(network, 3)
        changed = {path: tuple(p.shape) for path, p in network.named_parameters() if tuple(p.shape) != before[path]}
        assert {shape[0] for shape in changed.values()} == {3}
        assert {before[path][0] for path in changed} == {1000}
        assert before.keys() == dict(network.named_parameters()).keys()

    def test_a_network_without_layers_has_no_head(self):
        with pytest.raises(ValueError, match="linear or convolutional layer, but got ReLU"):
            replace_head(nn.ReLU(), 3)

    def test_small_resnet_has_no_pretrained_weights(self):
        with pytest.raises(ValueError, match="Expected `weights` to be None for 'small_resnet'"):
            ClassificationTask(weights="DEFAULT")

    def test_a_network_takes_no_arguments_of_named_models(self):
        with pytest.raises(ValueError, match="Expected `model_args` and `weights` to be None for a network"):
            ClassificationTask(nn.Flatten(), 2, {"width": 8})

    def test_auxiliary_outputs_are_refused_with_the_remedy(self):
        task = ClassificationTask("googlenet", 2, {"init_weights": False, "aux_logits": True})
        with pytest.raises(TypeError, match=r"GoogLeNetOutputs.*'aux_logits': False"):
            task(torch.zeros(2, 3, 64, 64))

    @pytest.mark.parametrize("smoothing", [-0.1, 1.0])
    def test_label_smoothing_has_a_range(self, smoothing):
        with pytest.raises(ValueError, match="`label_smoothing` to be at least 0 and less than 1"):
            ClassificationTask(label_smoothing=smoothing)


def parse(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["lit-decom"])  # or LightningCLI warns of pytest's own arguments
    return LightningCLI(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_kwargs={"parser_mode": "omegaconf+"},
        save_config_callback=None,
        seed_everything_default=False,
        run=False,
        args=list(arguments),
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning 2.6 and jsonargparse 4.53
@pytest.mark.parametrize("model", ["small_resnet", "torchvision"])
@pytest.mark.parametrize("data", ["critters", "digits", "image_folder"])
def test_config_fragments_build_their_classes(monkeypatch, model, data):
    cli = parse(
        monkeypatch,
        f"--config={CONFIGS / 'data' / data}.yaml",
        f"--config={CONFIGS / 'model' / model}.yaml",
        "--trainer.max_epochs=5",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
    )
    configured = cli.model.configure_optimizers()
    assert isinstance(configured["optimizer"], torch.optim.AdamW)
    scheduler = configured["lr_scheduler"]["scheduler"]
    optimizer = configured["optimizer"]
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert min(rates[:5]) > 0
    assert rates[5] == pytest.approx(0)  # the schedule ends with the five epochs
    assert cli.datamodule.batch_size == 32


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning 2.6 and jsonargparse 4.53
def test_a_task_made_by_the_command_line_is_restored_from_its_checkpoint(monkeypatch, tmp_path):
    cli = parse(
        monkeypatch,
        f"--config={CONFIGS / 'data' / 'critters.yaml'}",
        f"--config={CONFIGS / 'model' / 'small_resnet.yaml'}",
        "--model.init_args.model_args.width=8",
        "--data.init_args.image_size=32",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1",
        "--trainer.limit_val_batches=1",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={tmp_path}",
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    path = cli.trainer.checkpoint_callback.best_model_path
    restored = ClassificationTask.load_from_checkpoint(path).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(restored(images), cli.model.eval()(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning 2.6 and jsonargparse 4.53
@pytest.mark.parametrize(("data", "epochs", "least"), [("digits", 6, 0.95), ("critters", 8, 0.85)])
def test_the_small_network_learns_the_built_in_data_within_its_epochs(monkeypatch, tmp_path, data, epochs, least):
    L.seed_everything(0, verbose=False)
    cli = parse(
        monkeypatch,
        f"--config={CONFIGS / 'data' / data}.yaml",
        f"--config={CONFIGS / 'model' / 'small_resnet.yaml'}",
        f"--model.init_args.num_classes={10 if data == 'digits' else 8}",
        f"--trainer.max_epochs={epochs}",
        "--trainer.accelerator=cpu",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_checkpointing=false",
        f"--trainer.default_root_dir={tmp_path}",
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.callback_metrics["val/acc"] > least


def test_a_number_of_classes_that_is_not_the_datas_is_refused_before_the_first_step(tmp_path):
    data = CrittersDataModule(n_train=8, n_val=8, n_test=8, image_size=32, batch_size=4)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    task = ClassificationTask(Fixed(10), num_classes=10)
    for run in (trainer.fit, trainer.validate, trainer.test):
        with pytest.raises(MisconfigurationException, match=r"`num_classes` to be 8, as .* CrittersData.*got 10\."):
            run(task, datamodule=data)
    assert trainer.global_step == 0
    # Loaders do not know; the trainer would remember its data module.
    trainer.datamodule = None
    trainer.validate(task, data.val_dataloader(), verbose=False)
