"""``lit-decom sweep run`` and ``lit-decom sweep show``."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from lit_decom.sweep.errors import SweepError
from lit_decom.sweep.online import run_online
from lit_decom.sweep.run import SweepOptions, run_sweep
from lit_decom.sweep.show import read_kept, show_sweep
from lit_decom.sweep.spec import read_sweep

_EPILOG = """\
The same command goes on with a sweep that was killed: at most the trials that were running are run again. Started
twice on one directory, it works on the same trials from both sides. Several machines share a sweep either by a --dir
that they all see, or, with optuna, by a --storage that they all reach, such as postgresql://user@host/name, each with
a --dir of its own; `lit-decom sweep show DIR --storage ...` then shows the trials of all of them.
The environment variable LIT_DECOM_TRIAL holds a trial's directory. A program other than `lit-decom fit` writes
there, to metrics.jsonl, one line like {"epoch": 0, "values": {"val/acc": 0.9}} after each validation.
"""

EXPECTED_ERRORS = (SweepError,)
_EXIT_INTERRUPTED = 130  # as shells have it: 128 and the number of the signal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands ``run`` and ``show`` of ``lit-decom sweep`` to its parser."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    _add_run(
        actions.add_parser(
            "run",
            help="run the trials of a sweep's file, or go on with them",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    show = actions.add_parser("show", help="print the trials, draw the front, choose one")
    show.add_argument("dir", type=Path, help="of the sweep")
    show.add_argument("--eps", type=float, default=0.01, help="margin of the further objectives (default: %(default)s)")
    show.add_argument("--storage", help="of the study, where trials ran on machines that do not share the directory")


def run(given: argparse.Namespace) -> None:
    """Run a sweep or show one.

    Args:
        given: what the parser of :func:`add_arguments` returned.

    Raises:
        SweepError: if the sweep cannot be run or shown.
        SystemExit: with status 130 on an interruption.
    """
    try:
        if given.action == "run":
            _run(given)
        else:
            show_sweep(read_kept(given.dir, given.storage), given.eps, Console())
    except KeyboardInterrupt:
        print("lit-decom sweep: interrupted; the same command goes on with what is left.", file=sys.stderr)
        sys.exit(_EXIT_INTERRUPTED)


def _run(given: argparse.Namespace) -> None:
    if given.backend == "wandb":
        read_sweep(given.file)
        print(run_online(given.file, given.n_trials, given.jobs))
        return
    options = SweepOptions(
        file=given.file,
        backend=given.backend,
        n_trials=given.n_trials,
        jobs=given.jobs,
        directory=given.dir,
        storage=given.storage,
        seed=given.seed,
        check=given.check,
    )
    path = run_sweep(options, Console())
    Console().print(f"look at it with `lit-decom sweep show {path}`", highlight=False, soft_wrap=True)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="in W&B's sweep format")
    parser.add_argument(
        "--backend", choices=("optuna", "grid", "random", "wandb"),
        help="who chooses the trials (default: by the file's `method`, optuna for bayes); wandb needs an account",
    )  # fmt: skip
    parser.add_argument(
        "--n_trials",
        "--n-trials",
        type=int,
        help="over all workers (default: the file's run_cap, else a whole grid or 20)",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="trials at once; they share the cores (default: %(default)s)"
    )
    parser.add_argument("--dir", type=Path, help="where the trials are kept (default: runs/sweeps/<name of the file>)")
    parser.add_argument(
        "--storage", help="of Optuna's study: a database's address, or a journal file (default: in --dir)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of draws and samplers (default: %(default)s)")
    parser.add_argument(
        "--no_check", "--no-check", dest="check", action="store_false", help="make no dry trial beforehand"
    )
