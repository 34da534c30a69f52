"""The probe out of a Trainer's data, however these come."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler

from lit_decom import Probe
from lit_decom.callbacks.class_accuracy import ClassAccuracy
from lit_decom.callbacks.trainer_data import of_first_process
from tests.helpers.modules import Spots, Stream, Tiny, callback, loader, tiny, trainer
from tests.helpers.processes import in_processes

VALIDATION = [1, 2, 4, 7, 8, 11, 13, 14]


def found_probe(tmp_path, data, module=None, **arguments):
    observer = callback(**({"probe": 6} | arguments))
    trainer(tmp_path, observer, num_sanity_val_steps=0).fit(module or tiny(), loader(), data)
    return observer


def test_no_training_image_is_in_a_probe_of_images_that_a_sampler_chooses(tmp_path):
    data = Spots(16, seed=2)
    observer = found_probe(tmp_path, loader(data, sampler=SubsetRandomSampler(VALIDATION)), probe=64)
    assert sorted(map(int, observer.probe.ids)) == VALIDATION
    assert all(torch.equal(observer.probe.images[row], data.images[int(observer.probe.ids[row])]) for row in range(8))


def test_a_stream_is_read_from_its_first_batches_and_trained_on_from_its_beginning(tmp_path):
    with pytest.warns(UserWarning, match="Stream in a DataLoader is not read by index"):
        observer = found_probe(tmp_path, DataLoader(Stream(), batch_size=2))
    assert torch.equal(observer.probe.images, Spots().images[:4])


class Seen(Tiny):
    def on_train_start(self):
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].sum().item())
        return super().training_step(batch, batch_idx)


class Drawn(IterableDataset):
    """A stream in an order that its own generator draws, anew at each pass."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def __iter__(self):
        spots = Spots()
        return iter([spots[row] for row in torch.randperm(16, generator=self.generator).tolist()])


@pytest.mark.filterwarnings("ignore:Drawn in a DataLoader is not read by index")
@pytest.mark.parametrize("by_index", [True, False])
def test_a_training_goes_on_as_if_its_data_had_not_been_read(tmp_path, by_index):
    def run(*callbacks):
        module = tiny(Seen)
        generator = torch.Generator().manual_seed(4)
        data = loader(shuffle=True, generator=generator) if by_index else DataLoader(Drawn(), batch_size=4)
        trainer(tmp_path, *callbacks, limit_val_batches=0, max_epochs=2).fit(module, data, loader())
        return module

    watched, alone = run(callback(probe=8)), run()
    assert watched.seen == alone.seen
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), alone.parameters(), strict=True))


class Captions(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"caption": "a spot", "length": 2}


class AnyLoader(Tiny):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if not isinstance(batch, dict):
            super().validation_step(batch, batch_idx)


@pytest.mark.parametrize(
    "together",
    [
        list,
        lambda loaders: {str(place): found for place, found in enumerate(loaders)},
        lambda loaders: CombinedLoader(loaders, "sequential"),
    ],
    ids=["list", "dict", "combined"],
)
def test_a_first_loader_without_images_is_passed_over_and_said(tmp_path, together):
    data = Spots(8, seed=3)
    loaders = together([loader(Captions()), loader(data)])
    with pytest.warns(UserWarning, match=r"from loader 1, since none before it gives images: No probe .* Captions"):
        observer = found_probe(tmp_path, loaders, AnyLoader())
    assert torch.equal(observer.probe.images[0], data.images[int(observer.probe.ids[0])])


@pytest.mark.filterwarnings("ignore:The probe is from loader 1")
@pytest.mark.parametrize("given", [False, True], ids=["probe read", "probe given"])
@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_right_answers_are_counted_on_the_first_loader_with_images(tmp_path, monkeypatch, given, stage):
    counted, accuracy = [], ClassAccuracy.accuracy
    monkeypatch.setattr(
        ClassAccuracy, "accuracy", lambda self, *given: counted.append(self._counts) or accuracy(self, *given)
    )
    loaders = [loader(Captions()), loader(Spots(8, seed=3)), loader(Spots(12, seed=4))]
    settings = {"metrics": "default", "strata": "class_accuracy"} | ({} if given else {"probe": 6})
    observer = callback(**settings)
    run = trainer(tmp_path, observer, num_sanity_val_steps=0)
    if stage == "fit":
        run.fit(AnyLoader(), loader(), loaders)
    else:
        run.validate(AnyLoader(), loaders, verbose=False)
    assert counted[0][1].sum() == 8
    assert observer.last_snapshot.metric_scores


def test_no_loader_with_images_is_refused_before_training_with_the_remedy(tmp_path):
    module = AnyLoader()
    with pytest.raises(MisconfigurationException, match=r"Captions: .*keys \['caption', 'length'\].*`unpack=`"):
        found_probe(tmp_path, [loader(Captions()), loader(Captions())], module)
    assert module.global_step == 0


def test_a_first_loader_whose_images_have_no_labels_is_not_passed_over(tmp_path):
    class Unlabelled(Spots):
        def __getitem__(self, index):
            return {"image": self.images[index], "caption": "a spot"}

    with pytest.raises(MisconfigurationException, match=r"keys \['caption', 'image'\]"):
        found_probe(tmp_path, [loader(Unlabelled()), loader()], AnyLoader())


class PartlyLabelled(Spots):
    """Half of the images were labelled by nobody."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.targets = [label if index < 4 else -1 for index, label in enumerate(self.targets)]


class Ignoring(Tiny):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", torch.nn.functional.cross_entropy(self(batch[0]), batch[1], ignore_index=-1))


def test_what_nobody_labelled_is_in_no_probe_and_in_no_accuracy(tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(ClassAccuracy, "accuracy", lambda self, *given: counted.append(self._counts) or torch.ones(4))
    observer = callback(probe=8, metrics="default", strata="class_accuracy")
    run = trainer(tmp_path, observer, num_sanity_val_steps=0)
    run.fit(Ignoring(), loader(), loader(PartlyLabelled(8, seed=2)))
    assert sorted(map(int, observer.probe.ids)) == [0, 1, 2, 3]
    assert counted[0][1].tolist() == [1, 1, 1, 1]


def one(seed):
    spots = Spots(3, seed=seed)
    return Probe.from_tensors(spots.images, torch.tensor(spots.targets))


def test_processes_whose_pipelines_differ_all_take_the_probe_of_the_first():
    probes = [one(seed) for seed in range(3)]

    def found(process):
        with process.together():
            return of_first_process(process, lambda: (probes[process.rank], process.rank), given=False)

    assert in_processes(found) == [(probes[0], 0)] * 3


def test_processes_that_have_the_same_probe_keep_their_own_and_send_none():
    probes = [one(0) for _ in range(2)]

    def found(process):
        return of_first_process(process, lambda: (probes[process.rank], None), given=True)

    assert all(probe is own for (probe, _), own in zip(in_processes(found, 2), probes, strict=True))


def unreadable():
    raise OSError("no such file")


def test_where_the_first_can_read_its_data_the_others_need_not():
    probe = one(0)

    def found(process):
        with process.together():
            return of_first_process(process, unreadable if process.rank else lambda: (probe, 1), given=False)

    assert in_processes(found, 2) == [(probe, 1)] * 2


def test_where_the_first_cannot_nobody_goes_on():
    def found(process):
        with process.together():
            return of_first_process(process, (lambda: (one(0), 1)) if process.rank else unreadable, given=False)

    first, second = in_processes(found, 2)
    assert isinstance(first, OSError)
    assert str(second) == "Another process failed: OSError('no such file')"


def test_probes_that_were_given_and_differ_are_warned_about():
    def found(process):
        return of_first_process(process, lambda: (one(process.rank), None), given=True)

    with pytest.warns(UserWarning, match="`probe` to be the same in every process, but they were given different ones"):
        assert len({probe.digest for probe, _ in in_processes(found)}) == 1


PROCESSES = """
    import datetime, json, sys, warnings
    from pathlib import Path

    import torch
    import torch.distributed as dist
    from lightning.pytorch.strategies import DDPStrategy
    from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler

    from tests.helpers.modules import Spots, callback, loader, tiny, trainer

    warnings.simplefilter("ignore")
    root = Path(sys.argv[1])


    class Shares(IterableDataset):
        '''Every other image, by process.'''

        def __iter__(self):
            rank = dist.get_rank() if dist.is_initialized() else 0
            return iter([Spots(16, seed=2)[index] for index in range(rank, 16, 2)])


    data = {
        "sampler": loader(Spots(16, seed=2), sampler=SubsetRandomSampler(list(range(4, 12)))),
        "stream": DataLoader(Shares(), batch_size=2),
    }
    for name, validation in data.items():
        strategy = DDPStrategy(process_group_backend="gloo", timeout=datetime.timedelta(seconds=60))
        observer = callback(probe=8)
        run = trainer(root, observer, devices=2, strategy=strategy, num_sanity_val_steps=0)
        run.fit(tiny(), loader(), validation)
        found = {"ids": observer.probe.ids, "digest": observer.probe.digest}
        (root / f"{name}{run.global_rank}.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_have_one_probe_whatever_shares_their_data_come_in(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PROCESSES))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert found["sampler0"] == found["sampler1"]
    assert found["stream0"] == found["stream1"]
    # What the sampler gives to both processes together, and the first process's share of the stream.
    assert sorted(map(int, found["sampler0"]["ids"])) == list(range(4, 12))
    assert len(found["stream0"]["ids"]) == 8


class WithNormalisation(Spots):
    mean, std = [0.2, 0.3, 0.4], torch.tensor([0.5, 0.5, 0.5]).reshape(3, 1, 1)


def test_a_dataset_tells_mean_and_std_in_whatever_shape(tmp_path):
    class Normalised(WithNormalisation):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return (image - torch.tensor(self.mean).reshape(3, 1, 1)) / self.std, label

    probe = found_probe(tmp_path, loader(torch.utils.data.Subset(Normalised(8), range(6)))).probe
    assert probe.mean.tolist() == pytest.approx(WithNormalisation.mean)
    assert probe.std.tolist() == [0.5] * 3
