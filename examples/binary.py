"""One logit: has the critter a snout, and does the network look at the nose to tell?

python examples/binary.py          # three minutes on two CPU cores
python examples/binary.py --quick  # a few seconds, to see that it runs
"""

import argparse

import lightning as L

from lit_decom import DecomCAM, DecomCAMCallback
from lit_decom.data import CritterAttributesDataModule
from lit_decom.tasks import ClassificationTask


def main(*, quick: bool = False, root: str = "runs/binary") -> L.Trainer:
    """Train, explain the validation images at every epoch, and write a report.

    Args:
        quick: Whether few small images are learnt for one epoch.
        root: Folder of the run.

    Returns:
        The Trainer, whose ``callback_metrics`` hold every score.
    """
    L.seed_everything(0)
    size = {"n_train": 32, "n_val": 16, "image_size": 32} if quick else {"n_train": 2000, "image_size": 64}
    data = CritterAttributesDataModule(["snout"], **size)  # labels are 0 and 1
    model = ClassificationTask(task="binary", num_classes=2, model_args={"width": 8 if quick else 16})
    explain = DecomCAMCallback(
        DecomCAM(n_components=4), probe=8 if quick else 64, dirpath=f"{root}/decomcam", report=True
    )
    trainer = L.Trainer(
        max_epochs=1 if quick else 8, accelerator="cpu", logger=False, callbacks=[explain], default_root_dir=root
    )
    trainer.fit(model, datamodule=data)
    for stratum in ("correct", "incorrect", "all/random_map"):
        value = trainer.callback_metrics.get(f"decomcam/energy_pointing_game/{stratum}")
        print(f"energy on the nose, {stratum}: " + ("no such image" if value is None else f"{value:.2f}"))
    print(f"report: {explain.report_path}")
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--root", default="runs/binary")
    main(**vars(parser.parse_args()))
