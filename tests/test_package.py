"""What `import jaxrobust` offers, and that it costs nothing until it is used."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import jaxrobust

ROOT = Path(jaxrobust.__file__).parent
INTERNAL = {"arguments", "cli", "references", "simple"}
"""What users reach in another way, or not at all."""


def test_every_public_module_is_offered():
    modules = {path.stem for path in ROOT.glob("*") if path.name[0] not in "_."}
    assert {*jaxrobust.__all__} == modules - INTERNAL - {"py"} | {"train"}


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (branch,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [
        alias.name
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(imported) == sorted(jaxrobust.__all__)
    # One for all names would have them take every name.
    names = [getattr(node, "name", None) for node in tree.body]
    assert "__getattr__" not in names


@pytest.mark.parametrize("name", sorted({*jaxrobust.__all__} - {"train"}))
def test_a_name_is_the_subpackage(name):
    assert getattr(jaxrobust, name) is importlib.import_module(f"jaxrobust.{name}")


def test_names_that_are_not_there_are_refused_as_always():
    with pytest.raises(AttributeError, match="has no attribute 'trainning'"):
        _ = jaxrobust.trainning
    with pytest.raises(ImportError, match="cannot import name 'trainning'"):
        exec("from jaxrobust import trainning")
    assert not hasattr(jaxrobust, "__wrapped__")


FRESH = """
import sys
import jaxrobust

def loaded():
    return {name for name in sys.modules if name.startswith(("jaxrobust", "jax."))}

assert loaded() == {"jaxrobust"} and "numpy" not in sys.modules, loaded()
assert {*jaxrobust.__all__} <= {*dir(jaxrobust)}
assert loaded() == {"jaxrobust"}, "looking at the names imports nothing"

jaxrobust.hosts.initialize()
assert "jaxrobust.hosts" in sys.modules and "jaxrobust.training" not in sys.modules
from jax._src import xla_bridge

assert jaxrobust.train is sys.modules["jaxrobust.simple"].train
assert jaxrobust.training.train is not jaxrobust.train
assert not xla_bridge.backends_are_initialized(), "importing computes nothing"

import jaxrobust.cli.evaluate, jaxrobust.cli.limits, jaxrobust.cli.report
assert "matplotlib" not in sys.modules, "nothing is drawn yet"
assert all(hasattr(jaxrobust.plots, name) for name in jaxrobust.plots.__all__)
assert "matplotlib" in sys.modules and not hasattr(jaxrobust.plots, "lins")
"""


def test_subpackages_are_imported_when_they_are_used():
    subprocess.run([sys.executable, "-c", FRESH], check=True)
