"""Accuracy against epsilon: packed, plain, and by foolbox and torchattacks.

    python -m experiments benchmarks/evaluation --preset cpu

One MNIST network is attacked by PGD over eight radii on the same test images, with the
same number and length of steps and in batches of the same size: by `evaluate_models`
with and without the packing of what is still standing, by bisection of the radii, at
the largest radius alone, and by both peers, whose robust accuracy is counted as ours
is: an example broken at one radius is broken at every larger one. Rounds alternate
between the sides; the median counts. A time is that of a whole call. The first one of
each side compiles; later ones of ours trace again but find the compiled program on
disk, as a second run of the command line does. Needs the extra `benchmark` (PyTorch,
foolbox, torchattacks).

Presets:
    smoke: digits, two radii and steps, to show that it runs.
    cpu: 1,000 MNIST test images, 40 steps, 8 radii; 6 minutes on 2 cores.
"""

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from experiments.judging import ByPGD
from experiments.workspace import Setting, Workspace
from jaxrobust.attacks import PGD
from jaxrobust.compilation import CACHE_OPTION
from jaxrobust.data import Dataset, as_float, load_arrays, subset
from jaxrobust.evaluation import evaluate_models
from jaxrobust.evaluation.engine.plan import Search
from jaxrobust.networks import LeNet, ModelConfig
from jaxrobust.report import percent
from jaxrobust.training import Phase, Run, chain

Accuracies = dict[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Setting):
    """The model's training, and how it is judged."""

    phases: tuple[Phase, ...]
    num_images: int
    evaluation: ByPGD
    """With one restart, which is all that the peers make."""
    many_restarts: int
    """Packing is also measured with this many restarts."""
    num_rounds: int
    """Rounds that count, after the one that compiles."""


PRESETS = {
    "smoke": Config(
        dataset="digits",
        model=ModelConfig(name="lenet-small", widen_factor=0.125),
        train_size=1000,
        phases=chain((0.1,), (1,), attack=PGD(step_size=0.05)),
        num_images=50,
        evaluation=ByPGD(
            epsilons=(0.1, 0.2),
            attack=PGD(num_steps=2),
            num_restarts=1,
            batch_size=25,
        ),
        many_restarts=2,
        num_rounds=1,
    ),
    "cpu": Config(
        dataset="mnist",
        model=ModelConfig(name="lenet", widen_factor=0.25),
        train_size=20_000,
        phases=chain((0.1, 0.2), (2, 3), attack=PGD(step_size=0.05)),
        num_images=1000,
        evaluation=ByPGD(
            epsilons=(0.04, 0.08, 0.12, 0.16, 0.2, 0.24, 0.28, 0.32),
            attack=PGD(num_steps=40),
            num_restarts=1,
            batch_size=250,
        ),
        many_restarts=3,
        num_rounds=2,
    ),
}


class Side(NamedTuple):
    """One way to the accuracies.

    Attributes:
        what: its name.
        against: name of the side whose seconds its own are divided by.
        measure: makes the whole evaluation.
    """

    what: str
    against: str
    measure: Callable[[], Accuracies]


def import_peers() -> tuple[Any, Any, Any]:
    """The modules foolbox, torch and torchattacks."""
    try:
        import foolbox
        import torch
        import torchattacks
    except ImportError as error:
        raise ImportError(
            f"`{error.name}` must be installed for this benchmark; "
            'install it with `pip install "jaxrobust[benchmark]"`.'
        ) from error
    return foolbox, torch, torchattacks


def torch_twin(run: Run, images: jax.Array) -> Any:
    """A trained LeNet as a PyTorch network in evaluation mode.

    Args:
        run: of a `LeNet`.
        images: `(batch, height, width, channels)`; both networks must agree on them.

    Raises:
        ValueError: if the logits differ by more than rounding.
    """
    _, torch, _ = import_peers()
    network, params = run.network.apply.module, run.weights.params
    assert isinstance(network, LeNet)
    size = network.kernel_size
    pad = size // 2 if network.padding == "SAME" else 0

    def filled(layer: Any, kernel: np.ndarray, bias: jax.Array) -> Any:
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
            layer.bias.copy_(torch.from_numpy(np.array(bias)))
        return layer

    def conv(name: str) -> Any:
        kernel = np.asarray(params[name]["kernel"]).transpose(3, 2, 0, 1)
        features, channels = kernel.shape[:2]
        layer = torch.nn.Conv2d(channels, features, size, padding=pad)
        return filled(layer, kernel, params[name]["bias"])

    def dense(name: str, kernel: np.ndarray) -> Any:
        layer = torch.nn.Linear(kernel.shape[1], kernel.shape[0])
        return filled(layer, kernel, params[name]["bias"])

    hidden = np.asarray(params["hidden"]["kernel"])
    channels = params["conv2"]["kernel"].shape[-1]
    side = round((hidden.shape[0] / channels) ** 0.5)
    # Ours flattens height, width, channels; PyTorch channels, height, width.
    hidden = hidden.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
    twin = torch.nn.Sequential(
        *(conv("conv1"), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(conv("conv2"), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        torch.nn.Flatten(),
        *(dense("hidden", hidden.reshape(len(hidden), -1)), torch.nn.ReLU()),
        dense("head", np.asarray(params["head"]["kernel"]).T),
    )
    twin.eval().requires_grad_(False)
    ours = np.asarray(run.logits_fn(images))
    theirs = twin(torch.from_numpy(np.array(images).transpose(0, 3, 1, 2))).numpy()
    difference = float(np.max(np.abs(ours - theirs)))
    if difference > 1e-3 * max(1.0, float(np.max(np.abs(ours)))):
        raise ValueError(
            f"`run` must give the same logits in PyTorch, got {difference:g} apart; "
            "compare the layers of `torch_twin` with those of `LeNet`."
        )
    return twin


def _counted(is_robust: dict[float, np.ndarray]) -> Accuracies:
    """Robust accuracies, where what is broken at one radius is so at larger ones."""
    stands, found = np.bool_(True), {}
    for radius in sorted(is_robust):
        stands = stands & is_robust[radius]
        found[radius] = float(np.mean(stands))
    return found


def foolbox_side(
    run: Run, images: jax.Array, labels: jax.Array, settings: ByPGD
) -> Callable[[], Accuracies]:
    """PGD by foolbox over all radii, on the jitted JAX model."""
    foolbox, *_ = import_peers()
    model = foolbox.models.JAXModel(jax.jit(run.logits_fn), bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(
        abs_stepsize=settings.attack.step_size,
        steps=settings.attack.num_steps,
        random_start=True,
    )

    def measure() -> Accuracies:
        parts = []
        for start in range(0, len(labels), settings.batch_size):
            chosen = slice(start, start + settings.batch_size)
            *_, is_adversarial = attack(
                model, images[chosen], labels[chosen], epsilons=settings.epsilons
            )
            parts.append(~np.asarray(is_adversarial))
        robust = np.concatenate(parts, axis=1)
        return _counted(dict(zip(settings.epsilons, robust, strict=True)))

    return measure


def torchattacks_side(
    twin: Any, images: jax.Array, labels: jax.Array, settings: ByPGD
) -> Callable[[], Accuracies]:
    """PGD by torchattacks, radius by radius, on the PyTorch network."""
    _, torch, torchattacks = import_peers()
    inputs = torch.from_numpy(np.array(images).transpose(0, 3, 1, 2)).contiguous()
    answers = torch.from_numpy(np.array(labels)).long()

    def robust_at(
        epsilon: float, steps: int | None = settings.attack.num_steps
    ) -> np.ndarray:
        attack = torchattacks.PGD(
            twin, eps=epsilon, alpha=settings.attack.step_size, steps=steps
        )
        parts = []
        for start in range(0, len(answers), settings.batch_size):
            chosen = slice(start, start + settings.batch_size)
            found = attack(inputs[chosen], answers[chosen])
            with torch.no_grad():
                parts.append((twin(found).argmax(1) == answers[chosen]).numpy())
        return np.concatenate(parts)

    def seconds_with(num_threads: int) -> float:
        torch.set_num_threads(num_threads)
        robust_at(settings.epsilons[0], 1)
        began = time.perf_counter()
        robust_at(settings.epsilons[0], 2)
        return time.perf_counter() - began

    # Its threads wait for each other by spinning, which on a busy machine takes many
    # times longer than one thread alone; it shall show its better side.
    counts = range(1, len(os.sched_getaffinity(0)) + 1)
    torch.set_num_threads(min(counts, key=seconds_with))
    return lambda: _counted({radius: robust_at(radius) for radius in settings.epsilons})


def our_side(
    run: Run,
    dataset: Dataset,
    settings: ByPGD,
    seed: int,
    *,
    search: Search = "every",
    compact: bool = True,
) -> Callable[[], Accuracies]:
    """`evaluate_models` on one model."""
    weights = run.state.weights

    def apply(weights: Any) -> Any:
        state = run.state._replace(weights=weights)
        return run._replace(state=state).logits_fn

    def measure() -> Accuracies:
        (found,) = evaluate_models(
            apply,
            [weights],
            dataset,
            settings.attacks,
            settings.epsilons,
            search=search,
            batch_size=settings.batch_size,
            seed=seed,
            compact=compact,
        )
        shares = map(float, found.robust_accuracy)
        return dict(zip(found.epsilons, shares, strict=True))

    return measure


@contextmanager
def fresh_compilations() -> Iterator[Path]:
    """Keep compiled programs in an empty directory, which may be emptied again."""
    before = getattr(jax.config, CACHE_OPTION)
    with tempfile.TemporaryDirectory() as directory:
        jax.config.update(CACHE_OPTION, directory)
        compilation_cache.reset_cache()
        try:
            yield Path(directory)
        finally:
            jax.config.update(CACHE_OPTION, before)
            compilation_cache.reset_cache()


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Measure all sides, alternately."""
    foolbox, torch, torchattacks = import_peers()
    test = load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    test = subset(test, config.num_images)
    model = config.train(workspace, "model", *config.phases)
    images, labels = as_float(jnp.asarray(test.images)), jnp.asarray(test.labels)
    twin = torch_twin(model, images)
    torch.manual_seed(workspace.seed)

    once = dataclasses.replace(config.evaluation, num_restarts=1)
    seed = workspace.seed
    one = dataclasses.replace(once, epsilons=once.epsilons[-1:])
    many = dataclasses.replace(once, num_restarts=config.many_restarts)
    radii = f"{len(once.epsilons)} radii"
    ours, starts = f"bisected, {radii}", f"{radii}, {many.num_restarts} starts"
    ours_many = f"bisected, {starts}"

    def bisected(settings: ByPGD) -> Callable[[], Accuracies]:
        return our_side(model, test, settings, seed, search="bisect")

    sides = (
        Side(ours, ours, bisected(once)),
        Side(f"packed, {radii}", ours, our_side(model, test, once, seed)),
        Side(f"plain, {radii}", ours, our_side(model, test, once, seed, compact=False)),
        Side("packed, largest radius alone", ours, our_side(model, test, one, seed)),
        Side(f"foolbox, {radii}", ours, foolbox_side(model, images, labels, once)),
        Side(
            f"torchattacks, {radii}",
            ours,
            torchattacks_side(twin, images, labels, once),
        ),
        Side(ours_many, ours_many, bisected(many)),
        Side(f"packed, {starts}", ours_many, our_side(model, test, many, seed)),
        Side(
            f"plain, {starts}",
            ours_many,
            our_side(model, test, many, seed, compact=False),
        ),
    )
    seconds: dict[str, list[float]] = {side.what: [] for side in sides}
    accuracies: dict[str, Accuracies] = {}
    with fresh_compilations() as compiled:
        for index in range(1 + config.num_rounds):
            for side in sides:
                if not index:
                    # Our sides share one program, and each shall pay for it once.
                    for path in compiled.iterdir():
                        path.unlink()
                began = time.perf_counter()
                found = side.measure()
                seconds[side.what].append(time.perf_counter() - began)
                # The peers draw other starts in each round; the first one is shown.
                accuracies.setdefault(side.what, found)
            workspace.say(f"round {index} of {config.num_rounds} done")
    workspace.seconds += sum(map(sum, seconds.values()))
    median = {what: statistics.median(times[1:]) for what, times in seconds.items()}
    rows = [
        {
            "what": side.what,
            "seconds": median[side.what],
            "first_seconds": seconds[side.what][0],
            "against": side.against,
            "ratio": median[side.what] / median[side.against],
            "robust_accuracy": {
                f"{radius:g}": share for radius, share in accuracies[side.what].items()
            },
        }
        for side in sides
    ]
    notes = [
        f"PGD of {once.attack.num_steps} steps of {once.attack.step_size:g} on "
        f"{config.num_images} test images ({test.title}) in batches of "
        f"{once.batch_size}; medians of {config.num_rounds} rounds after the first "
        "call, which compiles. A ratio is to the bisection of all radii with as many "
        "random starts.",
        f"foolbox {foolbox.__version__}, torchattacks {torchattacks.__version__}, "
        f"PyTorch {torch.__version__} on {torch.get_num_threads()} of "
        f"{len(os.sched_getaffinity(0))} threads, the fastest number of them.",
    ]
    return {
        "title": "Accuracy against epsilon",
        "rows": rows,
        "notes": notes,
        "tables": {"Seconds and robust accuracy": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the comparison, also from a committed results file."""
    radii = list(result["rows"][0]["robust_accuracy"])
    header = ["what", "seconds", "first call", "ratio"]
    lines = [
        [
            row["what"],
            f"{row['seconds']:.2f}",
            f"{row['first_seconds']:.2f}",
            f"{row['ratio']:.2f}",
            *(
                percent(row["robust_accuracy"][radius])
                if radius in row["robust_accuracy"]
                else ""
                for radius in radii
            ),
        ]
        for row in result["rows"]
    ]
    return [[*header, *(f"ε = {radius}" for radius in radii)], *lines]
