"""``lit-decom report``."""

import argparse
from pathlib import Path

from lit_decom.records import RunDirectoryError
from lit_decom.report.page import write_report

EXPECTED_ERRORS = (RunDirectoryError, ValueError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lit-decom report`` to its parser."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="a run directory, or the folder above it")
    parser.add_argument(
        "run_b", metavar="RUN_DIR", type=Path, nargs="?", help="another run of the same probe, to be shown beside it"
    )
    parser.add_argument("--output", type=Path, help="the file (default: report.html in the first run directory)")
    parser.add_argument("--n_drawn", type=int, default=8, help="how many images are shown (default: %(default)s)")
    parser.add_argument(
        "--match_epoch", type=int, help="epoch at which two runs' components are matched (default: the last)"
    )


def run(given: argparse.Namespace) -> None:
    """Write a report and print its path.

    Args:
        given: what the parser of :func:`add_arguments` returned.

    Raises:
        RunDirectoryError: if a run directory cannot be used.
        ValueError: if the runs or the options do not go together.
    """
    run_dirs = [given.run_dir] if given.run_b is None else [given.run_dir, given.run_b]
    print(write_report(run_dirs, given.output, n_drawn=given.n_drawn, match_epoch=given.match_epoch))
