"""Names for the decision factors of a run, given when it is over: they take thousands of forward passes."""

from pathlib import Path

from torch import Tensor

from lit_decom.concepts import Namer
from lit_decom.records import FactorNames, RunDirectory, RunDirectoryError, Snapshot


def name_run(
    path: Path, namer: Namer, *, mean: Tensor | None = None, std: Tensor | None = None, n_images: int = 16
) -> FactorNames:
    """Name both sides of the decision factors of a run's last snapshot, and keep the names beside its records.

    A report that is written afterwards shows them, at every snapshot in which a factor of the same identity is found.
    Each factor costs 2 * ``n_images`` * (1 + ``namer.n_places``) forward passes of the image-text model.

    Args:
        path: the run directory.
        namer: gives the names, to images of the probe's size.
        mean: by which the image-text model's images are normalised, ``(3,)``; None for images in [0, 1].
        std: likewise.
        n_images: in how many images each side is looked at.

    Returns:
        The names, as they are kept.

    Raises:
        RunDirectoryError: if there is no probe, no record, or the last one has no decision factors.
    """
    directory = RunDirectory(path)
    record = next((Snapshot.load(file) for file in reversed(directory.files())), None)
    if record is None or record.factor_scores is None or record.factor_maps is None:
        raise RunDirectoryError(f"Expected {path} to hold a record with decision factors, but the last one has none.")
    images = directory.probe().images
    images = images if mean is None else images - mean[:, None, None]
    images = images if std is None else images / std[:, None, None]
    found = namer.name_factors(
        images, record.factor_scores, record.factor_maps, states=record.factor_states, n_images=n_images
    )
    identities = range(len(found)) if record.factor_identities is None else record.factor_identities.tolist()
    texts = [tuple(str(name) if name is not None and name.given else None for name in sides) for sides in found]
    names = FactorNames(record.epoch, {one: (high, low) for one, (high, low) in zip(identities, texts, strict=True)})
    directory.save_names(names)
    return names
