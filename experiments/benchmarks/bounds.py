"""Bounds of margins: ours and auto_LiRPA's on the same weights and images.

    python -m experiments benchmarks/bounds --preset cpu

The network of Wong & Kolter with its initial weights, in l_inf without the pixel range,
which auto_LiRPA leaves out: by intervals (IBP), by linear bounds on these intervals
(CROWN-IBP), and by linear bounds throughout (CROWN), with adaptive slopes on both
sides. Rounded to nearest ours are the same numbers; rounded outwards, they hold in
floating point, too. Compiled once, then rounds alternate between the sides, and medians
count. Needs the extra `benchmark` (PyTorch) and auto_LiRPA (`pip install --no-deps
auto_LiRPA appdirs`), whose release asks for names that have moved in NumPy and PyTorch.

Presets:
    smoke: a few digits, to show that it runs.
    cpu: 1,000 MNIST test images, for CROWN 100 of them; some minutes on 2 cores.
"""

import dataclasses
import statistics
import sys
import time
import types
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.workspace import Workspace
from jaxrobust.bounds import interval_margins, linear_margins
from jaxrobust.data import as_float, load_arrays, subset
from jaxrobust.networks import wong_kolter
from jaxrobust.threat import LinfBall

MIN_RATIO = 2.0
"""Of auto_LiRPA's time to ours, rounded to nearest as it is."""

METHODS = {
    "IBP": interval_margins,
    "CROWN-IBP": partial(linear_margins, slopes="adaptive", intermediate="interval"),
    "CROWN": partial(linear_margins, slopes="adaptive", intermediate="linear"),
}
"""By their names in auto_LiRPA."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Images of each method, how many at a time, and how often."""

    dataset: str
    num_images: Mapping[str, int]
    batch_size: Mapping[str, int]
    epsilon: float = 0.1
    num_rounds: int = 5


PRESETS = {
    "smoke": Config(
        dataset="digits",
        num_images=dict.fromkeys(METHODS, 8),
        batch_size=dict.fromkeys(METHODS, 4),
        num_rounds=1,
    ),
    "cpu": Config(
        dataset="mnist",
        num_images={"IBP": 1000, "CROWN-IBP": 1000, "CROWN": 100},
        batch_size={"IBP": 250, "CROWN-IBP": 100, "CROWN": 5},
    ),
}


def import_lirpa() -> Any:
    """The package auto_LiRPA 0.3, given the names that it expects.

    Raises:
        ImportError: where it is missing.
    """
    arrays = types.ModuleType("numpy.lib.arraysetops")
    arrays.isin = np.isin  # type: ignore[attr-defined]
    sys.modules.setdefault(arrays.__name__, arrays)
    try:
        import torch
        from torch.onnx._internal.torchscript_exporter import utils
        from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

        def set_version(version: int) -> None:
            GLOBALS.export_onnx_opset_version = version

        def attribute(node: Any, name: str) -> Any:
            return getattr(node, node.kindOf(name))(name)

        moved: list[tuple[Any, str, Any]] = [
            # Attributes of `torch.onnx` are other modules than these.
            (
                import_module("torch.onnx.utils"),
                "_optimize_graph",
                utils._optimize_graph,
            ),
            (
                import_module("torch.onnx.symbolic_helper"),
                "_set_opset_version",
                set_version,
            ),
            (torch._C.Node, "__getitem__", attribute),
            (torch.onnx, "OperatorExportTypes", torch._C._onnx.OperatorExportTypes),
        ]
        for place, name, value in moved:
            if name not in vars(place):
                setattr(place, name, value)
        import auto_LiRPA
    except ImportError as error:
        raise ImportError(
            f"`{error.name}` must be installed for this benchmark; install it with "
            '`pip install "jaxrobust[benchmark]"` and '
            "`pip install --no-deps auto_LiRPA appdirs`."
        ) from error
    return auto_LiRPA


def twin(params: Mapping[str, Any], side: int) -> Any:
    """The network of Wong & Kolter in PyTorch, with the same weights.

    Args:
        params: of `wong_kolter`.
        side: of the images, in pixels; a multiple of 4.
    """
    import torch

    def filled(layer: Any, kernel: np.ndarray, bias: jax.Array) -> Any:
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
            layer.bias.copy_(torch.from_numpy(np.array(bias)))
        return layer

    layers: list[Any] = []
    for name in ("conv1", "conv2"):
        kernel = np.asarray(params[name]["kernel"]).transpose(3, 2, 0, 1)
        features, channels = kernel.shape[:2]
        conv = torch.nn.Conv2d(channels, features, 4, stride=2, padding=1)
        layers += [filled(conv, kernel, params[name]["bias"]), torch.nn.ReLU()]
    hidden = np.asarray(params["hidden"]["kernel"])
    # Ours flattens height, width, channels; PyTorch channels, height, width.
    hidden = hidden.reshape(side // 4, side // 4, 32, -1).transpose(3, 2, 0, 1)
    head = np.asarray(params["head"]["kernel"]).T
    matrices = {"hidden": hidden.reshape(len(hidden), -1), "head": head}
    layers.append(torch.nn.Flatten())
    for name, kernel in matrices.items():
        dense = torch.nn.Linear(*kernel.shape[::-1])
        layers += [filled(dense, kernel, params[name]["bias"]), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval()


Batches = list[tuple[np.ndarray, np.ndarray]]
Side = Callable[[Batches], np.ndarray]


def _ours(method: str, logits_fn: Any, epsilon: float, rounding: str) -> Side:
    compute = jax.jit(partial(METHODS[method], logits_fn, rounding=rounding))
    threat = LinfBall(epsilon, bounds=None)
    return lambda batches: np.concatenate([compute(threat, *each) for each in batches])


def _theirs(method: str, network: Any, epsilon: float, example: np.ndarray) -> Side:
    import torch

    lirpa = import_lirpa()

    def given(images: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    options = {"activation_bound_option": "adaptive"}
    bounded = lirpa.BoundedModule(network, given(example), bound_opts=options)
    ball = lirpa.PerturbationLpNorm(norm=np.inf, eps=epsilon)

    def margins(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        identity = np.eye(10, dtype=np.float32)
        rows = torch.from_numpy(identity[labels][:, None] - identity[None])
        inputs = lirpa.BoundedTensor(given(images), ball)
        with torch.no_grad():
            lower, _ = bounded.compute_bounds(
                x=(inputs,), C=rows, method=method, bound_upper=False
            )
        return lower.numpy()

    return lambda batches: np.concatenate([margins(*each) for each in batches])


def _compared(
    method: str, config: Config, workspace: Workspace, network: tuple[Any, Any]
) -> dict[str, Any]:
    logits_fn, peer = network
    count, size = config.num_images[method], config.batch_size[method]
    data = load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    data = subset(data, count)
    images, labels = np.asarray(as_float(jnp.asarray(data.images))), data.labels
    batches = [
        (images[place : place + size], labels[place : place + size])
        for place in range(0, count, size)
    ]
    sides = {
        "nearest": _ours(method, logits_fn, config.epsilon, "nearest"),
        "outward": _ours(method, logits_fn, config.epsilon, "outward"),
        "theirs": _theirs(method, peer, config.epsilon, images[:size]),
    }
    # The first calls compile, and are left out.
    found = {name: compute(batches[:1]) for name, compute in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(config.num_rounds):
        for name, compute in sides.items():
            began = time.perf_counter()
            found[name] = compute(batches)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    workspace.seconds += sum(map(sum, seconds.values()))
    workspace.say(f"{method}: {medians}")
    return {
        "method": method,
        "num_images": count,
        "batch_size": size,
        "seconds": medians,
        "ratio": medians["theirs"] / medians["nearest"],
        "difference": float(np.abs(found["nearest"] - found["theirs"]).max()),
        "outward_loss": float((found["nearest"] - found["outward"]).max()),
        "largest": float(np.abs(found["nearest"]).max()),
    }


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Time both sides by each method."""
    import_lirpa()
    import torch

    side = load_arrays(config.dataset, "test", data_dir=workspace.data_dir).images
    side = side.shape[1]
    module = wong_kolter()
    variables = module.init(
        jax.random.key(workspace.seed), jnp.zeros((1, side, side, 1))
    )
    network = (partial(module.apply, variables), twin(variables["params"], side))
    rows = [_compared(method, config, workspace, network) for method in METHODS]
    missed = [row["method"] for row in rows if row["ratio"] < MIN_RATIO]
    notes = [
        f"Test images of {config.dataset}, radius {config.epsilon:g}; warm calls, "
        f"medians of {config.num_rounds} alternating rounds. PyTorch "
        f"{torch.__version__} with {torch.get_num_threads()} threads, auto_LiRPA 0.3.",
        f"At least {MIN_RATIO:g} times as fast: "
        + (f"all but {', '.join(missed)}." if missed else "all."),
    ]
    return {
        "title": "Bounds against auto_LiRPA",
        "rows": rows,
        "notes": notes,
        "tables": {"Bounds of margins": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the comparison, also from a committed results file."""
    header = ["bounds", "images", "at a time", "jaxrobust", "rounded outwards"]
    header += ["auto_LiRPA", "ratio", "largest difference", "lost to rounding"]
    lines = []
    for row in result["rows"]:
        seconds = row["seconds"]
        times = [f"{seconds[each]:.3g} s" for each in ("nearest", "outward", "theirs")]
        lines.append(
            [
                *(row["method"], f"{row['num_images']:,}", str(row["batch_size"])),
                *(*times, f"{row['ratio']:.1f}"),
                *(f"{row['difference']:.1e}", f"{row['outward_loss']:.1e}"),
            ]
        )
    return [header, *lines]
