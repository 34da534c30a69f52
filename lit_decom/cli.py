"""The command line: the subcommands of ``lit-decom``, each of which is imported only when it is called.

Importing torch and Lightning takes seconds; help and typing errors do without them. The module of a command of ours has
three names: ``add_arguments(parser)``, ``run(given)``, and ``EXPECTED_ERRORS``, the exceptions whose message tells a
user what to change.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from lit_decom.sweep import TRIAL_DIRECTORY

_LIGHTNING_COMMANDS = {
    "fit": "train, and explain the network at every validation",
    "validate": "print the scores of a checkpoint's explanations over the validation images",
    "test": "the same over the test images",
    "compare": "compare explanation methods on a whole data set, with intervals and cost",
}
_OWN_COMMANDS = {
    "configs": ("lit_decom.shipped_configs", "list the configurations that come with the package, or copy one"),
    "report": ("lit_decom.report.command", "write a run, or two of one probe, as one HTML page"),
    "replay": ("lit_decom.replaying", "explain the probe at every checkpoint of a run that had no callback"),
    "dashboard": ("lit_decom.dashboard", "make a W&B workspace with panels for what the callback logs"),
    "sweep": (
        "lit_decom.sweep.command",
        "train many times (`sweep run FILE`), then choose a run (`sweep show DIR`)",
    ),
}
_COMMANDS = (*_LIGHTNING_COMMANDS, *_OWN_COMMANDS)
_EXIT_USAGE = 2
_EXIT_PIPE = 141  # as shells have it of a process that a closed pipe ended


def main(args: Sequence[str] | None = None) -> None:
    """Run ``lit-decom``.

    Args:
        args: the words after the program's name; by default those of the process.

    Raises:
        SystemExit: with status 0 after ``--help``; with status 2 if the command cannot be run as it was given, with a
            message on the standard error. With ``--debug`` the exception behind that message is raised instead. With
            status 141 if nobody reads what is printed.
    """
    try:
        _dispatch(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        sys.exit(_EXIT_PIPE)


def _dispatch(words: list[str]) -> None:
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    _find_modules_in_working_directory()
    name = words[0] if words else ""
    if name == "compare":
        _run_compare(words, debug=debug)
    elif name in _LIGHTNING_COMMANDS or name.split("=")[0] in ("-c", "--config"):
        _run_lightning(words, debug=debug)
    elif name in _OWN_COMMANDS:
        _run_own(name, words, debug=debug)
    elif name in ("-h", "--help"):
        _parser().print_help()
    else:
        _refuse(name)


def _run_compare(words: list[str], *, debug: bool) -> None:
    from lit_decom.comparing import EXPECTED_ERRORS, run

    try:
        run(words, debug=debug)
    except EXPECTED_ERRORS as error:
        _explain(words[0], error, debug=debug)


def _run_lightning(words: list[str], *, debug: bool) -> None:
    from lit_decom.fitting import EXPECTED_ERRORS, LitDecomCLI, run

    cli = LitDecomCLI
    if TRIAL_DIRECTORY in os.environ:
        from lit_decom.sweep.trial_log import TrialCLI

        cli = TrialCLI
    try:
        run(words, debug=debug, cli=cli)
    except EXPECTED_ERRORS as error:
        _explain(words[0], error, debug=debug)


def _run_own(name: str, words: list[str], *, debug: bool) -> None:
    command = import_module(_OWN_COMMANDS[name][0])
    given = _parser(name).parse_args(words)
    given.debug = debug
    try:
        command.run(given)
    except command.EXPECTED_ERRORS as error:
        _explain(name, error, debug=debug)


def _parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Make the parser of all commands, with the arguments of the chosen one."""
    parser = argparse.ArgumentParser(
        "lit-decom",
        description="Train image classifiers with an explanation at every epoch, and look at the runs afterwards.",
        epilog="`lit-decom COMMAND --help` lists the options of a command.",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error; goes with every command")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, line in _LIGHTNING_COMMANDS.items():
        commands.add_parser(name, help=line)
    for name, (module, line) in _OWN_COMMANDS.items():
        command = commands.add_parser(name, help=line, description=f"{line[0].upper()}{line[1:]}.", allow_abbrev=False)
        if name == chosen:
            import_module(module).add_arguments(command)
    return parser


def _refuse(name: str) -> NoReturn:
    """End with the list of commands where none of them was named."""
    parser = _parser()
    parser.print_help(sys.stderr)
    alike = get_close_matches(name, _COMMANDS, n=1)
    hint = f" Did you mean `{alike[0]}`?" if alike else ""
    got = f"got `{name}`" if name else "there is none"
    known = ", ".join(_COMMANDS)
    parser.exit(_EXIT_USAGE, f"\nlit-decom: error: Expected COMMAND to be one of {known}, but {got}.{hint}\n")


def _explain(name: str, error: BaseException, *, debug: bool) -> NoReturn:
    """End with the message of an error that the user can mend, or raise it again."""
    if debug:
        raise error
    print(f"lit-decom {name}: error: {error}\n(`--debug` shows the traceback.)", file=sys.stderr)
    sys.exit(_EXIT_USAGE)


def _reader_has_gone() -> bool:
    """Tell whether nobody reads the output any more, as in ``lit-decom configs | head``, and close it then."""
    try:
        print(flush=True)  # what was lost is no longer in the buffer: only a further byte tells
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _find_modules_in_working_directory() -> None:
    """Let a configuration name the user's own modules beside it, as ``python -m lit_decom`` does by itself."""
    folder = os.getcwd()  # noqa: PTH109 -- sys.path holds texts
    if not sys.flags.safe_path and folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
