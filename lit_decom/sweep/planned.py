"""Grid and random search: the trials are known beforehand, and any number of workers go through them together."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from lit_decom.sweep.errors import SweepError
from lit_decom.sweep.space import grid_points, random_point
from lit_decom.sweep.spec import Sweep
from lit_decom.sweep.trials import Outcome, TrialRunner

OnOutcome = Callable[[Outcome], None]


def plan(sweep: Sweep, backend: str, n_trials: int | None, seed: int) -> list[dict[str, Any]]:
    """List the parameters of all trials.

    Args:
        sweep: what is swept.
        backend: ``grid`` or ``random``.
        n_trials: how many; None in a grid for all.
        seed: of random draws. A longer sweep of the same seed begins as the shorter one.

    Returns:
        Parameters by name, one entry per trial.

    Raises:
        SweepError: if a grid cannot be counted.
    """
    if backend == "grid":
        return list(itertools.islice(grid_points(sweep.parameters), n_trials))
    if n_trials is None:
        raise SweepError("Expected `--n_trials` to be given for the backend random, which has no end of its own.")
    return [random_point(sweep.parameters, seed, number) for number in range(n_trials)]


def work_through(
    runner: TrialRunner, points: list[Mapping[str, Any]], report: OnOutcome, keep_going: Callable[[], bool]
) -> None:
    """Run every planned trial that has no outcome and that no other worker runs.

    A trial's lock is held while it runs and is free again when its worker dies, so that what a kill interrupted is
    found and run once more.

    Args:
        runner: runs one trial.
        points: parameters of each trial of the sweep.
        report: called with the outcome of each trial.
        keep_going: asked before each trial whether it is still to be run.
    """
    for number, point in enumerate(points):
        if runner.outcome(number) is not None or (lock := runner.claim(number)) is None:
            continue
        try:
            if not keep_going():
                return
            # another worker may have finished it between the look and the lock
            if runner.outcome(number) is None:
                outcome = runner.run(number, point)
                if outcome is not None:
                    report(outcome)
        finally:
            lock.release()
