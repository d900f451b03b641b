"""Our models as PyTorch modules, so that PyTorch's attacks can be turned on them."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require_choice, require_count, require_shape
from jaxrobust.interop.torch_side import Layout, require_torch
from jaxrobust.types import Images, Logits, LogitsFn

__all__ = ["to_torch"]

_SAME_DEVICE = {"cpu": "cpu", "cuda": "gpu"}
"""JAX's names for PyTorch's kinds of devices that exchange arrays in place."""


def _shares_memory(device: Any, platform: str) -> bool:
    return _SAME_DEVICE.get(device.type) == platform


def _to_jax(tensor: Any) -> jax.Array:
    if _shares_memory(tensor.device, jax.default_backend()):
        return jax.dlpack.from_dlpack(tensor.detach().contiguous())
    return jnp.asarray(tensor.detach().cpu().numpy())


def _to_torch(torch: Any, array: jax.Array, device: Any) -> Any:
    # PyTorch must not read what is still being computed.
    array.block_until_ready()
    if _shares_memory(device, next(iter(array.devices())).platform):
        return torch.from_dlpack(array)
    return torch.from_numpy(np.array(array))


def to_torch(
    logits_fn: LogitsFn,
    *,
    layout: Layout = "NCHW",
    batch_size: int = 256,
    device: Any = "cpu",
) -> Any:
    """A model as a `torch.nn.Module`, for AutoAttack, torchattacks, foolbox, ART.

    JAX computes the logits and, for `backward`, their gradient with respect to the
    images; memory is shared where both libraries compute on the same kind of device.
    The module has no weights of its own, is always in evaluation mode, and cannot be
    differentiated twice. Images are taken in parts of `batch_size`, the last of them
    padded to a power of two: whatever the sizes of the batches that an attack sends,
    no more than 1 + log2(batch_size) of them are compiled.

    Args:
        logits_fn: of images in NHWC, example by example.
        layout: of the images that the module takes: (batch, channels, height, width)
            or as `logits_fn` takes them.
        batch_size: images computed at once; rounded up to a power of two.
        device: where evaluators shall find the module: they ask for the device of its
            first parameter, which is an empty one. Images may come from any device,
            and logits return there.

    Returns:
        A module from floating-point images to logits of the same type.

    Raises:
        ValueError: for an unknown layout or a batch size below 1.
        ImportError: if PyTorch is missing.
    """
    remedy = "PyTorch networks take NCHW"
    require_choice("layout", layout, get_args(Layout), remedy)
    require_count("batch_size", batch_size, "256 is right for small images")
    torch = require_torch()
    largest = 1 << (batch_size - 1).bit_length()

    def as_sent(images: Images) -> Logits:
        if layout == "NCHW":
            images = images.transpose(0, 2, 3, 1)
        return logits_fn(images).astype(jnp.float32)

    @jax.jit
    def forward(images: Images) -> Logits:
        return as_sent(images)

    @jax.jit
    def pullback(images: Images, cotangent: Logits) -> Images:
        return jax.vjp(as_sent, images)[1](cotangent)[0]

    def in_parts(program: Any, *tensors: Any) -> Any:
        """What a program makes of each part, as one new tensor."""
        count, parts = len(tensors[0]), []
        for start in range(0, max(count, 1), largest):
            chosen = [each[start : start + largest].float() for each in tensors]
            num = len(chosen[0])
            size = 1 << max(num - 1, 0).bit_length()
            if size > num:
                # Padded here, since JAX would compile the padding for every size.
                padded = [each.new_zeros((size, *each.shape[1:])) for each in chosen]
                for full, each in zip(padded, chosen, strict=True):
                    full[:num] = each
                chosen = padded
            found = program(*map(_to_jax, chosen))
            parts.append(_to_torch(torch, found, tensors[0].device)[:num])
        # Always a copy: PyTorch may write into it, and arrays of JAX never change.
        return torch.cat(parts).to(tensors[0].device, tensors[0].dtype)

    class Call(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, images: Any) -> Any:
            context.save_for_backward(images)
            return in_parts(forward, images)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context: Any, cotangent: Any) -> Any:
            (images,) = context.saved_tensors
            return in_parts(pullback, images, cotangent)

    class FromJax(torch.nn.Module):
        """A model of JAX in evaluation mode."""

        def __init__(self) -> None:
            super().__init__()
            empty = torch.empty(0, device=device)
            self.place = torch.nn.Parameter(empty, requires_grad=False)
            self.eval()

        def forward(self, images: Any) -> Any:
            if not torch.is_floating_point(images):
                raise TypeError(
                    f"`images` must be floats, got {images.dtype}; divide bytes by 255."
                )
            if layout == "NCHW":
                shape = ("batch", "channels", "height", "width")
                require_shape("images", images, shape, 'or ask for `layout="NHWC"`')
            return Call.apply(images)

    return FromJax()
