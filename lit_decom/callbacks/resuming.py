"""What a resumed run must share with the one before, and where its records lie."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_decom.callbacks.tolerance import Tolerance
from lit_decom.callbacks.trainer_access import ends_after_batch, logged_step
from lit_decom.components import Components
from lit_decom.evidence import resolve_layer
from lit_decom.explainer import Explainer
from lit_decom.probe import Probe
from lit_decom.records import RunDirectory, RunDirectoryError, Snapshot


def refuse_changed_layer(resumed: Mapping[str, Any], given: str | None, pl_module: pl.LightningModule) -> None:
    """Refuse to follow components from one layer to another.

    Args:
        resumed: the callback's state in the checkpoint; empty for a new run.
        given: the layer that was asked for; None for none.
        pl_module: whose layers they are.

    Raises:
        MisconfigurationException: naming both.
    """
    before = resumed.get("target_layer")
    if before is None or given is None:
        return
    if resolve_layer(pl_module, given).module is not resolve_layer(pl_module, before).module:
        raise MisconfigurationException(
            f"Expected `target_layer` to be the one this run began with ({before!r}), but got {given!r}. "
            "Components are followed within one layer: leave `target_layer` out, or start a new run."
        )


def refuse_changed_probe(resumed: Mapping[str, Any], probe: Probe) -> None:
    """Refuse to draw curves over different images.

    Args:
        resumed: the callback's state in the checkpoint; empty for a new run.
        probe: of this run.

    Raises:
        MisconfigurationException: saying what differs.
    """
    before = resumed.get("probe_digest")
    if before is not None and before != probe.digest:
        same_ids = tuple(resumed["probe_ids"]) == probe.ids
        raise MisconfigurationException(
            f"Expected the probe to be the one this run began with (digest {before[:12]}), but it has digest "
            f"{probe.digest[:12]} and {'the same' if same_ids else 'other'} ids. Curves over different images do "
            "not belong together: restore the data, or start a new run."
        )


def refuse_changed_explanation(resumed: Mapping[str, Any], explainer: Explainer, components: Components) -> None:
    """Refuse to go on with a curve that would mean something else from here on.

    A component of another method, number, target or basis is not the one that was followed: none of its numbers belong
    to the curve before. What is scored may change, since each score is a curve of its own.

    Args:
        resumed: the callback's state in the checkpoint; empty for a new run.
        explainer: of this run.
        components: of this run.

    Raises:
        MisconfigurationException: naming what differs, and how to begin new curves.
    """
    before, now = resumed.get("explained", {}), explained(explainer, components)
    changed = [name for name, value in now.items() if name in before and before[name] != value]
    if changed:
        found = ", ".join(f"`{name}` to be {before[name]}, but got {now[name]}" for name in changed)
        raise MisconfigurationException(
            f"Expected what this run began with: {found}. Curves of different explanations do not belong together: "
            "leave it as it was, or give the callback another `prefix`, under which new curves begin."
        )


def explained(explainer: Explainer, components: Components) -> dict[str, str]:
    """Name what the components of a run are, for a checkpoint."""
    return {
        "method": repr(explainer.method),
        "target": str(explainer.settings["target"]),
        "components": repr(components),
    }


def awaited_moment(trainer: pl.Trainer) -> tuple[int, int] | None:
    """Tell whether a checkpoint is saved between the last batch before a snapshot and the snapshot.

    That is where ``ModelCheckpoint(every_n_train_steps=...)`` saves. A run that goes on from there begins with the next
    batch: Lightning does not run the validation, or end the epoch, a second time.

    Returns:
        Epoch and step of that snapshot; None where the batch has had its snapshot, or gets none.
    """
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    if not batches.completed < batches.processed == batches.ready:
        return None
    is_due = ends_after_batch(trainer)
    return (trainer.current_epoch, logged_step(trainer, after_training_epoch=False)) if is_due else None


def made_up(snapshot: Snapshot, directory: RunDirectory | None) -> Snapshot:
    """Give a snapshot that is taken without its validation what the module logged when that ran, where it is known.

    Args:
        snapshot: of the weights in a checkpoint.
        directory: of the run, which has set the record of the same moment aside.
    """
    aside = None if directory is None else directory.path / f"{snapshot.filename}.superseded"
    if aside is None or not aside.exists():
        return snapshot
    with suppress(RunDirectoryError):
        return replace(snapshot, module_values=Snapshot.load(aside).module_values)
    return snapshot


def own_directory(before: str | Path | None, run_id: str, tolerance: Tolerance) -> Path | None:
    """Where the records of a run lie, if they are still there and are its own."""
    if before is not None:
        with tolerance.forgiving(f"learn whose records lie in {before}"):
            return Path(before) if RunDirectory(Path(before)).owner() == run_id else None
    return None


def _readable(path: Path, run_id: str, tolerance: Tolerance) -> Path:
    """A folder itself, or one beside it where nobody can tell whose it is."""
    beside = path.with_name(f"{path.name}_{run_id[:8]}")
    with tolerance.forgiving(f"learn whose records lie in {path}, and keeps those of this run in {beside}"):
        RunDirectory(path).owner()
        return path
    return beside


def opened_directory(  # noqa: PLR0917
    path: Path,
    run_id: str,
    probe: Probe,
    settings: Mapping[str, Any],
    from_step: int | None,
    tolerance: Tolerance,
) -> RunDirectory | None:
    """Begin to write records to a folder, or go on: see :meth:`lit_decom.records.RunDirectory.open`.

    Returns:
        The directory: this one, or one beside it where what lies there cannot be read; None where it cannot be written
        to. Both are let pass.

    Raises:
        MisconfigurationException: if the folder holds another run's records.
    """
    directory = RunDirectory(_readable(path, run_id, tolerance))
    try:
        directory.open(run_id, probe, settings, from_step)
    except RunDirectoryError as error:
        raise MisconfigurationException(str(error)) from error
    except Exception as error:  # the disk's, or that of settings which cannot be written down
        with tolerance.forgiving(f"keep records in {path}"):
            raise error
        return None
    return directory
