"""Explain a network with several labels per image: where it looks for each of them.

    pip install -e .
    python examples/multi_label.py [--quick]

The images are drawn; each has round ears, sleepy eyes, a snout, several of these, or none. Its label is a vector of 0
and 1, and it is explained once for each label that it has.
"""

import argparse

import lightning as L

from lit_decom import DecomCAM, DecomCAMCallback
from lit_decom.data import CritterAttributesDataModule
from lit_decom.tasks import ClassificationTask


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    L.seed_everything(0, verbose=False)
    small, large = {"n_train": 64, "n_val": 16, "image_size": 32}, {"n_train": 2000, "n_val": 200, "image_size": 64}
    # Each label has a mask of its own: of an image with round ears and a snout, the ears and the nose.
    data = CritterAttributesDataModule(["round ears", "sleepy eyes", "snout"], **(small if quick else large))
    model = ClassificationTask(task="multilabel", num_classes=3, model_args={"width": 8 if quick else 16})
    callback = DecomCAMCallback(
        DecomCAM(n_components=4),
        probe=8 if quick else 40,  # pairs of an image and one of its labels
        report=True,  # one HTML page, written at the end
    )
    length = {"max_epochs": 1 if quick else 8, "log_every_n_steps": 1, "default_root_dir": "runs/multi_label"}
    trainer = L.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False, **length)
    trainer.fit(model, data)
    for name in ("energy_pointing_game/all", "energy_pointing_game/all/random_map"):
        print(f"{name}: {trainer.callback_metrics[f'decomcam/{name}']:.3f}")
    print(f"pictures: {callback.directory.path / 'pictures'}")
    print(f"report:   {callback.report_path}")


if __name__ == "__main__":
    main()
