"""Trainings explained in components that are not singular vectors, and in components that go on where they were."""

import lightning.pytorch as pl
import pytest
import torch

from lit_decom import DecomCAM
from lit_decom.callbacks import ReplayCallback
from lit_decom.records import RunDirectory
from tests.callbacks.test_replay import QUIET, Data, assert_the_same
from tests.helpers.modules import Keep, Tiny, callback, fit, probe, tiny, trainer

COLD = DecomCAM(n_components=3, decomposition="nmf")
WARM = DecomCAM(n_components=3, decomposition="nmf", warm_start=True)


def test_scores_curves_records_and_pictures_come_as_ever(tmp_path):
    shown = probe(6, mean=torch.zeros(3), std=torch.ones(3))
    observer = callback(method=COLD, metrics="default", probe=shown, n_shared=2, report=True)
    run = fit(tmp_path, observer, module=tiny(), max_epochs=3)
    records = list(observer.directory.records())
    assert len(records) == 3
    for record in records:
        found = record.decomposition
        assert not found.signed
        assert not found.orthogonal
        assert found.valid[:, 0].all()
        assert record.metric_scores
        assert not record.dropped
        assert (found.explained_energy.sum(dim=1) <= 1).all()
        assert record.settings["method"] == repr(COLD)
        assert "snapshot" not in record.settings
    assert not records[-1].flips.any(), "what has no sign cannot turn it"
    goes_on = records[-1].valid & ~records[-1].births
    assert goes_on.any()
    assert (records[-1].similarity[goes_on] > 0.5).all()
    for key in ("score_gain/component_01", "explained_energy/rank_01", "confidence", "effective_rank"):
        assert run.callback_metrics[f"decomcam/{key}"].isfinite()
    assert observer.errors == 0
    assert len(list((observer.directory.path / "pictures").glob("*.jpg"))) == 3
    assert observer.report_path.exists()


def trained(tmp_path, name, method, max_epochs, ckpt_path=None):
    module, observer = tiny(), callback(method=method, dirpath=tmp_path / name / "maps")
    # A checkpoint holds no random state, so that a resumed training drops out other units.
    module.drop.p = 0.0
    fit(tmp_path, Keep(tmp_path / name), observer, module=module, max_epochs=max_epochs, ckpt_path=ckpt_path)
    return list(observer.directory.records())


def test_a_warm_start_moves_components_less_than_a_cold_one(tmp_path):
    cold, warm = (trained(tmp_path, repr(method.warm_start), method, 4) for method in (COLD, WARM))
    assert torch.equal(cold[0].patterns, warm[0].patterns), "nothing came before the first"
    assert not torch.equal(cold[1].patterns, warm[1].patterns)
    assert [record.settings["snapshot"] for record in warm] == [1, 2, 3, 4]
    for first, second in zip(cold[1:], warm[1:], strict=True):
        assert second.drift.mean() <= first.drift.mean()
        torch.testing.assert_close(second.logits, first.logits)


def test_a_resumed_run_goes_on_from_the_components_of_its_checkpoint(tmp_path):
    whole = trained(tmp_path, "whole", WARM, 4)
    trained(tmp_path, "parts", WARM, 2)
    halves = trained(tmp_path, "parts", WARM, 4, tmp_path / "parts" / "epoch=1.ckpt")
    assert len(halves) == 4
    for first, second in zip(whole, halves, strict=True):
        assert_the_same(first, second)
        assert first.settings == second.settings


def replayed(tmp_path, folder):
    settings = {"method": WARM, "probe": 8, "n_images": 0, "n_shared": 0}
    replay = callback(ReplayCallback, **settings)
    run = pl.Trainer(**QUIET, default_root_dir=tmp_path, callbacks=[replay], limit_val_batches=1)
    with pytest.warns(UserWarning, match="only if every snapshot of it left a checkpoint here"):
        return list(RunDirectory(replay.replay(run, Tiny(), Data(), folder)).records())


def test_replay_needs_every_snapshot_and_says_so(tmp_path):
    settings = {"method": WARM, "probe": 8, "n_images": 0, "n_shared": 0}
    observer, kept = callback(**settings, dirpath=tmp_path / "live"), tmp_path / "kept"
    trainer(tmp_path, observer, Keep(kept), max_epochs=3, num_sanity_val_steps=0).fit(tiny(), Data())
    live = list(observer.directory.records())
    for first, second in zip(live, replayed(tmp_path, kept), strict=True):
        assert_the_same(first, second)
        assert first.settings["snapshot"] == second.settings["snapshot"]
    (kept / "epoch=1.ckpt").unlink()
    for file in (kept / "decomcam").iterdir():
        file.unlink()
    last = replayed(tmp_path, kept)[-1]
    assert torch.equal(last.logits, live[-1].logits)
    assert not torch.equal(last.patterns, live[-1].patterns)
    assert (last.settings["snapshot"], live[-1].settings["snapshot"]) == (2, 3)


def test_components_of_another_predicted_class_are_none_to_begin_from(tmp_path):
    observer = callback(method=WARM, target="predicted")
    fit(tmp_path, observer, max_epochs=2)
    shown = observer.probe
    (record,) = list(observer.directory.records())[-1:]
    same = observer.observer._starts(shown, record.targets)
    other = observer.observer._starts(shown, (record.targets + 1) % 4)
    assert all(len(start) == 3 for start in same)
    assert any(len(start) == 0 for start in other)
