"""Exact bookkeeping of processor time: every moment belongs to one entry, the one entered last."""

import functools
import inspect
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

# Given the entry that is open and the arguments of a call, the entry that the call belongs to.
Rule = Callable[[str, tuple[Any, ...]], str]


class Ledger:
    """Charges this process's processor time, all its threads together, to named entries while it is open.

    Nothing is sampled or estimated: at each change of entry the clock is read, and what has passed goes to the entry
    that was open. So the entries add up to the whole.

    Args:
        root: the entry of whatever no other claims.
        clock: seconds, rising.
    """

    def __init__(self, root: str, clock: Callable[[], float] = time.process_time) -> None:
        self.root, self._clock = root, clock
        self.entry = root
        self.seconds: dict[str, float] = {}
        self._since: float | None = None

    @contextmanager
    def on(self, entry: str) -> Iterator[None]:
        """Charge what is inside to an entry; without effect while the ledger is closed."""
        before, self.entry = self.entry, self._settle(entry)
        try:
            yield
        finally:
            self.entry = self._settle(before)

    def open(self) -> None:
        """Begin an empty page."""
        self.seconds, self.entry, self._since = {}, self.root, self._clock()

    def close(self) -> dict[str, float]:
        """End the page, and give its seconds by entry; empty where none was open."""
        self._settle(self.root)
        self._since = None
        seconds, self.seconds = self.seconds, {}
        return seconds

    def _settle(self, following: str) -> str:
        if self._since is not None:
            now = self._clock()
            self.seconds[self.entry] = self.seconds.get(self.entry, 0.0) + now - self._since
            self._since = now
        return following

    def charged(self, function: Callable[..., Any], rule: Rule) -> Callable[..., Any]:
        """Wrap a function so that its time goes where the rule says, given the entry of its caller."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            entry = rule(self.entry, args)
            if self._since is None or entry == self.entry:
                return function(*args, **kwargs)
            with self.on(entry):
                return function(*args, **kwargs)

        return wrapper


@contextmanager
def charging(ledger: Ledger, package: str, rules: Mapping[str, Rule]) -> Iterator[None]:
    """Charge the public functions and methods of some modules of a package while the block runs.

    They are found by the module that defines them and replaced wherever the package holds them, so that neither their
    names nor who imports them matter. Generators and context managers stay as they are: their time is that of whoever
    runs through them.

    Args:
        ledger: keeps the times.
        package: such as ``"lit_decom"``; all its modules must have been imported.
        rules: by module or subpackage.

    Raises:
        ValueError: if nothing is found under one of the names, since its time would silently be another's.
    """
    modules = {name: module for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")}
    undo: list[Callable[[], None]] = []
    try:
        for prefix, rule in rules.items():
            defining = [module for name, module in modules.items() if f"{name}.".startswith(f"{prefix}.")]
            before = len(undo)
            for module in defining:
                _charge_module(ledger, module, rule, list(modules.values()), undo)
            if len(undo) == before:
                raise ValueError(f"Expected modules with functions under {prefix!r}, but found none.")
        yield
    finally:
        for restore in reversed(undo):
            restore()


def _charge_module(
    ledger: Ledger, module: ModuleType, rule: Rule, holders: list[ModuleType], undo: list[Callable[[], None]]
) -> None:
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__ or name.startswith("_"):
            continue
        if inspect.isclass(value):
            _charge_class(ledger, value, rule, undo)
        elif _is_plain(value):
            wrapped = ledger.charged(value, rule)
            for holder in holders:
                for alias in [alias for alias, held in vars(holder).items() if held is value]:
                    setattr(holder, alias, wrapped)
                    undo.append(functools.partial(setattr, holder, alias, value))


def _charge_class(ledger: Ledger, cls: type, rule: Rule, undo: list[Callable[[], None]]) -> None:
    for name, value in list(vars(cls).items()):
        if name.startswith("_") and name != "__call__":
            continue
        kind = type(value) if isinstance(value, classmethod | staticmethod) else None
        function = value.__func__ if kind else value
        if _is_plain(function):
            wrapped = ledger.charged(function, rule)
            setattr(cls, name, kind(wrapped) if kind else wrapped)
            undo.append(functools.partial(setattr, cls, name, value))


def _is_plain(value: Any) -> bool:
    return inspect.isfunction(value) and not inspect.isgeneratorfunction(inspect.unwrap(value))
