"""A module imports from lower floors alone: the house stays one that can be read from the ground up."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lit_decom

ROOT = Path(lit_decom.__file__).parent
# Each floor holds packages and single modules. They may import what is below them, and a package's modules one another.
FLOORS = (
    {"functional", "isolation", "keys", "lightning_roots", "process", "progress"},
    {"models", "probe", "render", "scores"},
    {"evidence"},
    {"methods", "metrics"},
    {"components", "concepts", "records", "scoring"},
    {"explainer", "data", "tasks", "sinks", "tables", "report", "run_names", "dashboard", "shipped_configs"},
    {"comparison", "evaluation", "observer"},
    {"callbacks"},
    {"fitting"},
    {"sweep", "replaying", "comparing"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path):
    """What a module imports, as dotted names: ``from a import b`` is ``a`` here; relative imports begin with a dot."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # A module of the package itself, as in ``from lit_decom import keys``.
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "lit_decom" else [module]


def names_called(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr


def test_every_module_has_its_floor_and_every_floor_its_modules():
    assert {name_of(path).split(".")[0] for path in MODULES} == set(FLOOR_OF)
    assert len(FLOOR_OF) == sum(map(len, FLOORS))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_from_lower_floors_and_its_own_package_alone(path):
    unit = name_of(path).split(".")[0]
    for imported in imports(path):
        assert not imported.startswith("."), "imports are absolute"
        if imported.startswith("lit_decom."):
            other = imported.split(".")[1]
            assert other in FLOOR_OF, "import from where a name is defined"
            assert other == unit or FLOOR_OF[other] < FLOOR_OF[unit], f"{unit} stands below or beside {other}"


def test_what_computes_knows_neither_lightning_nor_a_tracker():
    for path in MODULES:
        if FLOOR_OF[name_of(path).split(".")[0]] <= FLOOR_OF["scoring"]:
            outside = {imported.split(".")[0] for imported in imports(path)}
            assert not outside & {"lightning", "pytorch_lightning", "wandb", "jsonargparse", "omegaconf"}, path


def test_hooks_and_gradients_are_in_one_place():
    hooking = {"register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "register_hook"}
    for path in MODULES:
        if name_of(path).split(".")[0] != "evidence":
            assert not set(names_called(path)) & (hooking | {"grad", "backward"}), path


def test_importing_the_core_imports_neither_lightning_nor_wandb():
    code = (
        "import sys, lit_decom, lit_decom.evaluation, lit_decom.methods, lit_decom.metrics, lit_decom.components\n"
        "from lit_decom import METHODS, DecomCAM, Probe, capture, find_target_layer, observing\n"
        "print([name for name in ('lightning', 'pytorch_lightning', 'wandb') if name in sys.modules])"
    )
    # In a process of its own, since the tests themselves import everything.
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(set(lit_decom.__all__) - {"METHODS"}))
def test_every_public_name_is_there(name):
    assert getattr(lit_decom, name).__name__ == name
    assert name in dir(lit_decom)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lit_decom' has no attribute 'GradCAM2'"):
        lit_decom.GradCAM2  # noqa: B018 -- looking is the point
