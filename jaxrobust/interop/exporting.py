"""Trained models written to files that need only jax to load."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import export

import jaxrobust
from jaxrobust.interop.exported import FORMAT, HEADER, PROGRAM, ExportError
from jaxrobust.keeping import open_whole, require_local, require_writable
from jaxrobust.types import LogitsFn

__all__ = ["TrainedModel", "export_model"]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""What programs can be lowered for; `jax.export` takes any word for one."""


class TrainedModel(Protocol):
    """What exporting needs of a trained model, such as a `training.Run`."""

    @property
    def logits_fn(self) -> LogitsFn:
        """The model in evaluation mode."""
        ...

    @property
    def problem(self) -> Any:
        """Has `image_shape`."""
        ...


def export_model(
    model: TrainedModel | LogitsFn,
    path: Path | str,
    *,
    image_shape: Sequence[int] | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a model, with its weights and its gradient, to a new file.

    The file is there as a whole or not at all.

    The program is StableHLO for any batch size, serialized by `jax.export`, which
    newer versions of jax promise to read for six months at least. `load_exported`
    turns it into a function again, where none of this library is installed but one
    file.

    Args:
        model: a trained run, or a function from images to logits, example by example.
        path: of the new file.
        image_shape: `(height, width, channels)`; that of the run by default.
        bounds: valid range of a pixel; only written down.
        platforms: where it shall run: cpu, cuda, rocm, tpu.
        notes: further entries of the header, of what JSON can hold.

    Returns:
        The header that was written.

    Raises:
        ExportError: if the file exists, a platform is unknown, or the model cannot be
            exported: no shape was given, it does not return one row of logits for each
            image, or it needs to know the batch size.
        OSError: if the file cannot be written, before the model is looked at if that
            can be known.
    """
    require_local("path", path)
    path = Path(path)
    if path.exists():
        raise ExportError(
            f"`path` must be a new file, got {str(path)!r}, which exists; "
            "choose another name."
        )
    logits_fn: Any = getattr(model, "logits_fn", model)
    problem = getattr(model, "problem", None)
    if image_shape is None and problem is not None:
        image_shape = problem.image_shape
    if not image_shape or any(side < 1 for side in image_shape):
        raise ExportError(
            f"`image_shape` must be positive sides such as (28, 28, 1), got "
            f"{image_shape!r}; only a run knows it by itself."
        )
    image_shape = tuple(int(side) for side in image_shape)
    platforms = tuple(dict.fromkeys(platforms))
    unknown = [each for each in platforms if each not in PLATFORMS]
    if unknown or not platforms:
        raise ExportError(
            f"`platforms` must be among {', '.join(PLATFORMS)}, got "
            f"{', '.join(map(repr, unknown)) or 'none'}; name those that the model "
            "shall run on (cuda or rocm for a GPU)."
        )
    require_writable(path)
    (batch,) = export.symbolic_shape("batch")

    def float_logits(images: jax.Array) -> jax.Array:
        return logits_fn(images).astype(jnp.float32)

    like = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    try:
        exported = export.export(jax.jit(float_logits), platforms=platforms)(like)
        program = bytes(exported.serialize(vjp_order=1))
    except MemoryError:
        raise
    except Exception as error:
        raise ExportError(
            "`model` must be a jax function of a batch of any size, for the platforms "
            f"{', '.join(platforms)}; exporting it failed with {type(error).__name__}: "
            f"{error}"
        ) from error
    (logits,) = exported.out_avals
    if logits.ndim != 2 or str(logits.shape[0]) != str(batch):
        raise ExportError(
            "`model` must return logits (batch, classes), got the shape "
            f"{logits.shape} for images {like.shape}; export a classifier."
        )
    header = {
        "format": FORMAT,
        "image_shape": list(image_shape),
        "num_classes": int(logits.shape[1]),
        "bounds": [float(bound) for bound in bounds],
        "platforms": list(exported.platforms),
        "versions": {"jaxrobust": jaxrobust.__version__, "jax": jax.__version__},
        **(notes or {}),
    }
    # A file that came into being meanwhile is not overwritten either.
    with (
        open_whole(path, is_new=True) as stream,
        zipfile.ZipFile(stream, "w") as archive,
    ):
        archive.writestr(HEADER, json.dumps(header, indent=2) + "\n")
        archive.writestr(PROGRAM, program)
    return header
