"""What a row of faults lets pass ends a training that is strict; and faults of a run that is resumed."""

from dataclasses import replace

import pytest

from tests.helpers.modules import Keep, callback, fit
from tests.helpers.settings import run
from tests.observer_effect.settings.faults import SETTINGS


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting.errors], ids=str)
def test_what_is_let_pass_is_an_error_where_that_is_asked_for(tmp_path, setting):
    strict = replace(setting, observer={**setting.observer, "strict": True})
    # As it was raised, or in the words that a run directory is refused in; nothing that we made of it.
    with pytest.raises(Exception, match=r"terminal is gone|not a line|server is down|nothing to say|to name a run"):
        run(strict, tmp_path, watched=True)


def test_warnings_that_are_errors_are_errors_where_that_is_asked_for(tmp_path):
    (setting,) = (setting for setting in SETTINGS if setting.name == "warnings are errors: of the probe")
    strict = replace(setting, observer={**setting.observer, "strict": True})
    with pytest.raises(UserWarning, match="another image at the second reading"):
        run(strict, tmp_path, watched=True)


def test_a_resumed_run_whose_run_file_is_broken_keeps_its_records_elsewhere(tmp_path):
    before = callback()
    fit(tmp_path, before, Keep(tmp_path / "kept"))
    (before.directory.path / "run.json").write_text("")
    after = callback(strict=False)
    with pytest.warns(UserWarning, match=r"could not learn whose records lie in .*: RunDirectoryError"):
        fit(tmp_path, after, max_epochs=2, ckpt_path=tmp_path / "kept" / "epoch=0.ckpt")
    assert after.directory.path != before.directory.path
    assert [record.epoch for record in after.directory.records()] == [1]
    assert after.errors == 1
