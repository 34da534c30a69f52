"""A ready-made W&B workspace, as code: panels for evolution, strata and sanity."""

import argparse
from importlib import import_module
from typing import Any

_STEP = "trainer/global_step"
_MISSING = "Expected `wandb-workspaces` to be installed: pip install 'lit-decom[dashboard]'"

EXPECTED_ERRORS = (ModuleNotFoundError,)


def workspace(entity: str, project: str, prefix: str = "decomcam") -> Any:
    """Lay out the panels of one project.

    Args:
        entity: of W&B.
        project: of W&B.
        prefix: of the callback's keys.

    Returns:
        A ``wandb_workspaces.workspaces.Workspace``, not saved yet.

    Raises:
        ModuleNotFoundError: without the extra ``dashboard``, naming it.
    """
    try:
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_MISSING) from error
    evolution = [
        _media("OSSMs of the probe", f"{prefix}/ossms"),
        _lines("Score gain of each component since its birth", prefix, r"score_gain/component_\d+"),
        _lines("Share of energy of each component", prefix, r"explained_energy/component_\d+"),
        _lines("Components shared by the probe: share of energy", prefix, r"shared_energy/\d+"),
        _lines("Components shared by the probe: score gain", prefix, r"shared_gain/\d+"),
        _lines("Births and deaths per image", prefix, "births|deaths|flips|swaps"),
        _lines("Is it still the same? Confidence, similarity, drift", prefix, "confidence|similarity|drift"),
        _lines(
            "Are maps like those of the last snapshot, of the first right one?",
            prefix,
            r"map_stability\w*/all",
        ),
    ]
    strata = [
        _lines(title, prefix, rf"{metric}/(fixed_)?(all|correct|incorrect)")
        for title, metric in (
            ("Energy in the mask", "energy_pointing_game"),
            ("Pointing game", "pointing_game"),
            ("Parts outlined (average precision)", "part_average_precision"),
            ("Average drop (lower is better)", "average_drop"),
            ("Average gain", "average_gain"),
            ("Gini index", "gini"),
        )
    ]
    strata += [_lines("Images per stratum", prefix, r"count/\w+"), _lines("Gap, right less wrong", prefix, r"\w+/gap")]
    sanity = [
        _lines("Energy in the mask against Grad-CAM and chance", prefix, r"energy_pointing_game/all(/\w+)?"),
        _lines("Parts outlined against chance", prefix, r"part_average_precision/all(/\w+)?"),
        _lines("The same component for a part in every image", prefix, r"fixed_index_part_ap/all(/\w+)?"),
        _lines("What went wrong", prefix, "errors|blank_maps|nonfinite_images|uniform_weights|undefined/.*|dropped/.*"),
        _lines("Seconds per snapshot", prefix, r"seconds(/\w+)?"),
    ]
    sections = {"Evolution": evolution, "Right and wrong": strata, "Sanity": sanity}
    return ws.Workspace(
        entity=entity,
        project=project,
        name="DecomCAM",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lit-decom dashboard`` to its parser."""
    parser.add_argument("project", metavar="ENTITY/PROJECT", type=_entity_and_project, help="on W&B")
    parser.add_argument("--prefix", default="decomcam", help="of the callback's keys (default: %(default)s)")
    parser.add_argument("--dry_run", action="store_true", help="print the workspace as JSON; no account, no network")


def run(given: argparse.Namespace) -> None:
    """Save the workspace and print its address, or print the workspace itself.

    Args:
        given: what the parser of :func:`add_arguments` returned.

    Raises:
        ModuleNotFoundError: without the extra ``dashboard``, naming it.
    """
    entity, project = given.project
    made = workspace(entity, project, given.prefix)
    if given.dry_run:
        print(made._to_model().model_dump_json(indent=2, by_alias=True))  # noqa: SLF001 -- no public way to see it
    else:
        made.save()
        print(made.url)


def _entity_and_project(text: str) -> tuple[str, str]:
    entity, separator, project = text.partition("/")
    if not (entity and separator and project):
        raise argparse.ArgumentTypeError(f"Expected `project` to be ENTITY/PROJECT, but got {text!r}.")
    return entity, project


def _panels() -> Any:
    # Its stubs and its contents differ.
    return import_module("wandb_workspaces.reports.v2")


def _lines(title: str, prefix: str, pattern: str) -> Any:
    return _panels().LinePlot(title=title, x=_STEP, metric_regex=f"^{prefix}/({pattern})$")


def _media(title: str, key: str) -> Any:
    return _panels().MediaBrowser(title=title, media_keys=[key], num_columns=1)
