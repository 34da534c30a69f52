"""Read what W&B wrote to disk: the ``.wandb`` transaction log of a run and its media, without the network."""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

RECORD: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]  # made when it is imported
HEADER_BYTES = 7  # ":W&B", a checksum and a version
BLOCK_BYTES = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class OfflineRun:
    """What one run logged, in the order of the log.

    Attributes:
        path: The ``run-<id>.wandb`` file.
        run_id: The run's id.
        project: The run's project.
        history: One dict per logged row, keyed by the logged name (a logged dict, an image list or a table is a dict
            under its name), with ``_step`` and, from Lightning, ``trainer/global_step``.
        summary: The last value of every name, or what ``define_metric(summary=...)`` asked for.
        config: The configuration, without W&B's own ``_wandb`` entry.
        metrics: The ``define_metric`` calls by name or glob: ``step_metric``, ``step_sync``, ``hidden`` and the tuple
            ``summary`` of the aggregates asked for.
        artifacts: The versions of artifacts that were logged, those that hold tables included: ``type``, ``name``,
            ``metadata`` and the tuple ``files`` of the paths within.
        media: The files under ``files/media``, by their path relative to ``files``, sorted.
    """

    path: Path
    run_id: str
    project: str
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    media: dict[str, Path]
    artifacts: list[dict[str, Any]]

    def rows(self, *names: str) -> list[dict[str, Any]]:
        """Return the rows that hold all of `names`."""
        return [row for row in self.history if all(name in row for name in names)]

    def column(self, name: str) -> list[Any]:
        """Return the values logged under `name`, in order."""
        return [row[name] for row in self.rows(name)]

    def missing_media(self) -> list[str]:
        """Return the media paths that a row refers to and that do not exist on disk."""
        return sorted({path for row in self.history for path in media_paths(row)} - set(self.media))


def media_paths(value: Any) -> Iterator[str]:
    """Yield the media files that a logged value refers to, at any depth."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from media_paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from media_paths(inner)
    elif isinstance(value, str) and value.startswith("media/"):
        yield value


def read_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log behind W&B's header.

    Raises:
        ValueError: If the data is no such log, or ends inside a record (a run that was killed).
    """
    if data[:4] != b":W&B":
        raise ValueError(f"Expected `data` to start with b':W&B', but got {data[:4]!r}.")
    position, parts = HEADER_BYTES, None
    while position < len(data):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < 7:  # too short for a chunk's header: padding up to the next block
            position += left
            continue
        header = data[position : position + 7]
        size, kind = struct.unpack("<HB", header[4:]) if len(header) == 7 else (0, 0)
        chunk = data[position + 7 : position + 7 + size]
        if kind not in {FULL, FIRST, MIDDLE, LAST} or len(chunk) < size or (parts is None) != (kind in {FULL, FIRST}):
            raise ValueError(f"Expected `data` to hold whole records, but got a broken chunk at byte {position}.")
        position += 7 + size
        parts = (b"" if parts is None else parts) + chunk
        if kind in {FULL, LAST}:
            yield parts
            parts = None
    if parts is not None:
        raise ValueError(f"Expected `data` to hold whole records, but got {len(parts)} bytes of an unfinished one.")


def decode(item: Any) -> Any:
    """Return the value of a history, summary or config item, whichever of its two encodings is in use."""
    kind = item.WhichOneof("value") if "value" in item.DESCRIPTOR.oneofs_by_name else None
    if kind is None:
        return json.loads(item.value_json)
    if kind == "none":
        return None
    return json.loads(item.json) if kind == "json" else getattr(item, kind)


def update(target: dict[str, Any], items: Iterable[Any]) -> None:
    """Set the items in `target`; an item with a nested key sets one leaf of a dict."""
    for item in items:
        *outer, name = item.nested_key or [item.key]
        place = target
        for key in outer:
            place[key] = place[key] if isinstance(place.get(key), dict) else {}
            place = place[key]
        place[name] = decode(item)


def remove(target: dict[str, Any], items: Iterable[Any]) -> None:
    """Delete the items from `target`; a missing one is no error."""
    for item in items:
        *outer, name = item.nested_key or [item.key]
        place: Any = target
        for key in outer:
            place = place.get(key, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place.pop(name, None)


def metric_definition(record: Any) -> dict[str, Any]:
    """Return one ``define_metric`` call as a dict."""
    return {
        "step_metric": record.step_metric or None,
        "step_sync": record.options.step_sync,
        "hidden": record.options.hidden,
        "summary": tuple(field.name for field, _ in record.summary.ListFields()),
    }


def artifact_version(record: Any) -> dict[str, Any]:
    """Return one logged version of an artifact as a dict."""
    return {
        "type": record.type,
        "name": record.name,
        "metadata": json.loads(record.metadata) if record.metadata else {},
        "files": tuple(entry.path for entry in record.manifest.contents),
    }


def find_runs(path: Path | str) -> list[Path]:
    """Return the ``.wandb`` files at or below `path`, in the order of their folders' names, which is that of time."""
    path = Path(path)
    return [path] if path.is_file() else sorted(path.rglob("run-*.wandb"))


def read_run(path: Path | str) -> OfflineRun:
    """Read the one run at or below `path`: a ``.wandb`` file, a run's folder or any folder above it.

    Raises:
        ValueError: If there is not exactly one run, or its log is broken.
    """
    found = find_runs(path)
    if len(found) != 1:
        raise ValueError(f"Expected `path` to hold one run, but got {[str(file) for file in found]} in {path}.")
    return _read(found[0])


def read_runs(path: Path | str) -> list[OfflineRun]:
    """Read all runs at or below `path`, oldest first."""
    return [_read(file) for file in find_runs(path)]


def _read(path: Path) -> OfflineRun:
    run_id = project = ""
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    metrics: dict[str, dict[str, Any]] = {}
    artifacts: list[dict[str, Any]] = []
    for data in read_records(path.read_bytes()):
        record = RECORD.FromString(data)
        match record.WhichOneof("record_type"):
            case "run":
                run_id, project = record.run.run_id, record.run.project
                update(config, record.run.config.update)
                update(summary, record.run.summary.update)
            case "config":
                update(config, record.config.update)
                remove(config, record.config.remove)
            case "history":
                history.append({})
                update(history[-1], record.history.item)
            case "summary":
                update(summary, record.summary.update)
                remove(summary, record.summary.remove)
            case "artifact":
                artifacts.append(artifact_version(record.artifact))
            case "metric" if not record.metric.expanded_from_glob:  # older clients also write what a glob came to
                metrics[record.metric.name or record.metric.glob_name] = metric_definition(record.metric)
    config.pop("_wandb", None)
    files = path.parent / "files"
    media = {file.relative_to(files).as_posix(): file for file in sorted(files.glob("media/**/*")) if file.is_file()}
    return OfflineRun(path, run_id, project, history, summary, config, metrics, media, artifacts)
