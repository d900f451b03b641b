import dataclasses
import importlib
import importlib.util
import inspect
import itertools
import pkgutil
import subprocess
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest

import jaxrobust
from jaxrobust.pytrees import Pytree, static
from jaxrobust.threat import L2Ball, LinfBall, ThreatModel


def package_classes() -> Iterator[type]:
    seen = set()
    for module in pkgutil.walk_packages(jaxrobust.__path__, "jaxrobust."):
        if module.name.endswith("__main__") or module.name.startswith(
            "jaxrobust.interop"
        ):
            continue
        optional = module.name.rpartition(".")[2]
        if optional == "equinox" and importlib.util.find_spec(optional) is None:
            continue
        for _, kind in inspect.getmembers(
            importlib.import_module(module.name), inspect.isclass
        ):
            if kind.__module__.startswith("jaxrobust") and kind not in seen:
                seen.add(kind)
                yield kind


def blank(kind: type):
    """An instance whose fields are all alike, however many checks a class makes."""
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return tuple.__new__(kind, [0] * len(kind._fields))
    if not dataclasses.is_dataclass(kind):
        return None
    tree = object.__new__(kind)
    for field in dataclasses.fields(kind):
        object.__setattr__(tree, field.name, 0)
    return tree


def test_no_two_types_of_the_package_have_the_same_structure():
    trees = [blank(kind) for kind in package_classes()]
    trees = [
        tree
        for tree in trees
        if tree is not None and not jax.tree_util.all_leaves([tree])
    ]
    names = {type(tree).__name__ for tree in trees}
    assert {"LinfBall", "L2Ball", "TrainState", "PGD", "AttackResult"} <= names
    for one, other in itertools.combinations(trees, 2):
        assert jax.tree.structure(one) != jax.tree.structure(other), (one, other)


def subclasses(count: int) -> list[type[ThreatModel]]:
    """A user's own threat models, each with its own norm."""

    def make(factor: int) -> type[ThreatModel]:
        def norm(self, perturbation):
            return factor * jnp.ones(len(perturbation)) * self.epsilon

        return type(f"Ball{factor}", (ThreatModel,), {"norm": norm})

    return [make(factor) for factor in range(count)]


def test_a_compiled_program_never_serves_another_threat_model():
    # With types that are taken for each other, about 10 of 60 get a wrong program.
    norm = jax.jit(lambda threat, images: threat.norm(images))
    images = jnp.zeros((1, 2))
    found = [float(norm(kind(1.0), images)[0]) for kind in subclasses(60)]
    assert found == list(range(60))


FRESH = """
import jax, jax.numpy as jnp
from jaxrobust.threat import L2Ball, LinfBall
project = jax.jit(lambda threat, images, center: threat.project(images, center))
sample = jax.jit(lambda threat, key, center: threat.sample(key, center))
images, center, key = jnp.ones((2, 6)), jnp.zeros((2, 6)), jax.random.key(0)
project(LinfBall(.5), images, center), sample(LinfBall(.5), key, center)
moved = project(L2Ball(.5), images, center), sample(L2Ball(.5), key, center)
raise SystemExit(any(float(jnp.linalg.norm(each, axis=1).max()) > .5 for each in moved))
"""


@pytest.mark.slow
def test_no_fresh_process_runs_the_program_of_the_other_ball():
    def some(count: int) -> list[int]:
        command = [sys.executable, "-c", FRESH]
        running = [subprocess.Popen(command) for _ in range(count)]
        return [process.wait() for process in running]

    # One in six ran the wrong program; none of thirty has a chance of 0.4 %.
    codes = [code for _ in range(15) for code in some(2)]
    assert codes == [0] * 30


@dataclasses.dataclass(frozen=True)
class Tilted(ThreatModel):
    angle: float = 0.5
    kind: str = static(default="left")


def test_a_subclass_with_fields_of_its_own_is_a_pytree():
    threat = Tilted(0.1, angle=2.0, kind="right")
    leaves = jax.tree.leaves_with_path(threat)
    paths = [jax.tree_util.keystr(path) for path, _ in leaves]
    assert paths == [".epsilon", ".angle"]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, threat)
    assert doubled == Tilted(0.2, angle=4.0, kind="right")
    other = dataclasses.replace(threat, kind="left")
    assert jax.tree.structure(threat) != jax.tree.structure(other)
    assert jax.tree.structure(threat) == jax.tree.structure(doubled)


def test_static_fields_decide_the_program():
    traces = []

    @jax.jit
    def epsilon(threat):
        traces.append(threat.bounds)
        return threat.epsilon

    for threat in (LinfBall(0.1), LinfBall(0.2), LinfBall(0.2, bounds=None)):
        assert float(epsilon(threat)) == pytest.approx(threat.epsilon)
    assert traces == [(0.0, 1.0), None]


def test_leaves_that_are_no_numbers_pass_through():
    # jax unflattens with placeholders, which the checks of `__init__` would refuse.
    threat = jax.tree.unflatten(jax.tree.structure(L2Ball(0.1)), [-1.0])
    assert isinstance(threat, L2Ball) and threat.epsilon == -1.0
    assert jax.tree.map(lambda _: None, threat).epsilon is None


def test_registering_a_subclass_again_is_refused():
    with pytest.raises(ValueError, match=r"[Dd]uplicate"):
        jax.tree_util.register_dataclass(
            type("Twice", (Pytree,), {}), data_fields=[], meta_fields=[]
        )
