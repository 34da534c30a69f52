"""The table of settings and promises: each row is trained with the callback and without it."""

import re

import pytest

from tests.helpers.settings import run
from tests.helpers.training import assert_same
from tests.observer_effect.settings import SETTINGS


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_promise_holds(tmp_path, setting):
    alone, watched = run(setting, tmp_path / "alone", watched=False), run(setting, tmp_path / "watched", watched=True)
    # The training is bit for bit the one without, before every batch and at the end.
    assert_same(watched.pages, alone.pages)
    # No snapshot is lost, in memory or as a record.
    observer = watched.observer
    assert len(observer.run_log.history) == setting.snapshots
    assert len(list(observer.directory.records())) == setting.snapshots
    # What failed was counted and said, once, and nothing else was.
    assert observer.errors == setting.errors
    new = [message for message in watched.warned if message not in alone.warned]
    for pattern in setting.warns:
        assert sum(re.search(pattern, message) is not None for message in new) == 1, (pattern, new)
    assert [message for message in new if not any(re.search(pattern, message) for pattern in setting.warns)] == []
    # The comparison sees what it must: weights moved.
    assert len({page["weights"] for page in alone.pages}) > 3


def test_names_are_of_one_row_each():
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
