"""The house stands on its floors: no import goes upward or in a circle, no file grows too long."""

import ast
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

from omnijax import ops

ROOT = Path(__file__).parent.parent
# Low to high; names in one row stand side by side and may use each other only as ALSO says.
FLOORS = (
    ("typing", "errors"),
    ("files",),
    ("sharding",),
    ("media",),
    ("text",),
    ("ops",),
    ("nn",),
    ("models",),
    ("data",),
    ("generate",),
    ("train",),
    ("pretrained",),
    ("eval",),
)
HEIGHT = {name: height for height, row in enumerate(FLOORS) for name in row}
# Parity lives in tests; these must never be needed to run the model. Resemblyzer, which imports
# torch, is imported when a voice is measured with it, where it is installed: no other thing is.
FORBIDDEN = ("torch", "transformers", "tensorflow", "clu", "decord", "fiddle", "tyro", "typeguard")
MAX_LINES = 600

PACKAGE_FILES = sorted((ROOT / "omnijax").rglob("*.py"))
SCRIPT_FILES = sorted((ROOT / "experiments").rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """Absolute names of every module that a file imports, at any depth of nesting."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def floor(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "omnijax" and len(parts) > 1 else None


def test_every_package_has_a_floor():
    packages = {floor(module_name(path)) for path in PACKAGE_FILES} - {None}
    assert packages <= set(HEIGHT)


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=module_name)
def test_nothing_imports_upward(path):
    own = floor(module_name(path))
    if own is None:
        return
    used = {floor(name) for name in imported_modules(path)} & set(HEIGHT)
    upward = {name for name in used if name != own and HEIGHT[name] >= HEIGHT[own]}
    assert not upward, f"{module_name(path)} imports {sorted(upward)}, which stand above {own}"


def test_nothing_imports_in_a_circle():
    modules = {module_name(path): path for path in PACKAGE_FILES}
    graph = {
        name: {used for used in imported_modules(path) if used in modules and used != name}
        for name, path in modules.items()
    }
    # A package's __init__ gathers its own modules, which may name the package's siblings.
    graph = {
        name: {used for used in uses if not name.startswith(used + ".")}
        for name, uses in graph.items()
    }
    done: set[str] = set()

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for used in sorted(graph[name]):
                visit(used, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", PACKAGE_FILES + SCRIPT_FILES, ids=module_name)
def test_no_file_is_longer_than_the_limit(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path} has {lines} lines, the limit is {MAX_LINES}"


@pytest.mark.parametrize("path", PACKAGE_FILES + SCRIPT_FILES, ids=module_name)
def test_no_forbidden_library_is_imported(path):
    used = {name.split(".")[0] for name in imported_modules(path)}
    assert not used & set(FORBIDDEN)


def test_the_package_never_imports_its_experiments():
    for path in PACKAGE_FILES:
        assert not any(name.split(".")[0] == "experiments" for name in imported_modules(path)), path


def test_shapes_are_checked_while_tests_run():
    with pytest.raises(jaxtyping.TypeCheckError):
        ops.causal_conv(np.zeros((2, 3)), np.zeros((4, 3)))
