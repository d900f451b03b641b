"""Smallest perturbations: our minimum-norm attacks and adv-lib's on the same weights.

    python -m experiments benchmarks/minimum --preset cpu

A MNIST network, trained at a small radius, is attacked by each attack in each of its
norms with the same settings on both sides; the medians over the images that are right
as they are shall agree. Both sides judge by their own network, whose logits agree up to
rounding. Needs the extra `benchmark` (PyTorch and torchattacks) and adv-lib
(`pip install adv-lib`).

Presets:
    smoke: digits, few images and steps, to show that it runs.
    cpu: 100 MNIST test images; about twenty minutes on 2 cores.
"""

import dataclasses
import importlib.metadata
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.evaluation import import_peers, torch_twin
from experiments.workspace import Workspace
from jaxrobust.attacks import (
    PGD,
    AttackBuilder,
    carlini_wagner,
    ddn,
    fmn,
    pdpgd,
    sigma_zero,
)
from jaxrobust.data import as_float, load_arrays, subset
from jaxrobust.networks import ModelConfig
from jaxrobust.threat import THREATS
from jaxrobust.training import TrainConfig, adversarial

MAX_MEDIAN_GAP = 0.02
"""2 % of a median."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Model, images and steps."""

    dataset: str
    model: ModelConfig
    train_size: int
    epochs: int
    epsilon: float
    num_images: int
    num_steps: int
    """Of each attack; of C&W for each constant."""
    num_searches: int
    """Constants of C&W."""


PRESETS = {
    "smoke": Config(
        dataset="digits",
        model=ModelConfig(name="lenet-small", widen_factor=0.125),
        train_size=1000,
        epochs=20,
        epsilon=0.05,
        num_images=10,
        num_steps=10,
        num_searches=2,
    ),
    "cpu": Config(
        dataset="mnist",
        model=ModelConfig(name="lenet", widen_factor=0.25),
        train_size=10_000,
        epochs=3,
        epsilon=0.1,
        num_images=100,
        num_steps=500,
        num_searches=5,
    ),
}


class Row(NamedTuple):
    """One attack in one norm.

    Attributes:
        name: of the attack.
        norm: by which the perturbation is measured.
        ours: a builder.
        theirs: a function of adv-lib, `(model, inputs, labels) -> images`.
    """

    name: str
    norm: str
    ours: AttackBuilder
    theirs: Callable[..., Any]


def import_adv_lib() -> Any:
    """The attacks of adv-lib.

    Raises:
        ImportError: where it is missing.
    """
    try:
        import adv_lib.attacks
    except ImportError as error:
        raise ImportError(
            "`adv_lib` must be installed for this benchmark; install it with "
            "`pip install adv-lib`."
        ) from error
    return adv_lib.attacks


def rows_of(config: Config) -> list[Row]:
    """Both sides of each comparison, with the same settings."""
    peer, steps = import_adv_lib(), config.num_steps
    orders = {"linf": float("inf"), "l2": 2, "l1": 1, "l0": 0}
    rows = [
        Row(
            "FMN",
            norm,
            partial(fmn, num_steps=steps),
            partial(peer.fmn, norm=order, steps=steps),
        )
        for norm, order in orders.items()
    ]
    for norm, order in orders.items():
        # In l_0 the operator of the 2/3 norm, as the authors have it.
        operator = {"proximal_operator": 23} if norm == "l0" else {}
        theirs = partial(peer.pdpgd, norm=order, num_steps=steps, **operator)
        rows.append(Row("PDPGD", norm, partial(pdpgd, num_steps=steps), theirs))
    constants = {"num_searches": config.num_searches, "initial_constant": 0.1}
    return [
        *rows,
        Row(
            "DDN",
            "l2",
            partial(ddn, num_steps=steps),
            # Ours does not round to bytes.
            partial(peer.ddn, steps=steps, levels=None),
        ),
        Row(
            "C&W",
            "l2",
            partial(carlini_wagner, num_steps=steps, **constants),
            partial(
                peer.carlini_wagner_l2,
                max_iterations=steps,
                binary_search_steps=config.num_searches,
                initial_const=constants["initial_constant"],
                abort_early=False,
            ),
        ),
        Row(
            "sigma-zero",
            "l0",
            partial(sigma_zero, num_steps=steps),
            partial(peer.sigma_zero, num_steps=steps),
        ),
    ]


def measured(norm: str, moved: np.ndarray, is_broken: np.ndarray) -> list[float]:
    """Norms of perturbations in float64; infinite where the model is right."""
    flat = np.abs(moved.astype(np.float64)).reshape(len(moved), -1)
    order = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
    return np.where(is_broken, np.linalg.norm(flat, order, axis=1), np.inf).tolist()


def _compared(row: Row, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Both medians and how far they are apart; None for one that is infinite."""
    medians = [statistics.median(ours), statistics.median(theirs)]
    is_known = bool(np.all(np.isfinite(medians)))
    gap = medians[0] / medians[1] - 1 if is_known else None
    shown = [median if np.isfinite(median) else None for median in medians]
    return {
        "attack": row.name,
        "norm": row.norm,
        "ours": shown[0],
        "theirs": shown[1],
        "our_failures": int(np.sum(np.isinf(ours))),
        "their_failures": int(np.sum(np.isinf(theirs))),
        "gap": gap,
        "agrees": None if gap is None else abs(gap) <= MAX_MEDIAN_GAP,
    }


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Compare all attacks in all their norms."""
    _, torch, _ = import_peers()
    recipe = TrainConfig(
        dataset=config.dataset,
        train_size=config.train_size,
        model=config.model,
        phases=(
            adversarial(config.epsilon, config.epochs, attack=PGD(step_size=0.05)),
        ),
        seed=workspace.seed,
    )
    model = workspace.model("model", recipe)
    test = load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    test = subset(test, config.num_images)
    images, labels = as_float(jnp.asarray(test.images)), jnp.asarray(test.labels)
    is_right = np.asarray(jnp.argmax(model.logits_fn(images), axis=1) == labels)
    images, labels = images[is_right], labels[is_right]
    twin = torch_twin(model, images[:32])
    inputs = torch.from_numpy(np.array(images).transpose(0, 3, 1, 2)).contiguous()
    answers = torch.from_numpy(np.array(labels)).long()

    def ours(row: Row) -> list[float]:
        # The whole range, whatever the norm.
        threat = THREATS[row.norm](float(images[0].size))
        search = jax.jit(row.ours(threat), static_argnums=1)
        found = search(jax.random.key(workspace.seed), model.logits_fn, images, labels)
        moved = np.asarray(found.images) - np.asarray(images)
        return measured(row.norm, moved, np.asarray(found.is_adversarial))

    def theirs(row: Row) -> list[float]:
        torch.manual_seed(workspace.seed)
        found = row.theirs(twin, inputs, answers)
        with torch.no_grad():
            is_broken = (twin(found).argmax(1) != answers).numpy()
        moved = (found - inputs).detach().numpy()
        return measured(row.norm, moved, is_broken)

    table = []
    for row in rows_of(config):
        norms = {}
        for side, measure in (("ours", ours), ("theirs", theirs)):
            key = [row.name, row.norm, side, model.directory.name]
            key += [dataclasses.asdict(config), workspace.seed]
            kept = workspace.cached("minimum", key, partial(measure, row))
            # JSON has no infinity.
            norms[side] = [np.inf if norm is None else norm for norm in kept]
            workspace.say(f"{row.name}, {row.norm}, {side}")
        table.append(_compared(row, norms["ours"], norms["theirs"]))
    version = importlib.metadata.version("adv-lib")
    notes = [
        f"{len(labels)} test images ({test.title}) that the network, trained at "
        f"epsilon {config.epsilon:g}, has right; {config.num_steps} steps, of C&W for "
        f"each of {config.num_searches} constants. Not found: images without an "
        "adversarial one, which count as infinitely far.",
        f"adv-lib {version}, PyTorch {torch.__version__}.",
    ]
    return {
        "title": "Minimum-norm attacks against adv-lib",
        "rows": table,
        "notes": notes,
        "tables": {"Medians": results_table({"rows": table})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the comparison, also from a committed results file."""
    header = ["attack", "norm", "jaxrobust", "adv-lib", "difference", "within 2 %"]

    def cells(row: Mapping[str, Any]) -> list[str]:
        medians = [
            "infinite" if row[side] is None else f"{row[side]:.4g}"
            for side in ("ours", "theirs")
        ]
        gap = "" if row["gap"] is None else f"{100 * row['gap']:+.2f} %"
        agrees = {True: "yes", False: "no", None: ""}[row["agrees"]]
        failures = [str(row["our_failures"]), str(row["their_failures"])]
        return [row["attack"], row["norm"], *medians, gap, agrees, *failures]

    rows = map(cells, result["rows"])
    return [[*header, "not found", "not found by adv-lib"], *rows]
