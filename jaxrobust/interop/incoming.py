"""PyTorch classifiers as functions of JAX, so that our attacks can be turned on them.

JAX calls PyTorch back from inside its compiled programs. On CPUs it hands over arrays
of 100 KiB and more by copying them on the same threads that compute: if all of these
wait for a callback, and the callback for the copy, neither ever ends (seen with
jax 0.10 on one core, or with as many programs under way as there are cores). So images
are handed over in smaller pieces, which are copied at once.
"""

import warnings
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require, require_choice, require_count
from jaxrobust.interop.exported import differentiable
from jaxrobust.interop.torch_side import Layout, require_torch
from jaxrobust.types import Images, Logits, LogitsFn

__all__ = ["from_torch"]

PIECE = 64 * 1024 // 4
"""Numbers handed over in one piece: 64 KiB of them, safely below 100 KiB."""


def _pieces(array: jax.Array) -> list[jax.Array]:
    flat = array.reshape(-1)
    return [flat[start : start + PIECE] for start in range(0, flat.size, PIECE)]


def from_torch(
    module: Any,
    *,
    num_classes: int,
    layout: Layout = "NCHW",
    device: Any = None,
) -> LogitsFn:
    """A PyTorch classifier as a `logits_fn`, with gradients.

    Works under `jit`, `grad`, `vmap` and in compiled loops; however many axes are
    mapped, PyTorch gets one batch. There are no second derivatives, and the weights
    are those of the moment of each call. The module is put into evaluation mode, once,
    with a warning if it was in training mode; a module that is put back into training
    mode is refused when it is called.

    Args:
        module: a `torch.nn.Module` from images to logits, example by example.
        num_classes: number of logits.
        layout: of the images that the module takes. Ours are NHWC.
        device: to move the module to; by default it stays where it is.

    Returns:
        `(batch, height, width, channels)` floats to `(batch, classes)` float32. It
        raises a ValueError, when it is traced, if the module does not give so many
        logits for such an image.

    Raises:
        ValueError: for an unknown layout or fewer than 2 classes.
        ImportError: if PyTorch is missing.
    """
    remedy = "PyTorch networks take NCHW"
    require_choice("layout", layout, get_args(Layout), remedy)
    remedy = "a classifier with one logit must return two, such as (0, logit)"
    require_count("num_classes", num_classes, remedy, least=2)
    torch = require_torch()
    if device is not None:
        module.to(device)
    where = next((each.device for each in module.parameters()), torch.device("cpu"))
    where = where if device is None else torch.device(device)
    if module.training:
        warnings.warn(
            "the PyTorch module was in training mode and is now in evaluation mode",
            stacklevel=2,
        )
    module.eval()

    def tensor(pieces: Any, shape: tuple[int, ...]) -> Any:
        whole = np.concatenate([np.asarray(piece) for piece in pieces]).reshape(shape)
        return torch.from_numpy(whole).to(where)

    def logits_of(images: Any) -> Any:
        if any(each.training for each in module.modules()):
            raise RuntimeError(
                "the PyTorch module must be in evaluation mode, got one in training "
                "mode; call `module.eval()` again before it is attacked."
            )
        return module(images.permute(0, 3, 1, 2) if layout == "NCHW" else images)

    def forward(images: Images) -> Logits:
        def call(*pieces: Any) -> np.ndarray:
            with torch.no_grad():
                return logits_of(tensor(pieces, images.shape)).float().cpu().numpy()

        like = jax.ShapeDtypeStruct((images.shape[0], num_classes), jnp.float32)
        return jax.pure_callback(call, like, *_pieces(images))

    def pullback(images: Images, cotangent: Logits) -> Images:
        num_pieces = len(_pieces(images))

        def call(*pieces: Any) -> np.ndarray:
            # A thread that JAX calls from may have it off.
            with torch.enable_grad():
                inputs = tensor(pieces[:num_pieces], images.shape).requires_grad_()
                logits = logits_of(inputs).float()
                given = tensor(pieces[num_pieces:], cotangent.shape)
                if not logits.requires_grad:
                    return np.zeros(images.shape, np.float32)
                (found,) = torch.autograd.grad(logits, inputs, given, allow_unused=True)
            if found is None:
                return np.zeros(images.shape, np.float32)
            return np.ascontiguousarray(found.cpu().numpy())

        like = jax.ShapeDtypeStruct(images.shape, jnp.float32)
        return jax.pure_callback(call, like, *_pieces(images), *_pieces(cotangent))

    model = differentiable(forward, pullback)

    def logits_fn(images: Images) -> Logits:
        # An error in a callback ends the program in a mess: find it before.
        with torch.no_grad():
            trial = logits_of(torch.zeros((1, *images.shape[1:]), device=where))
        require(
            tuple(trial.shape) == (1, num_classes),
            "num_classes",
            "the number of the module's logits",
            num_classes,
            f"it returns the shape {tuple(trial.shape)} for one image of shape "
            f"{images.shape[1:]}",
        )
        return model(images.astype(jnp.float32))

    return logits_fn
