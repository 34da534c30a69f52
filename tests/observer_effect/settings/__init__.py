"""The table: settings and faults, each of which a training must survive unchanged. One module per kind."""

from importlib import import_module
from pkgutil import iter_modules

from tests.helpers.settings import Setting

SETTINGS: list[Setting] = [
    setting for module in iter_modules(__path__) for setting in import_module(f"{__name__}.{module.name}").SETTINGS
]
