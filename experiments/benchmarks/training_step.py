"""Adversarial training steps: ours and PyTorch's, timed alternately in one run.

    python -m experiments benchmarks/training_step --preset cpu

The same network, batch, attack (PGD, 15 steps of .05 at epsilon .3, of residual
networks 3 steps) and optimizer (Adam) on both sides; PyTorch is eager, or compiled,
too. Rounds alternate between the sides and the median counts, so that a noisy neighbor
slows both. The share of the GEMM rate compares the multiplications that the network
needs with what a dense 2048 x 2048 matrix product reaches on the same machine, in the
same run. Needs the extra `benchmark` (PyTorch).

Presets:
    smoke: a few steps, to show that it runs.
    cpu: both forms of the MNIST network, ResNet-18 and WRN-28-1, and PyTorch also after
        `torch.compile`; about ten minutes on 2 cores.
    accelerator: the full width in float32 (TF32) and bfloat16, and PyTorch also after
        `torch.compile`.
"""

import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import torch_networks
from experiments.workspace import Workspace
from jaxrobust.attacks import PGD
from jaxrobust.networks import LeNet, WideResNet, as_network, resnet18
from jaxrobust.networks.layers import Formulation
from jaxrobust.report import percent
from jaxrobust.training import (
    Precision,
    adversarial,
    make_trainer,
)

EPSILON, STEP_SIZE, NUM_STEPS = 0.3, 0.05, 15
NUM_RESIDUAL_STEPS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is timed, and how often."""

    batch_size: int = 128
    num_batches: int = 4
    """Batches of a round."""
    num_rounds: int = 5
    widen_factors: tuple[float, ...] = (1.0, 0.25)
    paddings: tuple[Literal["VALID", "SAME"], ...] = ("VALID", "SAME")
    residual: tuple[Literal["ResNet-18", "WRN-28-1"], ...] = ()
    """Networks on 32x32 images, in batches of a quarter of the size."""
    precisions: tuple[Precision, ...] = ("float32",)
    """On both sides; an NVIDIA GPU multiplies float32 as TF32 on both."""
    torch_compile: bool = False
    """Also time PyTorch after `torch.compile`."""


PRESETS = {
    "smoke": Config(
        batch_size=8,
        num_batches=1,
        num_rounds=1,
        widen_factors=(0.125,),
        paddings=("VALID",),
    ),
    "cpu": Config(residual=("ResNet-18", "WRN-28-1"), torch_compile=True),
    "accelerator": Config(
        num_batches=100,
        widen_factors=(1.0,),
        precisions=("float32", "bfloat16"),
        torch_compile=True,
    ),
}


class Case(NamedTuple):
    """One network, and what is done with it.

    Attributes:
        name: of the network.
        ours: makes a Flax module of a formulation.
        theirs: makes a module of PyTorch.
        shape: of an image.
        batch_size: images of a step.
        num_batches: of a round.
        num_steps: of PGD.
        forward_flop: of one image's forward pass (2 a product).
    """

    name: str
    ours: Callable[[Formulation], Any]
    theirs: Callable[[], Any]
    shape: tuple[int, int, int]
    batch_size: int
    num_batches: int
    num_steps: int
    forward_flop: float

    @property
    def num_images(self) -> int:
        """Of a round."""
        return self.batch_size * self.num_batches

    @property
    def training_flop(self) -> float:
        """Of a round: 2 passes an attack step, 3 to update weights."""
        return self.forward_flop * (2 * self.num_steps + 3) * self.num_images


def cases(config: Config) -> list[Case]:
    """All networks that are timed."""
    size, count = config.batch_size, config.num_batches
    found = [
        Case(
            f"MNIST network {padding}, width x{factor:g}",
            partial(_lenet, padding, factor),
            partial(torch_networks.lenet, padding, factor),
            (28, 28, 1),
            *(size, count, NUM_STEPS, forward_flop(padding, factor)),
        )
        for factor, padding in itertools.product(config.widen_factors, config.paddings)
    ]
    residual = {
        "ResNet-18": (
            lambda formulation: resnet18(formulation=formulation),
            torch_networks.resnet18,
            1.111e9,
        ),
        "WRN-28-1": (
            lambda formulation: WideResNet(formulation=formulation),
            partial(torch_networks.wide_resnet28, 1.0),
            0.110e9,
        ),
    }
    for name in config.residual:
        ours, theirs, flop = residual[name]
        numbers = (max(size // 4, 1), 1, NUM_RESIDUAL_STEPS, flop)
        found.append(Case(name, ours, theirs, (32, 32, 3), *numbers))
    return found


def _lenet(
    padding: Literal["VALID", "SAME"], factor: float, formulation: Formulation
) -> LeNet:
    return LeNet(widen_factor=factor, padding=padding, formulation=formulation)


def forward_flop(padding: str, widen_factor: float) -> float:
    """Floating-point operations of a forward pass of one 28x28 image (2 a product)."""
    first, second, hidden = (int(width * widen_factor) for width in (32, 64, 1024))
    sides = (28, 14, 7) if padding == "SAME" else (24, 8, 4)
    return 2.0 * (
        sides[0] ** 2 * 25 * first
        + sides[1] ** 2 * 25 * first * second
        + sides[2] ** 2 * second * hidden
        + hidden * 10
    )


def our_round(
    case: Case,
    precision: Precision = "float32",
    formulation: Formulation = "auto",
) -> Callable[[], None]:
    """A function that trains on the batches of a round with this library."""
    trainer = make_trainer(
        as_network(case.ours(formulation), 10),
        batch_size=case.batch_size,
        precision=precision,
    )
    images = jax.random.uniform(jax.random.key(1), (case.num_images, *case.shape))
    labels = jax.random.randint(jax.random.key(2), (case.num_images,), 0, 10)
    attack = PGD(step_size=STEP_SIZE, num_steps=case.num_steps)
    phase = adversarial(EPSILON, 1, attack=attack)
    steps = phase.at(1, case.num_batches)
    run = jax.jit(trainer.run, donate_argnums=0)
    begin = jax.jit(trainer.begin_epoch, donate_argnums=0)
    state = jax.jit(trainer.init)(jax.random.key(0), images, phase.optimizer)

    def train() -> None:
        nonlocal state
        state = begin(state)
        state = run(state, steps, images, labels, jnp.int32(case.num_batches))
        jax.block_until_ready(state)

    return train


def torch_round(
    case: Case,
    *,
    epsilon: float = EPSILON,
    num_steps: int | None = None,
    precision: Precision = "float32",
    is_compiled: bool = False,
) -> Callable[[], None]:
    """The same with PyTorch, eager or compiled, on its GPU if it has one."""
    try:
        import torch
        from torch.nn import functional
    except ImportError as error:
        raise ImportError(
            "`torch` must be installed for this benchmark; "
            'install it with `pip install "jaxrobust[benchmark]"`.'
        ) from error
    network = case.theirs()
    steps = case.num_steps if num_steps is None else num_steps
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    network = network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    generator = torch.Generator().manual_seed(0)
    height, width, channels = case.shape
    shape = (case.num_images, channels, height, width)
    all_images = torch.rand(shape, generator=generator).to(device)
    all_labels = torch.randint(10, shape[:1], generator=generator).to(device)
    called = torch.compile(network) if is_compiled else network

    def logits_of(images: Any) -> Any:
        is_lower = precision == "bfloat16"
        with torch.autocast(device, dtype=torch.bfloat16, enabled=is_lower):
            return called(images).float()

    def perturbed(images: Any, labels: Any) -> Any:
        found = images + torch.empty_like(images).uniform_(-epsilon, epsilon)
        found = found.clamp(0, 1)
        for _ in range(steps):
            found.requires_grad_(True)
            loss = functional.cross_entropy(logits_of(found), labels)
            (gradient,) = torch.autograd.grad(loss, found)
            with torch.no_grad():
                found = found + STEP_SIZE * gradient.sign()
                found = torch.clamp(found, images - epsilon, images + epsilon)
                found = found.clamp(0, 1)
        return found.detach()

    def train() -> None:
        order = torch.randperm(case.num_images, generator=generator).to(device)
        for start in range(0, case.num_images, case.batch_size):
            chosen = order[start : start + case.batch_size]
            images, labels = all_images[chosen], all_labels[chosen]
            # The weights' gradients are not needed while attacking, which sees the
            # network with its running statistics.
            network.requires_grad_(False)
            network.eval()
            found = perturbed(images, labels)
            network.requires_grad_(True)
            network.train()
            optimizer.zero_grad()
            functional.cross_entropy(logits_of(found), labels).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return train


def require_same_parameters(case: Case) -> None:
    """Refuse to compare networks that are not the same.

    Raises:
        ValueError: if one has more parameters than the other.
    """
    network = as_network(case.ours("auto"), 10)
    images = jax.ShapeDtypeStruct((1, *case.shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    ours = sum(leaf.size for leaf in jax.tree.leaves(variables.params))
    theirs = sum(weight.numel() for weight in case.theirs().parameters())
    if ours != theirs:
        raise ValueError(
            f"`theirs` must have the {ours} parameters of {case.name}, got {theirs}; "
            "correct `torch_networks`."
        )


def use_fastest_threads(function: Callable[[], None]) -> int:
    """Give PyTorch the number of threads at which a function of it is fastest.

    Its threads wait for each other by spinning, which on a busy machine takes many
    times longer than one thread alone; it shall show its better side.
    """
    import torch

    def seconds_with(num_threads: int) -> float:
        torch.set_num_threads(num_threads)
        function()
        return min(_seconds(function) for _ in range(2))

    counts = range(1, len(os.sched_getaffinity(0)) + 1)
    fastest = min(counts, key=seconds_with)
    torch.set_num_threads(fastest)
    return fastest


def gemm_round() -> tuple[Callable[[], None], float]:
    """A dense 2048 x 2048 product in float32, and its floating-point operations."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(2048, 2048)), "float32")
    multiply = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(multiply(matrix, matrix)), 2 * 2048.0**3


def _attempts(case: Case, ours: float) -> dict[str, float]:
    """What else might reach a target that was missed: throughput over what is done."""
    sides = {
        "patches": our_round(case, formulation="patches"),
        "bfloat16": our_round(case, "bfloat16"),
    }
    rates = {}
    for name, function in sides.items():
        function()
        times = [_seconds(function) for _ in range(3)]
        rates[name] = ours / statistics.median(times)
    return rates


def _seconds(function: Callable[[], None]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Time both sides for every network."""
    gemm, gemm_flop = gemm_round()
    rows = []
    for case, precision in itertools.product(cases(config), config.precisions):
        require_same_parameters(case)
        sides = {
            "ours": our_round(case, precision),
            "theirs": torch_round(case, precision=precision),
            "gemm": gemm,
        }
        if config.torch_compile:
            sides["compiled"] = torch_round(case, precision=precision, is_compiled=True)
        threads = use_fastest_threads(sides["theirs"])
        for function in sides.values():
            function()
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(config.num_rounds):
            for name, function in sides.items():
                times[name].append(_seconds(function))
        median = {name: statistics.median(each) for name, each in times.items()}
        workspace.seconds += sum(map(sum, times.values()))
        rate = gemm_flop / median["gemm"]
        work = case.training_flop
        lower = "" if precision == "float32" else f", {precision}"
        compiled = median.get("compiled")
        row = {
            "what": f"PGD-{case.num_steps} training, {case.name}{lower}",
            "ours": case.num_images / median["ours"],
            "theirs": case.num_images / median["theirs"],
            "unit": "images/s",
            "ratio": median["theirs"] / median["ours"],
            "ratio_compiled": compiled and compiled / median["ours"],
            "our_gemm_share": work / median["ours"] / rate,
            "their_gemm_share": work / median["theirs"] / rate,
            "gemm_gflop_per_second": rate / 1e9,
            "torch_threads": threads,
            "target": 1.3 if jax.default_backend() == "cpu" else 3.0,
        }
        if row["ratio"] < row["target"]:
            row["attempts"] = _attempts(case, median["ours"])
        rows.append(row)
        workspace.say(
            f"{row['what']}: {row['ours']:,.0f} against {row['theirs']:,.0f} "
            f"images/s, {row['ratio']:.2f} times"
        )
    return {
        "title": "Adversarial training step against PyTorch",
        "rows": rows,
        "notes": [
            f"PyTorch {_torch_version()} eager, with the number of threads at which it "
            "is fastest; medians of alternating rounds.",
            *(_missed(row) for row in rows if "attempts" in row),
        ],
        "tables": {"Throughput": results_table({"rows": rows})},
    }


def _missed(row: Mapping[str, Any]) -> str:
    rates = ", ".join(
        f"{name} {rate:.2f} times" for name, rate in row["attempts"].items()
    )
    return (
        f"{row['what']} misses the target of {row['target']:g}. Tried instead, in "
        f"units of the throughput that is reached: {rates}."
    )


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table of throughputs, also from a committed results file."""
    header = ["what", "jaxrobust", "PyTorch eager", "unit", "ratio", "target"]
    header += ["our GEMM share", "PyTorch's"]
    is_compiled = any(row.get("ratio_compiled") for row in result["rows"])
    header += ["ratio to torch.compile"] if is_compiled else []
    lines = [
        [
            row["what"],
            f"{row['ours']:,.0f}",
            f"{row['theirs']:,.0f}",
            row["unit"],
            f"{row['ratio']:.2f}",
            f"{row.get('target', 1.3):g}",
            percent(row["our_gemm_share"], 0),
            percent(row["their_gemm_share"], 0),
            *([f"{row['ratio_compiled']:.2f}"] if is_compiled else []),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]


def _torch_version() -> str:
    import torch

    return torch.__version__
