"""Two processes around which something fails at most snapshots: memory, disk, trackers, other libraries."""

import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 600
N_EPOCHS = 60

SCRIPT = """
    import datetime, json, random, shutil, sys, warnings
    from contextlib import ExitStack
    from pathlib import Path
    from unittest import mock

    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.strategies import DDPStrategy

    from lit_decom.components import FollowedImages
    from lit_decom.evidence.network import Network
    from lit_decom.explainer import Explainer
    from lit_decom.records import Snapshot
    from lit_decom.scoring import Scoreboard
    from tests.helpers.modules import Spots, callback, loader, seed_all, tiny, trainer
    from tests.helpers.training import fingerprint

    root, watched, n_epochs, seed = Path(sys.argv[1]), sys.argv[2] == "watched", int(sys.argv[3]), int(sys.argv[4])


    def raising(error):
        def fail(*_args, **_options):
            raise error
        return fail


    def too_large(ask):
        def run(network, images, *args):
            if len(images) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return ask(network, images, *args)
        return run


    # What fails, and whether it can only fail in the first process.
    FAULTS = {
        "nothing": (lambda _observer: [], False),
        "explaining": (lambda _o: [mock.patch.object(Explainer, "pieces", raising(RuntimeError("no layer")))], False),
        "scoring": (lambda _o: [mock.patch.object(Scoreboard, "update", raising(ValueError("no score")))], False),
        "reducing": (lambda _o: [mock.patch.object(Scoreboard, "scores", raising(ValueError("no mean")))], False),
        "following": (lambda _o: [mock.patch.object(FollowedImages, "update", raising(KeyError("no image")))], False),
        "memory": (lambda _o: [mock.patch.object(Network, "__call__", too_large(Network.__call__))], False),
        "warnings": (lambda _o: [mock.patch.object(Explainer, "capture", warning(Explainer.capture))], False),
        "disk": (lambda _o: [mock.patch.object(Snapshot, "save", raising(OSError(28, "No space left")))], True),
        "tracker": (lambda _o: [mock.patch.object(CSVLogger, "log_metrics", raising(ConnectionError("gone")))], True),
        "directory": (lambda observer: [shutil.rmtree(observer.directory.path, ignore_errors=True)], True),
    }


    def warning(ask):
        def run(*args, **options):
            warnings.warn("a library is getting old", DeprecationWarning)
            return ask(*args, **options)
        return run


    class Faults(pl.Callback):
        '''At every snapshot one kind, in one process, drawn by seed and epoch alone.'''

        def __init__(self, observer):
            self.observer, self.struck, self.stack = observer, [], None

        def strike(self, trainer):
            draw = random.Random(f"{seed}/{trainer.current_epoch}")
            kind, rank = draw.choice(sorted(FAULTS)), draw.randrange(2)
            begin, first_alone = FAULTS[kind]
            self.struck.append(kind)
            self.stack = ExitStack()
            if trainer.global_rank == (0 if first_alone else rank):
                self.stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("error" if kind == "warnings" else "ignore")
                for patch in begin(self.observer):
                    if patch is not None:
                        self.stack.enter_context(patch)

        def end(self):
            if self.stack is not None:
                self.stack.close()
            self.stack = None


    class Before(pl.Callback):
        def __init__(self, faults):
            self.faults = faults

        def on_validation_epoch_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                self.faults.strike(trainer)


    class After(Before):
        def on_validation_epoch_end(self, trainer, pl_module):
            self.faults.end()


    class Pages(pl.Callback):
        def __init__(self):
            self.pages = []

        def on_train_epoch_start(self, trainer, pl_module):
            self.pages.append(fingerprint(trainer, pl_module))


    warnings.simplefilter("ignore")
    seed_all(0)
    module, pages = tiny(), Pages()
    observer = callback(metrics="default", strict=False, batch_size=2, dirpath=root / "run") if watched else None
    faults = Faults(observer)
    callbacks = [Before(faults), observer, After(faults), pages] if watched else [pages]
    strategy = DDPStrategy(process_group_backend="gloo", timeout=datetime.timedelta(seconds=60))
    run = trainer(root, *callbacks, max_epochs=n_epochs, devices=2, strategy=strategy, logger=CSVLogger(root))
    seed_all(7)
    run.fit(module, loader(Spots(augment=True), shuffle=True), loader(Spots(8, seed=2, augment=True)))
    found = {"pages": [*pages.pages, fingerprint(run, module)]}
    if watched:
        found |= {
            "struck": faults.struck,
            "errors": observer.errors,
            "epochs": sorted(record.epoch for record in observer.directory.records()) if run.is_global_zero else [],
        }
    (root / f"rank{run.global_rank}.json").write_text(json.dumps(found))
"""


def trained(root: Path, *arguments: object) -> list[dict]:
    root.mkdir()
    script = root / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(root), *map(str, arguments)]
    told = {"capture_output": True, "text": True}
    done = subprocess.run(command, cwd=root, env=environment, timeout=SECONDS, check=False, **told)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_a_training_with_faults_from_outside_is_the_one_without_the_callback(tmp_path):
    watched = trained(tmp_path / "watched", "watched", N_EPOCHS, 0)
    alone = trained(tmp_path / "alone", "alone", N_EPOCHS, 0)
    for rank in range(2):
        for epoch, (with_it, without) in enumerate(zip(watched[rank]["pages"], alone[rank]["pages"], strict=True)):
            assert [key for key in without if with_it[key] != without[key]] == [], f"rank {rank}, epoch {epoch}"
    first = watched[0]
    struck = Counter(first["struck"])
    assert len(struck) == 10
    # No snapshot is lost but those of which nothing could be made, and what lay in a folder that is gone.
    fatal = {"explaining", "scoring", "reducing", "following", "disk"}
    last_gone = max(epoch for epoch, kind in enumerate(first["struck"]) if kind == "directory")
    expected = [epoch for epoch, kind in enumerate(first["struck"]) if kind not in fatal and epoch >= last_gone]
    assert first["epochs"] == expected
    # The comparison sees what it must: weights moved in every epoch.
    assert len({page["weights"] for page in alone[0]["pages"]}) == N_EPOCHS + 1
