"""A ready-made W&B workspace, as code: a section per question that a person asks of a run."""

import argparse
from importlib import import_module
from typing import Any

_STEP = "trainer/global_step"
_MISSING = "Expected `wandb-workspaces` to be installed: pip install 'lit-decom[dashboard]'"

EXPECTED_ERRORS = (ModuleNotFoundError,)

# By question, as in `keys.ESSENTIAL`: the title of each chart, and the keys that it draws, as a regular expression.
# What stands in one chart has one unit. Of components, a chart has as many lines as the callback sends.
CHARTS = {
    "What does it look at?": {
        "Share of the decision, by decision factor": r"factor_share/\d+",
        "Energy on the object": r"energy_pointing_game/all",
        "Parts: average precision of the best component": r"part_average_precision/all",
    },
    "Does it matter?": {
        "Completeness: share of the logits' variance that the factors explain": r"completeness",
        "Score gain since its birth, by component (logit)": r"score_gain/component_\d+",
        "Average drop: score lost outside the map (lower is better)": r"average_drop/all",
    },
    "Is it stable?": {
        "Confidence of the matching of factors (0 to 1)": r"factor_confidence",
        "Births and deaths of factors": r"factor_(births|deaths)",
        "Drift: how far explanations moved (0 to 1)": r"drift",
    },
    "Does it differ where it is wrong?": {
        "Accuracy on the probe": r"accuracy",
        "Images that it gets wrong": r"count/incorrect",
        "Energy on the object, right and wrong": r"energy_pointing_game/(correct|incorrect)",
        "Right less wrong": r"(energy_pointing_game|average_drop)/gap",
    },
    "What did it cost?": {
        "Seconds per snapshot": r"seconds/total",
        "Errors, and snapshots without a metric": r"errors|dropped/.*",
    },
}


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
    sections = {
        question: [_lines(title, prefix, pattern) for title, pattern in charts.items()]
        for question, charts in CHARTS.items()
    }
    sections["What does it look at?"].insert(0, _media("Decision factors and OSSMs of the probe", f"{prefix}/ossms"))
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
