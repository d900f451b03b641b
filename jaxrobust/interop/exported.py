"""Models read from a file; needs jax and nothing else.

This module imports nothing of the rest of the library: copied by itself, it loads a
model where only jax is installed. The file is a zip archive of two members, written by
`jaxrobust.interop.export_model`: `header.json`, and `model.stablehlo`, which is what
`jax.export` serializes, with the weights and the gradient inside.
"""

import errno
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jax.custom_batching import custom_vmap

__all__ = ["FORMAT", "ExportError", "differentiable", "load_exported", "read_header"]

FORMAT = "jaxrobust model 1"
"""The first entry of the header."""

HEADER, PROGRAM = "header.json", "model.stablehlo"
FIELDS = ("image_shape", "num_classes", "bounds", "platforms", "versions")


class ExportError(ValueError):
    """A model cannot be written to a file, or a file is not one that can be loaded."""


def _in_one_batch(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A function of batches which, mapped, gets one larger batch.

    Args:
        function: of arrays that share their leading axis, which its result has too.
    """
    batched = custom_vmap(function)

    @batched.def_vmap
    def rule(axis_size: int, is_mapped: list[bool], *arrays: jax.Array) -> Any:
        def flat(array: jax.Array, has_axis: bool) -> jax.Array:
            if not has_axis:
                array = jnp.broadcast_to(array, (axis_size, *array.shape))
            return array.reshape(axis_size * array.shape[1], *array.shape[2:])

        found = batched(*map(flat, arrays, is_mapped))
        size = found.shape[0] // axis_size
        return found.reshape(axis_size, size, *found.shape[1:]), True

    return batched


def differentiable(
    forward: Callable[[jax.Array], jax.Array],
    pullback: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
    """A function of batches from two that JAX can neither map nor differentiate.

    Under `vmap`, also nested, and under `grad` or both, each of the two is called once
    for all that is mapped.

    Args:
        forward: `images -> logits`, example by example.
        pullback: `(images, cotangent of the logits) -> cotangent of the images`.
    """
    forward, pullback = _in_one_batch(forward), _in_one_batch(pullback)

    @jax.custom_vjp
    def function(images: jax.Array) -> jax.Array:
        return forward(images)

    def ahead(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return forward(images), images

    def back(images: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
        return (pullback(images, cotangent),)

    function.defvjp(ahead, back)
    return function


def _read(path: Path, names: tuple[str, ...]) -> list[bytes]:
    """Members of the archive, whole."""
    if not path.is_file():
        raise ExportError(
            f"`path` must be an exported model, got no file {str(path)!r}; "
            "write one with `jaxrobust export RUN --output FILE`."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return [archive.read(name) for name in names]
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError) as error:
        # A wrong offset is an invalid argument; all else is about the storage.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ExportError(
            f"`path` must be a whole exported model, got {str(path)!r}, which is "
            f"damaged or something else ({error}); export the model again."
        ) from error


def _header_of(path: Path, content: bytes) -> dict[str, Any]:
    try:
        header = json.loads(content)
        found = header["format"]
        missing = [name for name in FIELDS if name not in header]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"`path` must be an exported model, got {str(path)!r}, whose {HEADER} "
            "cannot be read; export the model again."
        ) from error
    if found != FORMAT or missing:
        what = f"lacks {', '.join(missing)}" if found == FORMAT else f"is {found!r}"
        raise ExportError(
            f"`path` must be a {FORMAT!r}, got {str(path)!r}, which {what}; "
            "load it with the version of the library that wrote it."
        )
    return header


def read_header(path: Path | str) -> dict[str, Any]:
    """What a file says of its model, without loading it.

    Returns:
        `image_shape` (height, width, channels), `num_classes`, `bounds` of a pixel,
        `platforms` that it runs on, `versions` of the libraries that wrote it, and
        what else the writer noted.

    Raises:
        ExportError: if the file is missing, damaged or something else.
        OSError: if it cannot be read.
    """
    path = Path(path)
    return _header_of(path, *_read(path, (HEADER,)))


def load_exported(path: Path | str) -> Callable[[jax.Array], jax.Array]:
    """The model of a file, as a function from images to logits.

    It works under `jit`, `vmap` and `grad` with batches of any size; there are no
    second derivatives. Only load files that you trust: they are programs.

    Args:
        path: what `export_model` or `jaxrobust export` wrote.

    Returns:
        `logits_fn`: `(batch, height, width, channels)` floats within the bounds of the
        header to `(batch, classes)` float32. It raises a ValueError for images of
        another shape than the header's.

    Raises:
        ExportError: if the file is missing, damaged, something else, or made for other
            platforms or another version of jax than the present ones.
        OSError: if it cannot be read.
    """
    path = Path(path)
    content, program = _read(path, (HEADER, PROGRAM))
    header = _header_of(path, content)
    here = export.default_export_platform()
    if here not in header["platforms"]:
        raise ExportError(
            f"`path` must hold a model for {here}, got {str(path)!r}, which is for "
            f"{', '.join(header['platforms'])}; export it with `platforms=({here!r},)`."
        )
    try:
        exported = export.deserialize(bytearray(program))
        derivative = exported.vjp()
    # The reader of flatbuffers and the compiler raise what they please.
    except Exception as error:
        written = header["versions"].get("jax", "unknown")
        raise ExportError(
            f"`path` must hold a program that jax {jax.__version__} can read, got "
            f"{str(path)!r} written by jax {written} ({type(error).__name__}: {error});"
            " use that version or a newer one, or export the model again."
        ) from error
    image_shape = tuple(header["image_shape"])

    def pullback(images: jax.Array, cotangent: jax.Array) -> jax.Array:
        return derivative.call(images, cotangent)[0]

    model = differentiable(exported.call, pullback)

    def logits_fn(images: jax.Array) -> jax.Array:
        images = jnp.asarray(images)
        if images.shape[1:] != image_shape:
            raise ValueError(
                f"`images` must be of shape (batch, {str(image_shape)[1:]}, got "
                f"{images.shape}; {path.name} was exported for these."
            )
        return model(images.astype(jnp.float32))

    return logits_fn
