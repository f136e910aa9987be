"""The rooms of the packages: arrows between them point downwards, and names say what is in them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the bottom up; a module imports from its own room and from those above it in this list, which
# are below it.
ROOMS = (
    "probattn",
    "probattn.attention",
    "probattn.sequence",
    "probattn.emission",
    "probattn.models",
    "probattn.inference",
    "probattn.inference.devices",
    "probattn.inference.data",
    "probattn.inference.fitting",
    "probattn.inference.evaluation",
    "probattn.inference.report",
    "probattn.inference.study",
    "probattn.lens",
    "probattn.cli",
)
STRANGERS = ("probattn.models", "probattn.inference")  # neither knows the other
PACKAGES = {
    "probattn": "probattn",
    "models": "probattn.models",
    "inference": "probattn.inference",
    "lens": "probattn.lens",
}


def modules():
    """Each module's path by its dotted name."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "probattn" and parts[0] in ("models", "inference", "lens"):
                continue  # where they are installed
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def public_names(package):
    """The module of each public name of a package, from its stub."""
    path = ROOT / package.removeprefix("probattn.") / "__init__.pyi"
    stub = path.read_text() if path.exists() else ""
    return {
        name: f"{package}.{module}"
        for module, name in re.findall(r"from \.([a-z_.]+) import (\w+)", stub)
    }


MODULES = modules()
PUBLIC = {package: public_names(package) for package in PACKAGES.values()}


def room_of(module):
    package = MODULES[module].name == "__init__.py"
    return module if package and module in ROOMS else module.rpartition(".")[0]


def imports_of(path):
    """The modules that a file imports from, also inside functions; a public name counts as its own
    module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("probattn"):
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield (
                    inner
                    if inner in MODULES
                    else PUBLIC.get(node.module, {}).get(name.name, node.module)
                )
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("probattn"))


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_downwards(module):
    room = room_of(module)
    assert room in ROOMS
    if module == "probattn.__main__":  # the command line's door
        return
    for target in imports_of(MODULES[module]):
        other = room_of(target)
        assert ROOMS.index(other) <= ROOMS.index(room), f"{module} imports {target}"
        for one, stranger in (STRANGERS, STRANGERS[::-1]):
            assert not (room.startswith(one) and other.startswith(stranger)), (
                f"{module} imports {target}"
            )


@pytest.mark.parametrize("module", MODULES)
def test_no_module_has_the_name_of_a_function_in_it(module):
    tree = ast.parse(MODULES[module].read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert module.rpartition(".")[2] not in functions


def constants_of(path):
    """The UPPER_CASE names that a module defines, each with the source of its value."""
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            pairs = [(target, getattr(node, "value", None))]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
            for name, value in pairs:
                if isinstance(name, ast.Name) and name.id.isupper():
                    yield name.id, ast.unparse(value)


def test_no_constant_name_has_two_values():
    found = {}
    for module, path in MODULES.items():
        for name, value in constants_of(path):
            found.setdefault(name, {}).setdefault(value, []).append(module)
    assert len(found) > 50
    assert {name: values for name, values in found.items() if len(values) > 1} == {}


def test_every_room_says_what_lives_there():
    for room in ROOMS:
        assert len(ast.get_docstring(ast.parse(MODULES[room].read_text())) or "") > 60, room


def test_evaluation_of_fits_loads_no_matplotlib():
    lower = [
        module
        for module in MODULES
        if re.match(r"probattn\.inference\.(devices|data|fitting|evaluation)", module)
    ]
    code = f"import sys, {', '.join(lower)}; print('matplotlib' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )
