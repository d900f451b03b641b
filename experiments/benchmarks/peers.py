"""Agreement with other libraries' attacks on the same weights and images.

    python -m experiments benchmarks/peers --preset cpu

The adversarially trained models of Table 1, each at the radius it was trained for:

* robust accuracy by our standard ensemble and by the AutoAttack of torchattacks, with
  the same numbers of steps and queries (its own: 10 steps and 5,000 queries);
* by our PGD from the clean image and by those of foolbox and ART;
* the median smallest perturbation by our FAB and by that of torchattacks;
* and how long each of them takes.

torchattacks attacks the network rebuilt in PyTorch, foolbox and ART ours through
`jaxrobust.interop`. Needs the extra `benchmark` (PyTorch, foolbox, torchattacks); ART
(`pip install adversarial-robustness-toolbox`) is left out where it is missing.

Presets:
    smoke: digits, few images and steps, to show that it runs.
    cpu: 1,000 MNIST test images; about an hour on 2 cores, most of it the peers'.
"""

import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.evaluation import (
    fresh_compilations,
    import_peers,
    torch_twin,
)
from experiments.judging import ByEnsemble
from experiments.large_perturbations import table1
from experiments.workspace import Workspace
from jaxrobust.attacks import PGD, fab
from jaxrobust.data import Dataset, apply_variant, as_float, load_arrays, subset
from jaxrobust.evaluation import evaluate
from jaxrobust.interop import to_torch
from jaxrobust.threat import THREATS
from jaxrobust.training import Run
from jaxrobust.types import LogitsFn

MAX_ACCURACY_GAP = 0.005
MAX_MEDIAN_GAP = 0.02
"""Half a point of accuracy; 2 % of a median."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Models, images and the settings that both sides share."""

    table: table1.Config
    """Where the models come from."""
    radii: Mapping[str, float]
    """By role of the model in Table 1."""
    num_images: int
    num_minimal: int
    """Images whose smallest perturbations are looked for."""
    ensemble: ByEnsemble
    pgd: PGD
    """From the clean image, so that nothing is drawn."""
    minimal_steps: int
    """Of FAB, which follows the nearest of all boundaries."""


PRESETS = {
    "smoke": Config(
        table=table1.PRESETS["smoke"],
        radii={table1.BASE: 0.1},
        num_images=20,
        num_minimal=20,
        ensemble=ByEnsemble(num_steps=2, num_targets=2, num_queries=5),
        pgd=PGD(num_steps=3, step_size=0.05, random_start=False),
        minimal_steps=3,
    ),
    "cpu": Config(
        table=table1.PRESETS["cpu"],
        radii={table1.EXTENDED: 0.4, table1.BASE: 0.3},
        num_images=1000,
        num_minimal=1000,
        ensemble=ByEnsemble(num_steps=10, num_queries=5000),
        pgd=PGD(num_steps=100, step_size=0.01, random_start=False),
        minimal_steps=100,
    ),
}


class Sample(NamedTuple):
    """The same images for both sides.

    Attributes:
        dataset: as `load_arrays` gives them.
        images: floats, NHWC.
        labels: integers.
        inputs: a PyTorch tensor, NCHW.
        answers: a PyTorch tensor.
    """

    dataset: Dataset
    images: jax.Array
    labels: jax.Array
    inputs: Any
    answers: Any

    def first(self, count: int) -> "Sample":
        """The sample cut short."""
        if count >= len(self.labels):
            return self
        images, labels = self.dataset.images[:count], self.dataset.labels[:count]
        dataset = dataclasses.replace(self.dataset, images=images, labels=labels)
        return Sample(dataset, *(each[:count] for each in self[1:]))


def sample_of(config: table1.Config, size: int, workspace: Workspace) -> Sample:
    """Test images of a setting."""
    _, torch, _ = import_peers()
    test = load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    test = apply_variant(subset(test, size), config.variant)
    images, labels = as_float(jnp.asarray(test.images)), jnp.asarray(test.labels)
    return Sample(
        test,
        images,
        labels,
        torch.from_numpy(np.array(images).transpose(0, 3, 1, 2)).contiguous(),
        torch.from_numpy(np.array(labels)).long(),
    )


def share_right(twin: Any, images: Any, answers: Any) -> float:
    """Accuracy of a PyTorch network."""
    _, torch, _ = import_peers()
    with torch.no_grad():
        return float((twin(images).argmax(1) == answers).double().mean())


def auto_attack(
    twin: Any, epsilon: float, settings: ByEnsemble, num_classes: int, seed: int
) -> Any:
    """AutoAttack by torchattacks, with the steps and queries of our ensemble."""
    _, _, torchattacks = import_peers()
    attack = torchattacks.AutoAttack(
        twin, eps=epsilon, n_classes=num_classes, seed=seed
    )
    for each in attack._autoattack.attacks:
        if hasattr(each, "n_queries"):
            each.n_queries = settings.num_queries
        else:
            each.steps = settings.num_steps
        if hasattr(each, "n_target_classes"):
            each.n_target_classes = min(settings.num_targets, num_classes - 1)
    return attack


def _our_pgd(run: Run, sample: Sample, epsilon: float, attack: PGD) -> float:
    found = evaluate(run.logits_fn, sample.dataset, attack, [epsilon], batch_size=250)
    return float(found.robust_accuracy[0])


def _foolbox_pgd(module: Any, sample: Sample, epsilon: float, settings: PGD) -> float:
    foolbox, *_ = import_peers()
    model = foolbox.PyTorchModel(module, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(
        abs_stepsize=settings.step_size,
        steps=settings.num_steps_at(epsilon),
        random_start=False,
    )
    *_, is_broken = attack(model, sample.inputs, sample.answers, epsilons=epsilon)
    return float(1 - is_broken.double().mean())


def _art_pgd(module: Any, sample: Sample, epsilon: float, settings: PGD) -> float:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    _, torch, _ = import_peers()
    classifier = PyTorchClassifier(
        model=module,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(sample.inputs.shape[1:]),
        nb_classes=sample.dataset.num_classes,
        clip_values=(0.0, 1.0),
    )
    attack = ProjectedGradientDescent(
        classifier,
        eps=epsilon,
        eps_step=settings.step_size,
        max_iter=settings.num_steps_at(epsilon),
        num_random_init=0,
        batch_size=len(sample.labels),
        verbose=False,
    )
    found = attack.generate(sample.inputs.numpy(), sample.answers.numpy())
    return share_right(module, torch.from_numpy(found), sample.answers)


def _median(norms: np.ndarray, is_counted: np.ndarray) -> float:
    return statistics.median(norms[is_counted].tolist())


def _our_minimal(
    logits_fn: LogitsFn, sample: Sample, norm: str, num_steps: int
) -> np.ndarray:
    """Smallest perturbation of each image; infinite where none was found."""
    # The whole range, whatever the norm.
    threat = THREATS[norm](float(sample.images[0].size))
    attack = fab(threat, num_steps=num_steps)

    @jax.jit
    def norms(images: jax.Array, labels: jax.Array) -> jax.Array:
        found = attack(jax.random.key(0), logits_fn, images, labels)
        size = threat.norm(found.images - images)
        return jnp.where(found.is_adversarial, size, jnp.inf)

    # All classes' derivatives at once are large.
    parts, size = [], 100
    for start in range(0, len(sample.labels), size):
        chosen = slice(start, start + size)
        parts.append(np.asarray(norms(sample.images[chosen], sample.labels[chosen])))
    return np.concatenate(parts)


def _their_minimal(
    twin: Any, sample: Sample, norm: str, num_steps: int, seed: int
) -> np.ndarray:
    _, torch, torchattacks = import_peers()
    attack = torchattacks.FAB(
        twin,
        norm={"linf": "Linf", "l2": "L2"}[norm],
        eps=float(sample.images[0].size),
        steps=num_steps,
        seed=seed,
        n_classes=sample.dataset.num_classes,
    )
    found = attack(sample.inputs, sample.answers)
    with torch.no_grad():
        is_broken = (twin(found).argmax(1) != sample.answers).numpy()
    moved = (found - sample.inputs).flatten(1)
    size = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
    return np.where(is_broken, size.numpy(), np.inf)


class Comparison(NamedTuple):
    """One number by us and by others.

    Attributes:
        what: the number, with its settings.
        unit: "accuracy" or "perturbation".
        ours: measures ours.
        peers: by name what measures theirs; None where a library is missing.
    """

    what: str
    unit: str
    ours: Callable[[], float]
    peers: Mapping[str, Callable[[], float] | None]


def comparisons(
    config: Config, run: Run, sample: Sample, epsilon: float, seed: int
) -> list[Comparison]:
    """All numbers about one model."""
    logits_fn, minimal = run.logits_fn, sample.first(config.num_minimal)
    twin, module = torch_twin(run, sample.images[:32]), to_torch(logits_fn)
    num_classes = sample.dataset.num_classes
    ensemble = config.ensemble

    def our_ensemble() -> float:
        attacks = ensemble.attacks
        found = evaluate(logits_fn, sample.dataset, attacks, [epsilon], seed=seed)
        return float(found.robust_accuracy[0])

    def their_ensemble() -> float:
        attack = auto_attack(twin, epsilon, ensemble, num_classes, seed)
        return share_right(twin, attack(sample.inputs, sample.answers), sample.answers)

    settings = (sample, epsilon, config.pgd)
    has_art = importlib.util.find_spec("art") is not None
    found = [
        Comparison(
            f"ensemble, {ensemble.num_steps} steps, {ensemble.num_queries} queries, "
            f"epsilon {epsilon:g}",
            "accuracy",
            our_ensemble,
            {"torchattacks": their_ensemble},
        ),
        Comparison(
            f"PGD-{config.pgd.num_steps_at(epsilon)}, epsilon {epsilon:g}",
            "accuracy",
            lambda: _our_pgd(run, *settings),
            {
                "foolbox": lambda: _foolbox_pgd(module, *settings),
                "ART": (lambda: _art_pgd(module, *settings)) if has_art else None,
            },
        ),
    ]
    logits = logits_fn(minimal.images)
    is_right = np.asarray(jnp.argmax(logits, axis=-1) == minimal.labels)

    def smallest(norm: str) -> Comparison:
        steps = config.minimal_steps

        def our_median() -> float:
            return _median(_our_minimal(logits_fn, minimal, norm, steps), is_right)

        def their_median() -> float:
            found = _their_minimal(twin, minimal, norm, steps, seed)
            return _median(found, is_right)

        return Comparison(
            f"median smallest {norm} perturbation, FAB-{steps}",
            "perturbation",
            our_median,
            {"torchattacks": their_median},
        )

    return [*found, smallest("linf"), smallest("l2")]


def _compared(
    unit: str, ours: Mapping[str, float], theirs: Mapping[str, float] | None
) -> dict[str, Any]:
    """How far two numbers are apart, whether that is allowed, and both times."""
    row: dict[str, Any] = {"ours": ours["value"], "our_seconds": ours["seconds"]}
    names = ("theirs", "their_seconds", "gap", "agrees", "speed")
    if theirs is None:
        return row | dict.fromkeys(names)
    gap = ours["value"] - theirs["value"]
    if unit != "accuracy":
        gap /= theirs["value"]
    allowed = MAX_ACCURACY_GAP if unit == "accuracy" else MAX_MEDIAN_GAP
    # Shares of whole images are compared, up to rounding.
    agrees = abs(gap) <= allowed + 1e-9
    speed = theirs["seconds"] / ours["seconds"]
    found = (theirs["value"], theirs["seconds"], gap, agrees, speed)
    return row | dict(zip(names, found, strict=True))


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Compare all attacks on all models."""
    foolbox, torch, torchattacks = import_peers()
    models = table1.trained(config.table, workspace, *config.radii)
    sample = sample_of(config.table, config.num_images, workspace)
    seed, rows = workspace.seed, []
    torch.manual_seed(seed)

    def measured(
        role: str, what: str, who: str, measure: Callable[[], float]
    ) -> dict[str, float]:
        def compute() -> dict[str, float]:
            workspace.say(f"{role}: {what}, {who}")
            # What earlier calls compiled is forgotten, so that all of it is counted.
            jax.clear_caches()
            with fresh_compilations():
                start = time.perf_counter()
                value = measure()
                seconds = time.perf_counter() - start
            workspace.say(f"{value:.4f} in {seconds:.1f} s")
            return {"value": value, "seconds": seconds}

        about = [config.num_images, config.num_minimal, seed]
        settings = [dataclasses.asdict(config.ensemble), dataclasses.asdict(config.pgd)]
        directory = models[role].directory.name
        key = [who, what, directory, *about, *settings]
        return workspace.cached("peers", key, compute)

    for role, epsilon in config.radii.items():
        for each in comparisons(config, models[role], sample, epsilon, seed):
            ours = measured(role, each.what, "jaxrobust", each.ours)
            for peer, measure in each.peers.items():
                theirs = None
                if measure is not None:
                    theirs = measured(role, each.what, peer, measure)
                about = {"what": each.what, "model": role, "peer": peer}
                found = _compared(each.unit, ours, theirs)
                rows.append({**about, "unit": each.unit, **found})
    notes = [
        f"The same weights and {config.num_images} test images "
        f"({sample.dataset.title}); smallest perturbations of the first "
        f"{min(config.num_minimal, config.num_images)} of them. PGD has steps of "
        f"{config.pgd.step_size:g} from the clean image. Accuracies shall be at most "
        "half a point apart, medians at most 2 %. A time is that of one whole call, "
        "with all that it compiles; PyTorch on "
        f"{torch.get_num_threads()} threads.",
        f"foolbox {foolbox.__version__}, torchattacks {torchattacks.__version__}, "
        f"PyTorch {torch.__version__}.",
    ]
    return {
        "title": "Agreement with other libraries",
        "rows": rows,
        "notes": notes,
        "tables": {"On the same weights and images": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the comparison, also from a committed results file."""

    def cells(row: Mapping[str, Any]) -> list[str]:
        is_share = row["unit"] == "accuracy"

        def shown(value: float) -> str:
            return f"{value:.1%}".replace("%", " %") if is_share else f"{value:.4f}"

        first = [row["model"], row["what"], row["peer"], shown(row["ours"])]
        if row["theirs"] is None:
            seconds = [f"{row['our_seconds']:.1f} s", "", ""]
            return [*first, "not installed", "", "", *seconds]
        unit = "points" if is_share else "%"
        return [
            *first,
            shown(row["theirs"]),
            f"{100 * row['gap']:+.2f} {unit}",
            "yes" if row["agrees"] else "no",
            f"{row['our_seconds']:.1f} s",
            f"{row['their_seconds']:.1f} s",
            f"{row['speed']:.1f} x",
        ]

    header = [
        *("model", "what", "peer", "jaxrobust", "peer's", "difference", "agree"),
        *("our time", "peer's time", "speed"),
    ]
    return [header, *map(cells, result["rows"])]
