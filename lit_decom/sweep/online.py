"""W&B's own engine: ``wandb sweep`` and ``wandb agent``, as one would type them."""

import os
import re
import subprocess
import sys
from pathlib import Path

from lit_decom.sweep.errors import SweepError


def run_online(file: Path, n_trials: int | None, jobs: int) -> str:
    """Register a sweep with W&B and run agents until it ends or they have run enough.

    Args:
        file: of the sweep.
        n_trials: trials of all agents together; None for as many as W&B hands out.
        jobs: agents.

    Returns:
        ``ENTITY/PROJECT/ID`` of the sweep.

    Raises:
        SweepError: if W&B refuses the sweep, or an agent fails.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    surroundings = dict(os.environ) | {"PATH": path}
    done = subprocess.run(
        ["wandb", "sweep", str(file)], env=surroundings, capture_output=True, text=True, check=False
    )  # fmt: skip
    said = done.stdout + done.stderr
    # W&B colours what it prints
    found = re.search(r"wandb agent (\S+)", re.sub(r"\x1b\[[0-9;]*m", "", said))
    if done.returncode or found is None:
        raise SweepError(f"Expected `wandb sweep` to register the sweep, but it said:\n{said.strip()}")
    shares = [None] * jobs if n_trials is None else [n_trials // jobs + (k < n_trials % jobs) for k in range(jobs)]
    agents = [
        subprocess.Popen(
            ["wandb", "agent", *([] if share is None else ["--count", str(share)]), found[1]], env=surroundings
        )
        for share in shares
        if share != 0
    ]
    codes = [agent.wait() for agent in agents]
    if any(codes):
        raise SweepError(f"Expected the agents to end well, but got the exit statuses {codes}.")
    return found[1]
