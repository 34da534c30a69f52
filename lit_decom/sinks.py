"""Pictures and curves into the user's own loggers. Scalars need no sink: Lightning carries them."""

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from lit_decom.render import contribution_curves


@singledispatch
def log_images(logger: Logger, key: str, images: Sequence[Image.Image], captions: Sequence[str], step: int) -> None:
    """Send pictures to a logger; one that has no word for pictures gets none.

    Args:
        logger: one of the Trainer's.
        key: such as ``decomcam/ossms``.
        images: a few pictures.
        captions: one each.
        step: as Lightning logs scalars of the same moment.
    """


@log_images.register
def _(logger: WandbLogger, key: str, images: Sequence[Image.Image], captions: Sequence[str], step: int) -> None:
    # JPEG, since heat maps as PNG take ten times the time and space.
    logger.log_image(key, list(images), step=step, caption=list(captions), file_type=["jpg"] * len(images))


@log_images.register
def _(logger: TensorBoardLogger, key: str, images: Sequence[Image.Image], captions: Sequence[str], step: int) -> None:
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        tag = key if len(images) == 1 else f"{key}/{number}"
        logger.experiment.add_image(tag, np.asarray(image), step, dataformats="HWC")
        logger.experiment.add_text(f"{tag}_caption", caption, step)


@singledispatch
def log_curves(
    logger: Logger, key: str, steps: Sequence[int], series: Mapping[str, Sequence[float]], title: str
) -> None:
    """Send curves over all snapshots so far to a logger; one that has no word for them gets none.

    Args:
        logger: one of the Trainer's.
        key: such as ``decomcam/gain_curves``.
        steps: of the snapshots, ``T`` of them.
        series: ``T`` values per line.
        title: of the chart.
    """


@log_curves.register
def _(logger: WandbLogger, key: str, steps: Sequence[int], series: Mapping[str, Sequence[float]], title: str) -> None:
    import wandb

    chart: Any = wandb.plot.line_series(
        xs=list(steps), ys=[list(values) for values in series.values()], keys=list(series), title=title, xname="step"
    )
    logger.log_metrics({key: chart}, step=steps[-1])


@log_curves.register
def _(
    logger: TensorBoardLogger, key: str, steps: Sequence[int], series: Mapping[str, Sequence[float]], title: str
) -> None:
    logger.experiment.add_figure(key, contribution_curves(steps, series, title=title), steps[-1])


@singledispatch
def log_probe(
    logger: Logger, key: str, ids: Sequence[str], names: Sequence[str], images: Sequence[Image.Image]
) -> None:
    """Show a logger once which images are explained; one that has no word for tables gets nothing.

    Args:
        logger: one of the Trainer's.
        key: such as ``decomcam/probe``.
        ids: of the images, as captions name them later.
        names: of their classes.
        images: the pictures.
    """


@log_probe.register
def _(logger: WandbLogger, key: str, ids: Sequence[str], names: Sequence[str], images: Sequence[Image.Image]) -> None:
    import wandb

    rows = [
        [image_id, name, wandb.Image(image, file_type="jpg")]
        for image_id, name, image in zip(ids, names, images, strict=True)
    ]
    logger.log_table(key, columns=["id", "class", "image"], data=rows)


@singledispatch
def describe_metrics(logger: Logger, directions: Mapping[str, bool | None]) -> None:
    """Tell a logger which value of a run stands for it, where it can tell.

    Args:
        logger: one of the Trainer's.
        directions: by key whether higher is better; None where there is no better.
    """


@describe_metrics.register
def _(logger: WandbLogger, directions: Mapping[str, bool | None]) -> None:
    best = {True: "max,last", False: "min,last", None: "last"}
    for key, direction in directions.items():
        # By exact name: of overlapping patterns, WandbLogger's own "*" among them, W&B picks one at random.
        logger.experiment.define_metric(key, step_metric="trainer/global_step", summary=best[direction])
