"""Start a program that dies with the process that asked for it: ``bound.py PARENT_PID WORD ...``, run by path."""

import os
import signal
import sys

if __name__ == "__main__":
    parent, *words = sys.argv[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        # the parent may have died before the line above
        if os.getppid() != int(parent):
            sys.exit("the sweep has ended")
    os.execvp(words[0], words)
