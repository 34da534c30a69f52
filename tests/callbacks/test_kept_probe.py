"""A run that is resumed explains the images that it began with, also where reading the data gives others."""

import numpy as np
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from tests.helpers.modules import Keep, Spots, callback, fit, loader, tiny, trainer


class Unseeded(Spots):
    """Its transform draws from a generator that begins elsewhere in every process."""

    def __init__(self, *arguments, process):
        super().__init__(*arguments)
        self.generator = np.random.default_rng(process)

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image + 0.1 * self.generator.random(), label


def unseeded(root, observer, max_epochs, process, ckpt_path=None):
    data = loader(Spots()), loader(Unseeded(8, 2, process=process))
    keep = Keep(root / "checkpoints")
    trainer(root, keep, observer, max_epochs=max_epochs).fit(tiny(), *data, ckpt_path=ckpt_path)
    return root / "checkpoints" / f"epoch={max_epochs - 1}.ckpt"


@pytest.mark.filterwarnings("ignore:The dataset gives another image at the second reading")
@pytest.mark.parametrize("given", [True, False])
def test_a_run_goes_on_with_the_images_that_it_began_with_where_they_are_drawn_anew(tmp_path, caplog, given):
    arguments = {"probe": 4} | ({"dirpath": tmp_path / "run"} if given else {})
    first, second = callback(**arguments), callback(**arguments)
    checkpoint = unseeded(tmp_path, first, 2, 1)
    caplog.clear()
    unseeded(tmp_path, second, 4, 2, checkpoint)
    assert second.probe.digest == first.probe.digest
    assert len(list(second.directory.records())) == 4
    assert caplog.text.count("The data give other images than when this run began") == 1
    # A new run begins with what is drawn now.
    third = callback(probe=4)
    unseeded(tmp_path / "new", third, 1, 2)
    assert third.probe.digest != first.probe.digest


@pytest.mark.filterwarnings("ignore:The dataset gives another image at the second reading")
def test_a_run_whose_images_are_kept_no_more_is_refused_where_they_are_drawn_anew(tmp_path):
    first = callback(probe=4)
    checkpoint = unseeded(tmp_path, first, 1, 1)
    (first.directory.path / "probe_exact.npz").unlink()
    with pytest.raises(MisconfigurationException, match="restore the data, or start a new run"):
        unseeded(tmp_path, callback(probe=4), 2, 2, checkpoint)


def test_a_probe_of_the_users_own_is_not_kept_exactly(tmp_path):
    observer = callback()
    fit(tmp_path, observer)
    assert not (observer.directory.path / "probe_exact.npz").exists()
