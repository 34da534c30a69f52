"""Start a program that dies with the process that asked for it: ``bound.py PARENT_PID WORD ...``.

Run by path and without the package, since it stands before every trial.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent where the system can, and become the program."""
    parent, *words = sys.argv[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # the parent may have died before the line above
        if os.getppid() != int(parent):
            sys.exit("the sweep has ended")
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
