"""``lit-decom sweep run``, ``sweep worker`` and ``sweep show``."""

import argparse
import signal
import sys
from pathlib import Path

from jsonargparse.typing import NonNegativeInt, PositiveInt
from rich.console import Console

from lit_decom.sweep import SweepError

_EPILOG = """\
The same command goes on with a sweep that was killed: what was running then is run again once it has shown no sign of
life for a minute. Started twice on one directory, it works on the same trials from both sides. On many machines, name
a database that all reach with --storage, such as postgresql://user@host/name, and start `lit-decom sweep worker
--storage URL` on each, under any scheduler; with --jobs 0 this command itself trains nothing.
The environment variable LIT_DECOM_TRIAL holds a trial's directory. A program other than `lit-decom fit` writes
there, to metrics.jsonl, one line like {"epoch": 0, "values": {"val/acc": 0.9}} after each validation.
"""

EXPECTED_ERRORS = (SweepError,)
_EXIT_INTERRUPTED = 130  # as shells have it: 128 and the number of the signal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands ``run``, ``worker`` and ``show`` of ``lit-decom sweep`` to its parser."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    run = actions.add_parser(
        "run",
        help="run the trials of a sweep's file, or go on with them",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("file", type=Path, help="in W&B's sweep format, or the name of a shipped one")
    backends = "who chooses the trials (default: by the file's `method`, optuna for bayes)"
    run.add_argument("--backend", choices=("optuna", "grid", "random"), help=backends)
    n_trials = "over all workers (default: the file's run_cap, else a whole grid or 20)"
    run.add_argument("--n_trials", "--n-trials", type=PositiveInt, help=n_trials)
    run.add_argument("--seed", type=int, default=0, help="of draws and samplers (default: %(default)s)")
    run.add_argument("--no_check", "--no-check", dest="check", action="store_false", help="make no dry trial")
    worker = actions.add_parser("worker", help="join a sweep that runs, on any machine that reaches its storage")
    worker.add_argument("--study", help="its name, where the storage has several")
    storage = "database of the study, such as postgresql://user@host/name (`run` has SQLite in --dir without it)"
    life = "between a trial's signs of life; after six without, it is run again (default: %(default)s)"
    for command in (run, worker):
        jobs = "trials at once; they share the cores (default: %(default)s)"
        command.add_argument("--jobs", type=NonNegativeInt, default=1, help=jobs)
        command.add_argument("--dir", type=Path, help="where the trials are kept (default: runs/sweeps/<name>)")
        command.add_argument("--storage", required=command is worker, metavar="URL", help=storage)
        command.add_argument("--heartbeat", type=PositiveInt, default=10, metavar="SECONDS", help=life)
    show = actions.add_parser("show", help="print the trials, draw the front, choose one")
    show.add_argument("dir", type=Path, help="of the sweep")
    show.add_argument("--eps", type=float, default=0.01, help="margin of the further objectives (default: %(default)s)")


def run(given: argparse.Namespace) -> None:
    """Run a sweep, join one or show one.

    Args:
        given: what the parser of :func:`add_arguments` returned.

    Raises:
        SweepError: if the sweep cannot be run or shown.
        SystemExit: with status 130 on an interruption.
    """
    console = Console()
    # Help does without Optuna and its database, and what runs trials without what draws them: both take a while.
    try:
        if given.action == "show":
            from lit_decom.sweep.show import show_sweep

            show_sweep(given.dir, given.eps, console)
            return
        from lit_decom.sweep.run import Options, run_sweep
    except ModuleNotFoundError as missing:
        raise SweepError(f"Expected `{missing.name}` to be installed: pip install 'lit-decom[sweep]'") from missing
    # Schedulers end a job like this; what it ran is in line again at once.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options = Options(**{name: value for name, value in vars(given).items() if name in Options.__annotations__})
        path = run_sweep(options, console)
    except KeyboardInterrupt:
        print("lit-decom sweep: interrupted; the same command goes on with what is left.", file=sys.stderr)
        sys.exit(_EXIT_INTERRUPTED)
    console.print(f"look at it with `lit-decom sweep show {path}`", highlight=False, soft_wrap=True)
