"""Imports point downwards, and third parties stay where they belong."""

import ast
import sys
from pathlib import Path

import pytest

import jaxrobust

ROOT = Path(jaxrobust.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py"))

LAYERS = {
    "__main__": 8,
    "cli": 7,
    **dict.fromkeys(("report", "launching", "interop", "limits"), 6),
    **dict.fromkeys(("evaluation", "plots", "simple"), 5),
    "training": 4,
    **dict.fromkeys(("attacks", "bounds", "concentration"), 3),
    **dict.fromkeys(("losses", "threat", "networks", "data", "theory", "hosts"), 2),
    **dict.fromkeys(
        (
            "convolutions",
            "types",
            "pytrees",
            "references",
            "keeping",
            "keys",
            "compilation",
            "precision",
        ),
        1,
    ),
    "arguments": 0,
}
ROOMS = ("recipe", "step", "course")
"""Of training, from the bottom up."""
FENCES = {
    "flax": ("networks",),
    "equinox": ("networks/equinox.py",),
    "orbax": ("training/course/checkpoints.py",),
    "tensorflow_datasets": ("data",),
    "array_record": ("data",),
    "sklearn": ("data",),
    "matplotlib": ("plots",),
    **dict.fromkeys(("rich", "IPython"), ("training/course/reporters.py",)),
    "tyro": ("cli",),
    "jinja2": ("launching",),
    "torch": ("interop",),
}
# Attacks, bounds and the evaluation know a model only as a function, and concentration
# knows none.
FORBIDDEN = dict.fromkeys(
    ("attacks", "bounds", "evaluation", "concentration"), "networks"
)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module)
            if node.module == "jaxrobust":
                found |= {f"jaxrobust.{alias.name}" for alias in node.names}
    return found


def layer(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = layer(path.relative_to(ROOT).parts)
    if own == "__init__":
        return
    for name in imports(path):
        package, *rest = name.split(".")
        if package != "jaxrobust" or not rest or rest[0] == own:
            continue
        assert LAYERS[rest[0]] < LAYERS[own], f"{own} -> {name}"
        assert FORBIDDEN.get(own) != rest[0]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_training_look_down(room):
    allowed = ROOMS[: ROOMS.index(room) + 1]
    paths = [*(ROOT / "training" / room).rglob("*.py")]
    assert paths
    for path in paths:
        for name in imports(path):
            package, _, rest = name.partition("training.")
            if package == "jaxrobust.":
                assert rest.split(".")[0] in allowed, f"{path} -> {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_third_parties_stay_behind_their_fences(path):
    place = str(path.relative_to(ROOT))
    for name in imports(path):
        allowed = FENCES.get(name.split(".")[0])
        assert allowed is None or place.startswith(allowed), f"{place} imports {name}"


def test_every_module_has_a_layer():
    names = {layer(path.relative_to(ROOT).parts) for path in MODULES} - {"__init__"}
    assert names == set(LAYERS)


def test_theory_stands_alone():
    # What tests compare the library with may not be made of it.
    paths = [path for path in MODULES if path.is_relative_to(ROOT / "theory")]
    names = {name for path in paths for name in imports(path)}
    allowed = {"jax", "numpy", "scipy", *sys.stdlib_module_names}
    others = {name for name in names if name.split(".")[0] not in allowed}
    own = ("jaxrobust.theory", "jaxrobust.types", "jaxrobust.arguments")
    assert others and all(name.startswith(own) for name in others)
