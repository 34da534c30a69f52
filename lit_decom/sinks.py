"""Pictures, tables and settings into the user's own loggers. Scalars need no sink: Lightning carries them."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, singledispatch, update_wrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from lit_decom.lightning_roots import twin_of
from lit_decom.render import contribution_curves

_QUALITY = 88  # of 95: the text in a picture stays readable


@dataclass(frozen=True)
class Picture:
    """A picture that is encoded once, however many places it goes to.

    Attributes:
        image: its pixels.
        caption: of one line.
    """

    image: Image.Image
    caption: str

    @cached_property
    def jpeg(self) -> bytes:
        """The encoded picture; heat maps as PNG take ten times the time and space."""
        content = io.BytesIO()
        self.image.save(content, format="JPEG", quality=_QUALITY)
        return content.getvalue()


class Sink:
    """A function of a logger and more, with a version of its own for every kind of logger that needs one.

    As :func:`functools.singledispatch`, but a logger of ``pytorch_lightning`` gets the version of its twin.

    Args:
        default: for every other logger.

    Attributes:
        register: takes a version, as that of ``singledispatch`` does.
    """

    def __init__(self, default: Callable[..., None]) -> None:
        self._versions = singledispatch(default)
        self.register = self._versions.register
        update_wrapper(self, default)

    def __call__(self, logger: Logger, *arguments: Any, **named: Any) -> None:
        """Call the version for a logger."""
        self._versions.dispatch(twin_of(type(logger)))(logger, *arguments, **named)

    def has_version_for(self, logger: Logger) -> bool:
        """Tell whether a logger has a version of its own."""
        return self._versions.dispatch(twin_of(type(logger))) is not self._versions.dispatch(object)


@Sink
def log_picture(logger: Logger, key: str, picture: Picture, step: int) -> None:
    """Send a picture to a logger; one that has no word for pictures gets none, see :func:`takes_pictures`.

    Args:
        logger: one of the Trainer's.
        key: such as ``decomcam/ossms``.
        picture: with its caption.
        step: as Lightning logs scalars of the same moment.
    """


@log_picture.register
def _(logger: CSVLogger, key: str, picture: Picture, step: int) -> None:
    """Numbers only, as everybody knows who chose it."""


@log_picture.register
def _(logger: WandbLogger, key: str, picture: Picture, step: int) -> None:
    # W&B copies the file while it logs; from pixels it would encode the picture again.
    with TemporaryDirectory() as folder:
        path = Path(folder, "picture.jpg")
        path.write_bytes(picture.jpeg)
        logger.log_image(key, [str(path)], step=step, caption=[picture.caption])


@log_picture.register
def _(logger: TensorBoardLogger, key: str, picture: Picture, step: int) -> None:
    try:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
    except ModuleNotFoundError:  # Lightning then takes the other package
        from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[import-not-found]
    width, height = picture.image.size
    # `add_image` takes pixels alone and makes them a PNG, which takes longer than explaining the probe.
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=picture.jpeg)
    writer = logger.experiment._get_file_writer()  # noqa: SLF001 -- as Lightning's own logger does
    writer.add_summary(Summary(value=[Summary.Value(tag=key, image=image)]), step)


@log_picture.register
def _(logger: MLFlowLogger, key: str, picture: Picture, step: int) -> None:
    # By `key` and `step`, so that MLflow shows the pictures of a run on a slider; it encodes them in its own way.
    logger.experiment.log_image(logger.run_id, picture.image, key=key, step=step)


@log_picture.register
def _(logger: CometLogger, key: str, picture: Picture, step: int) -> None:
    logger.experiment.log_image(io.BytesIO(picture.jpeg), name=key, step=step)


def takes_pictures(logger: Logger) -> bool:
    """Tell whether a logger has a word for pictures, or is known to have none."""
    return log_picture.has_version_for(logger)


@Sink
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


@Sink
def log_table(logger: Logger, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Send a table to a logger; one that has no word for tables gets none.

    Args:
        logger: one of the Trainer's.
        key: such as ``decomcam/probe``.
        columns: their names.
        rows: of text, numbers or pictures.
    """


@log_table.register
def _(logger: WandbLogger, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    import wandb

    def cell(value: Any) -> Any:
        return wandb.Image(value, file_type="jpg") if isinstance(value, Image.Image) else value

    logger.log_table(key, columns=list(columns), data=[[cell(value) for value in row] for row in rows])


@Sink
def log_files(logger: Logger, name: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
    """Send a version of a set of files to a logger; one that keeps no files by version gets none.

    Args:
        logger: one of the Trainer's.
        name: of the set; the run's identity is added.
        files: of one folder.
        metadata: what they are of.
    """


@log_files.register
def _(logger: WandbLogger, name: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
    import wandb

    run = logger.experiment
    # W&B takes no other letters; a prefix may have several parts.
    allowed = re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)
    artifact = wandb.Artifact(f"{allowed}-{run.id}", type="explanations", metadata=dict(metadata))
    for file in files:
        artifact.add_file(str(file))
    run.log_artifact(artifact)


@Sink
def log_settings(logger: Logger, name: str, settings: Mapping[str, Any]) -> None:
    """Give a logger a run's settings among its hyperparameters.

    Args:
        logger: one of the Trainer's.
        name: under which they stand, apart from the user's own.
        settings: texts, numbers, and mappings of them.
    """
    logger.log_hyperparams({name: dict(settings)})


@log_settings.register
def _(logger: TensorBoardLogger, name: str, settings: Mapping[str, Any]) -> None:
    # Of the hyperparameters of a run TensorBoard shows those that came first, which are the module's own.
    text = yaml.safe_dump(dict(settings), sort_keys=False)
    logger.experiment.add_text(f"{name}/settings", "\n".join(f"    {line}" for line in text.splitlines()))


@Sink
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
