"""Trainings compared batch by batch: everything that they leave behind, as digests."""

import hashlib
import random

import lightning.pytorch as pl
import numpy as np
import torch
from torch.nn.parameter import is_lazy

from tests.helpers.modules import Spots, loader, seed_all, tiny, trainer


def digest(values) -> str:
    """SHA-256 of nested tensors and primitives; bit patterns count, so -0.0 is not 0.0."""
    total = hashlib.sha256()

    def add(value):
        if is_lazy(value):
            total.update(b"no numbers yet")
        elif isinstance(value, torch.Tensor):
            total.update(str((value.dtype, tuple(value.shape))).encode())
            total.update(value.detach().cpu().clone(memory_format=torch.contiguous_format).numpy().tobytes())
        elif isinstance(value, np.ndarray):
            total.update(value.tobytes())
        elif isinstance(value, dict):
            for key in value:
                total.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            total.update(str(len(value)).encode())
            for entry in value:
                add(entry)
        else:
            total.update(repr(value).encode())

    add(values)
    return total.hexdigest()


def fingerprint(run: pl.Trainer, module: pl.LightningModule) -> dict[str, str]:
    """Digests of everything a training leaves behind."""
    return {
        "weights": digest(dict(module.named_parameters())),
        "buffers": digest(dict(module.named_buffers())),
        "optimizer": digest([optimizer.state_dict() for optimizer in run.optimizers]),
        "gradients": digest({name: parameter.grad for name, parameter in module.named_parameters()}),
        "registered": digest(_registered(run, module)),
        "requires_grad": digest({name: parameter.requires_grad for name, parameter in module.named_parameters()}),
        "modes": digest({name: entry.training for name, entry in module.named_modules()}),
        "torch": digest(torch.get_rng_state()),
        "numpy": digest(list(np.random.get_state())),  # noqa: NPY002
        "python": digest(random.getstate()),
    }


def _registered(run: pl.Trainer, module: pl.LightningModule) -> list[bool]:
    """Of every place that holds a parameter, whether an optimizer holds the same object."""
    steered = {id(held) for optimizer in run.optimizers for group in optimizer.param_groups for held in group["params"]}
    return [id(held) in steered for entry in module.modules() for held in entry._parameters.values()]


class Diary(pl.Callback):
    """Notes the fingerprint at the beginning of every training batch, so that no difference can heal unseen."""

    def __init__(self) -> None:
        self.pages: list[dict[str, str]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.pages.append(fingerprint(trainer, pl_module) | {"batch": digest(batch)})


def train(root, *callbacks, workers=0, validate=True, module=None, **arguments):
    module = tiny(freeze_first_norm=True) if module is None else module
    diary = Diary()
    arguments = {"max_epochs": 3} | ({} if validate else {"limit_val_batches": 0}) | arguments
    run = trainer(root, diary, *callbacks, **arguments)
    loading = {"num_workers": workers, "persistent_workers": False}
    seed_all(7)
    run.fit(
        module,
        loader(Spots(augment=True), shuffle=True, **loading),
        loader(Spots(8, seed=2, augment=True), **loading),
    )
    return [*diary.pages, fingerprint(run, module)]


def assert_same(watched, alone):
    assert len(watched) == len(alone)
    for batch, (left, right) in enumerate(zip(watched, alone, strict=True)):
        assert [key for key in right if left[key] != right[key]] == [], f"before batch {batch}"
