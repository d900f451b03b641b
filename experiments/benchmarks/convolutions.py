"""Single convolutions of stride 1 on a CPU: by patches, by transforms, direct, PyTorch.

    python -m experiments benchmarks/convolutions --preset cpu

Layers of the networks of the catalogue, with the ReLU and the pooling that follow, in
the loop that they run in: steps of PGD (forward pass and the gradient of the input) and
training steps (the kernel's gradient, too). Sides alternate; what counts is the least
processor time of a step, of all threads together, since that is what a busy machine
disturbs least. PyTorch is eager, on one thread; without it, its column stays empty.

Presets:
    smoke: one small layer.
    cpu: second layers of the MNIST networks, blocks of ResNet-18 and WRN-28-1.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.workspace import Workspace
from jaxrobust.convolutions import conv_by_winograd, is_faster
from jaxrobust.networks import Conv

STEP_SIZE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution with as many outputs as inputs, or without padding."""

    name: str
    batch: int
    side: int
    channels: int
    features: int
    size: int
    is_padded: bool = True
    pool: bool = False

    @property
    def pads(self) -> list[tuple[int, int]]:
        """Zeros before and after rows and columns."""
        pad = self.size // 2 if self.is_padded else 0
        return [(pad, pad)] * 2


def mnist(padding: str, factor: float) -> Layer:
    """The second layer of the MNIST network."""
    is_padded = padding == "SAME"
    return Layer(
        name=f"MNIST network {padding}, width x{factor:g}",
        batch=128,
        side=14 if is_padded else 12,
        channels=int(32 * factor),
        features=int(64 * factor),
        size=5,
        is_padded=is_padded,
        pool=True,
    )


def block(network: str, batch: int, side: int, width: int) -> Layer:
    """A layer of a residual block."""
    name = f"{network}, {width} channels"
    return Layer(
        name=name, batch=batch, side=side, channels=width, features=width, size=3
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is timed, and how often."""

    layers: tuple[Layer, ...]
    num_steps: int = 4
    """Of a loop; of `lax.conv` 1, which is many times slower in it."""
    num_rounds: int = 3


PRESETS = {
    "smoke": Config(
        layers=(Layer(name="small", batch=2, side=8, channels=4, features=4, size=3),),
        num_rounds=1,
    ),
    "cpu": Config(
        layers=(
            *(mnist("SAME", factor) for factor in (1.0, 0.5, 0.25)),
            *(mnist("VALID", factor) for factor in (1.0, 0.5, 0.25)),
            *(block("WRN-28-1", 128, 512 // width, width) for width in (16, 32, 64)),
            *(block("ResNet-18", 32, 2048 // width, width) for width in (64, 128)),
            *(block("ResNet-18", 32, 2048 // width, width) for width in (256, 512)),
        )
    ),
}


def formulations(layer: Layer) -> dict[str, Callable[[Any, Any], Any]]:
    """Functions of images and kernel that compute the same maps."""

    def conv(formulation: Any) -> Callable[[Any, Any], Any]:
        module = Conv(
            layer.features,
            layer.size,
            padding="SAME" if layer.is_padded else "VALID",
            use_bias=False,
            pool=layer.pool,
            formulation=formulation,
        )
        return lambda x, kernel: module.apply({"params": {"kernel": kernel}}, x)

    found = {name: conv(name) for name in ("patches", "winograd", "direct")}
    if layer.size == 3:
        small = partial(conv_by_winograd, pads=layer.pads, outputs=2, pool=layer.pool)
        found["small_tiles"] = small
    return found


def arrays_of(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Images and a kernel, drawn."""
    rng = np.random.default_rng(0)
    sides = (layer.side, layer.side)
    images = rng.normal(size=(layer.batch, *sides, layer.channels))
    kernel = rng.normal(size=(layer.size, layer.size, layer.channels, layer.features))
    kernel /= np.sqrt(kernel[..., 0].size)
    return images.astype(np.float32), kernel.astype(np.float32)


def our_loop(
    apply: Callable[[Any, Any], Any], layer: Layer, num_steps: int, is_training: bool
) -> Callable[[], Any]:
    """A compiled loop over steps that move the images, and the kernel in training."""
    images, kernel = map(jnp.asarray, arrays_of(layer))

    def loss(images: Any, kernel: Any) -> Any:
        maps = jax.nn.relu(apply(images, kernel))
        return jnp.sum(maps * jnp.cos(jnp.arange(maps.shape[-1])))

    def step(_: Any, moved: Any) -> Any:
        if not is_training:
            gradient = jax.grad(loss)(*moved)
            return moved[0] + STEP_SIZE * jnp.sign(gradient), moved[1]
        gradients = jax.grad(loss, (0, 1))(*moved)
        images = moved[0] + STEP_SIZE * jnp.sign(gradients[0])
        return images, moved[1] - 1e-6 * gradients[1]

    def loop(images: Any, kernel: Any) -> Any:
        return lax.fori_loop(0, num_steps, step, (images, kernel))

    with jax.numpy_rank_promotion("allow"):
        compiled = jax.jit(loop).lower(images, kernel).compile()
    return lambda: jax.block_until_ready(compiled(images, kernel))


def torch_loop(
    layer: Layer, num_steps: int, is_training: bool
) -> Callable[[], Any] | None:
    """The same in PyTorch, eager; None without it."""
    try:
        import torch
        from torch.nn import functional
    except ImportError:
        return None
    torch.set_num_threads(1)
    images, kernel = arrays_of(layer)
    start = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    weights = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    signs = torch.cos(torch.arange(float(layer.features)))[:, None, None]
    padding = layer.pads[0][0]

    def loop() -> None:
        inputs, kernel = start, weights
        for _ in range(num_steps):
            inputs = inputs.detach().requires_grad_(True)
            kernel = kernel.detach().requires_grad_(is_training)
            maps = functional.conv2d(inputs, kernel, padding=padding)
            if layer.pool:
                maps = functional.max_pool2d(maps, 2)
            (functional.relu(maps) * signs).sum().backward()
            with torch.no_grad():
                inputs = inputs + STEP_SIZE * inputs.grad.sign()
                if is_training:
                    kernel = kernel - 1e-6 * kernel.grad

    return loop


def processor_time(function: Callable[[], Any]) -> float:
    """Milliseconds of all threads."""
    began = time.process_time()
    function()
    return 1000 * (time.process_time() - began)


def measured(layer: Layer, config: Config, is_training: bool) -> dict[str, Any]:
    """Milliseconds of a step for each side; None where it cannot be had."""
    steps = config.num_steps
    sides = {
        name: our_loop(apply, layer, steps, is_training)
        for name, apply in formulations(layer).items()
        if name != "direct"
    }
    peer = torch_loop(layer, steps, is_training)
    if peer is not None:
        sides["torch"] = peer
    for function in sides.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(config.num_rounds):
        for name, function in sides.items():
            times[name].append(processor_time(function) / steps)
    direct = our_loop(formulations(layer)["direct"], layer, 1, is_training)
    least: dict[str, Any] = {name: min(values) for name, values in times.items()}
    empty = dict.fromkeys(("small_tiles", "torch"))
    return {**empty, **least, "direct": processor_time(direct)}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Time all layers."""
    rows = []
    for layer in config.layers:
        kernel_shape = (layer.size, layer.size, layer.channels, layer.features)
        image_shape = (layer.batch, layer.side, layer.side, layer.channels)
        is_chosen = is_faster(image_shape, kernel_shape, layer.pads, 1, jnp.float32)
        for what, is_training in (("PGD", False), ("training", True)):
            began = time.perf_counter()
            row = {
                "layer": layer.name,
                "images": [layer.batch, layer.side, layer.side, layer.channels],
                "size": layer.size,
                "what": what,
                **measured(layer, config, is_training),
                "is_chosen": is_chosen,
            }
            workspace.seconds += time.perf_counter() - began
            rows.append(row)
            workspace.say(
                f"{layer.name}, {what}: patches {row['patches']:.1f} ms, "
                f"winograd {row['winograd']:.1f} ms"
            )
    notes = [
        "Milliseconds of processor time of a step, all threads together, the least of "
        f"{config.num_rounds} alternating rounds of {config.num_steps} steps; of "
        "lax.conv the only step of one loop. Chosen: whether `auto` takes the "
        "transforms on a CPU.",
        f"PyTorch {_torch_version()} eager, on one thread.",
    ]
    return {
        "title": "Convolutions on a CPU",
        "rows": rows,
        "notes": notes,
        "tables": {"A step of each layer": results_table({"rows": rows})},
    }


def _torch_version() -> str:
    try:
        import torch
    except ImportError:
        return "(not installed)"
    return torch.__version__


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    header = [
        *("layer", "images", "kernel", "step of", "patches", "4x4 tiles"),
        *("2x2 tiles", "lax.conv", "PyTorch", "gain", "chosen"),
    ]

    def cells(row: Mapping[str, Any]) -> list[str]:
        names = ("patches", "winograd", "small_tiles", "direct", "torch")
        times = ["" if row[name] is None else f"{row[name]:.1f}" for name in names]
        return [
            row["layer"],
            "x".join(map(str, row["images"])),
            f"{row['size']}x{row['size']}",
            row["what"],
            *times,
            f"{row['patches'] / row['winograd']:.2f}",
            "yes" if row["is_chosen"] else "no",
        ]

    return [header, *map(cells, result["rows"])]
