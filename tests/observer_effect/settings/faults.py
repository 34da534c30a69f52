"""Faults that a training without the callback never notices: files, loggers, bars and warnings."""

import json
import warnings
from contextlib import contextmanager
from functools import partial
from unittest import mock

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers.logger import Logger
from torch.utils.data import IterableDataset, default_collate

from lit_decom.callbacks import trainer_access
from tests.helpers.modules import Spots, Tiny, loader, tiny
from tests.helpers.settings import Setting

# ----- data


class Broken(Spots):
    """Some files cannot be read; nobody knows its labels but from reading it."""

    def __init__(self, n=8, broken=(5, 6), *, known=True):
        super().__init__(n, seed=2)
        self.broken = broken
        if not known:
            self.labels, self.targets = self.targets, None

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError("cannot identify image file")
        return self.images[index], self.labels[index] if self.targets is None else self.targets[index]


class Gaps(Spots):
    """Gives None for what cannot be read, for its collate function to drop."""

    def __getitem__(self, index):
        return None if index in {2, 5} else super().__getitem__(index)


def without_gaps(samples):
    return default_collate([sample for sample in samples if sample is not None])


def mixed(samples):
    """Each image with a trace of the next one: of one sample alone it makes nothing."""
    (image, label), (other, _) = samples[0], samples[1]
    return default_collate([(image + 0.01 * other, label), *samples[1:]])


class Ending(IterableDataset):
    """A stream whose third file cannot be read."""

    def __iter__(self):
        spots = Spots(8, seed=2)
        yield from (spots[index] for index in range(4))
        raise OSError("cannot identify image file")


class Unprepared(Spots):
    """Knows mean, std and names only after something that nobody did."""

    @property
    def mean(self):
        raise RuntimeError("call `prepare` first")

    std = classes = mean

    def __init__(self):
        torch.utils.data.Dataset.__init__(self)
        spots = Spots(8, seed=2)
        self.images, self.targets, self.augment = spots.images, spots.targets, False


def validated_on(dataset, **arguments):
    return lambda: (loader(Spots(augment=True), shuffle=True), loader(dataset(), **arguments))


def data(name, dataset, warns=(), n=6, limit=1, **arguments):
    return Setting(
        name,
        loaders=validated_on(dataset, **arguments),
        observer={"probe": n},
        trainer={"limit_val_batches": limit},
        warns=warns,
    )


LEFT_OUT = r"leaves out what cannot be read: 2 samples \({}\), {}"
STREAM = "is not read by index"

DATA = [
    data("files that validation never reads", Broken, [LEFT_OUT.format("[56], [56]", "OSError: cannot identify")]),
    data(
        "such files, whose labels are known from reading alone",
        partial(Broken, known=False),
        [LEFT_OUT.format("[56], [56]", "OSError: cannot identify")],
    ),
    data(
        "a collate function that drops samples",
        partial(Gaps, 8, seed=2),
        [LEFT_OUT.format("[25], [25]", "IndexError")],
        limit=1.0,
        collate_fn=without_gaps,
    ),
    data("a collate function that wants two samples", partial(Spots, 8, seed=2), [STREAM], collate_fn=mixed),
    data("a stream that breaks off", Ending, [r"leaves out .*: 1 batch \(2\), OSError", STREAM], batch_size=2),
    data("a dataset that does not know its normalisation yet", Unprepared),
]

# ----- where records lie


@contextmanager
def unreadable_record_of_another_day(root):
    (root / "run").mkdir()
    (root / "run" / "run.json").write_text('{"run_id": ')
    yield


class Shy(Logger):
    """A tracker that does not say something of itself."""

    experiment, root_dir = None, None

    def __init__(self, silent, folder):
        super().__init__()
        self.silent, self.folder = silent, folder

    def told(self, what, value):
        if what == self.silent:
            raise ConnectionError("the server is down")
        return value

    name = property(lambda self: self.told("name", "shy"))
    version = property(lambda self: self.told("version", 3))
    save_dir = property(lambda self: self.told("save_dir", self.folder))

    def log_metrics(self, metrics, step=None):
        json.dumps(metrics)

    def log_hyperparams(self, params, *arguments):
        json.dumps(params)


def shy(what):
    return Setting(
        f"a logger whose {what} raises",
        observer={"dirpath": None},
        # Lightning itself asks the first one.
        trainer=lambda root: {"logger": [Shy("nothing", None), Shy(what, root)]},
        errors=1,
        warns=["could not learn from Shy where the run is kept: ConnectionError"],
    )


class Mute:
    """A target that cannot be written down."""

    def __call__(self, logits, labels):
        return logits.gather(1, labels[:, None])[:, 0]

    def __repr__(self):
        raise RuntimeError("nothing to say")


PLACES = [
    Setting(
        "an unreadable run file in the folder",
        around=unreadable_record_of_another_day,
        errors=1,
        warns=[r"could not learn whose records lie in .*run, and keeps those of this run in .*run_\w{8}"],
    ),
    *map(shy, ("name", "version", "save_dir")),
    Setting(
        "a setting that cannot be written down",
        observer={"target": Mute()},
        errors=1,
        warns=["could not describe the run: RuntimeError: nothing to say"],
    ),
]

# ----- bars


class Clumsy:
    """A progress bar of the snapshot that fails in one of its places."""

    def __init__(self, place):
        self.place = place

    def fail(self, place):
        if place == self.place:
            raise OSError("the terminal is gone")

    def __enter__(self):
        self.fail("begins")
        return self

    def __exit__(self, *_):
        self.fail("ends")

    def update(self, _images):
        self.fail("moves")


class OwnLines(RichProgressBar):
    """Lets nobody else's line move."""

    def _init_progress(self, trainer):
        super()._init_progress(trainer)
        if self.progress is not None:
            update = self.progress.update

            def own(task, **arguments):
                if "advance" in arguments and "refresh" in arguments:
                    raise ValueError("not a line of mine")
                update(task, **arguments)

            self.progress.update = own


BARS = [
    *(
        Setting(
            f"a bar that fails when it {place}",
            around=lambda _root, place=place: mock.patch.object(trainer_access, "Tqdm", return_value=Clumsy(place)),
            trainer={"enable_progress_bar": True},
            beside=lambda: [TQDMProgressBar()],
            errors=3,
            warns=["could not show a progress bar: OSError: the terminal is gone"],
        )
        for place in ("begins", "moves", "ends")
    ),
    Setting(
        "a bar of the user's that fails for others",
        trainer={"enable_progress_bar": True},
        beside=lambda: [OwnLines()],
        errors=3,
        warns=["could not show a progress bar: ValueError: not a line of mine"],
    ),
]

# ----- warnings that are errors


class Errors(pl.Callback):
    """What `python -W error` does to all warnings but those that a training has anyhow."""

    def setup(self, trainer, pl_module, stage):
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message="isinstance")


class Deprecating(Tiny):
    """Warns, at one snapshot, where it is run in a way that no training runs it."""

    def forward(self, images):
        if not self.training and torch.is_grad_enabled() and self.current_epoch == 1:
            warnings.warn("this will go", DeprecationWarning, stacklevel=2)
        return super().forward(images)


WARNINGS = [
    Setting(
        "warnings are errors: of the probe",
        observer={"probe": 6},
        beside=lambda: [Errors()],
        warns=["another image at the second reading"],
    ),
    Setting(
        "warnings are errors: of the pictures",
        observer={"outline": True},
        beside=lambda: [Errors()],
        warns=["nothing is outlined"],
    ),
    Setting(
        "warnings are errors: of the network",
        module=lambda: tiny(Deprecating, freeze_first_norm=True),
        beside=lambda: [Errors()],
        warns=["this will go"],
    ),
    Setting(
        "warnings are errors: of what fails",
        observer={"target": Mute()},
        beside=lambda: [Errors()],
        errors=1,
        warns=["could not describe the run: RuntimeError: nothing to say"],
    ),
    Setting(
        "warnings are errors: of what is left out",
        loaders=validated_on(Broken),
        observer={"probe": 6, "keys": ["no such key"]},
        trainer={"limit_val_batches": 1},
        beside=lambda: [Errors()],
        warns=["leaves out what cannot be read", "none matched"],
    ),
]

SETTINGS = [*DATA, *PLACES, *BARS, *WARNINGS]
