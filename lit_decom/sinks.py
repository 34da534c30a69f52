"""Pictures and curves into the user's own loggers. Scalars need no sink: Lightning carries them."""

from collections.abc import Mapping, Sequence
from functools import singledispatch

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
    """Send curves over all firings so far to a logger; one that has no word for them gets none.

    Args:
        logger: one of the Trainer's.
        key: such as ``decomcam/gain_curves``.
        steps: of the firings, ``T`` of them.
        series: ``T`` values per line.
        title: of the chart.
    """


@log_curves.register
def _(
    logger: WandbLogger, key: str, steps: Sequence[int], series: Mapping[str, Sequence[float]], title: str
) -> None:
    import wandb

    chart = wandb.plot.line_series(
        xs=list(steps), ys=[list(values) for values in series.values()], keys=list(series), title=title, xname="step"
    )
    logger.log_metrics({key: chart}, step=steps[-1])


@log_curves.register
def _(
    logger: TensorBoardLogger, key: str, steps: Sequence[int], series: Mapping[str, Sequence[float]], title: str
) -> None:
    logger.experiment.add_figure(key, contribution_curves(steps, series, title=title), steps[-1])
