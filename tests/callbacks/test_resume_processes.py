"""Two processes resume a training together where a snapshot was awaited: neither waits for the other for ever."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
    import datetime, json, sys, warnings
    from pathlib import Path

    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
    from lightning.pytorch.strategies import DDPStrategy

    from tests.helpers.modules import Spots, callback, loader, tiny, trainer

    warnings.simplefilter("ignore")
    root, resumed = Path(sys.argv[1]), sys.argv[2] == "resumed"
    observer = callback(probe=11, metrics="default", batch_size=2)
    keep = ModelCheckpoint(root / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
    strategy = DDPStrategy(process_group_backend="gloo", timeout=datetime.timedelta(seconds=60))
    run = trainer(root, EMAWeightAveraging(decay=0.5), observer, keep, max_epochs=2, devices=2, strategy=strategy)
    checkpoint = root / "checkpoints/step=2.ckpt" if resumed else None
    run.fit(tiny(), loader(), loader(Spots(16, seed=2)), ckpt_path=checkpoint)
    if run.is_global_zero:
        found = [
            [each.epoch, each.step, each.settings["weights"], each.logits.tolist(), each.identities.tolist()]
            for each in observer.directory.records()
        ]
        (root / f"{sys.argv[2]}.json").write_text(json.dumps(found))
"""


def trained(root: Path, part: str) -> list[list]:
    script = root / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(root), part]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads((root / f"{part}.json").read_text())


@pytest.mark.slow
def test_two_processes_take_the_snapshot_that_was_awaited(tmp_path):
    whole, resumed = trained(tmp_path, "whole"), trained(tmp_path, "resumed")
    assert [each[:3] for each in resumed] == [each[:3] for each in whole] == [[0, 1, "averaged"], [1, 3, "averaged"]]
    assert resumed[0][3:] == whole[0][3:], "the same weights"
