"""``lit-decom report``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lit_decom.records import RunDirectoryError
from lit_decom.report.page import write_report


def main(args: Sequence[str] | None = None) -> Path:
    """Write a report and say where it is.

    Args:
        args: the words after ``report``; by default those of the process.

    Returns:
        The report's file.

    Raises:
        SystemExit: if an argument or a run directory cannot be used.
    """
    parser = argparse.ArgumentParser(
        "lit-decom report", description="Write a run, or two of one probe, as one HTML page."
    )
    parser.add_argument("run_dir", type=Path, help="a run directory, or the folder above it")
    parser.add_argument("run_b", type=Path, nargs="?", help="another run of the same probe, to be shown beside it")
    parser.add_argument("--output", type=Path, help="the file; by default report.html in the run directory")
    parser.add_argument("--n_drawn", type=int, default=8, help="how many images are shown (default: %(default)s)")
    parser.add_argument(
        "--match_epoch", type=int, help="epoch at which two runs' components are matched (default: the last)"
    )
    given = parser.parse_args(args)
    run_dirs = [given.run_dir] if given.run_b is None else [given.run_dir, given.run_b]
    try:
        path = write_report(run_dirs, given.output, n_drawn=given.n_drawn, match_epoch=given.match_epoch)
    except (RunDirectoryError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    print(path)
    return path
