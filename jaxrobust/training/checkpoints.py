"""Saving and restoring training with Orbax.

A checkpoint holds the whole `TrainState` and a JSON record of the run's progress. It
is committed atomically, so a process killed while saving leaves the one before it, and
it carries a checksum of its arrays, so damage is noticed and not trained on.
"""

import copy
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxrobust.hosts import is_primary
from jaxrobust.training.mesh import agree
from jaxrobust.training.trainer import TrainState

__all__ = [
    "CheckpointError",
    "CheckpointWarning",
    "Checkpoints",
    "from_arrays",
    "to_arrays",
]


class CheckpointError(RuntimeError):
    """No checkpoint could be used."""


class CheckpointWarning(UserWarning):
    """A checkpoint was damaged; an older one is used."""


def to_arrays(state: TrainState) -> TrainState:
    """The state with its random key as plain numbers."""
    return state._replace(key=jax.random.key_data(state.key))


def from_arrays(state: TrainState) -> TrainState:
    """The inverse of `to_arrays`."""
    return state._replace(key=jax.random.wrap_key_data(state.key))


def _checksums(arrays: Any) -> dict[str, int]:
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).data)
        for path, leaf in leaves
    }


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Have failures of the storage come as what they are, and say where it was.

    TensorStore, inside Orbax, tells of them by a ValueError, Orbax without the place.

    Raises:
        OSError: with its number and the directory.
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(directory)
        raise
    except ValueError as error:
        found = re.search(r"os_error_code='(\d+)'", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(directory)) from error


class Checkpoints:
    """The checkpoints of one run, newest kept; a context manager.

    In a job of several processes all must do the same, and one of them writes.

    Args:
        directory: made if missing.
        max_to_keep: number of newest checkpoints that stay.
    """

    def __init__(self, directory: Path, *, max_to_keep: int = 2):
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep,
            cleanup_tmp_directories=True,
            # Processes save together and meet at barriers that have no names of their
            # own: several members' saves under way at once would meet each other.
            enable_async_checkpointing=jax.process_count() == 1,
        )
        with _writing(self.directory):
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory, after all saves are committed."""
        with _writing(self.directory):
            self._manager.close()

    def steps(self) -> list[int]:
        """Optimizer steps at which a checkpoint is committed, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Start saving in the background, unless this step is already saved.

        Args:
            state: copied before this returns, so its buffers may be donated next.
            progress: anything JSON can hold; a function of the step alone. Copied too:
                lists in it may grow on while this is written.

        Raises:
            OSError: if this, or the save before it, cannot be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        arrays = jax.tree.map(np.asarray, to_arrays(state))
        record = copy.deepcopy(progress) | {"checksums": _checksums(arrays)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(record)
        )
        with _writing(self.directory):
            self._manager.save(step, args=args)

    def wait(self) -> None:
        """Return when every save is committed to disk."""
        with _writing(self.directory):
            self._manager.wait_until_finished()

    def _progress(self, step: int) -> dict[str, Any]:
        restored = self._manager.restore(
            step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
        )
        return restored["progress"]

    def _restore(self, step: int, like: Any) -> tuple[TrainState, dict[str, Any]]:
        progress = self._progress(step)
        template = like(progress)
        abstract = jax.tree.map(
            lambda leaf: np.empty(leaf.shape, leaf.dtype),
            jax.eval_shape(to_arrays, template),
        )
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        arrays = jax.tree.map(np.asarray, restored["state"])
        expected = progress.pop("checksums")
        found = _checksums(arrays)
        damaged = [name for name in found if found[name] != expected.get(name)]
        if damaged:
            raise ValueError(f"checksum of {damaged[0]} does not match")
        return from_arrays(jax.device_put(arrays)), progress

    def _attempts(self, like: Any) -> Iterator[tuple[TrainState, dict[str, Any]]]:
        for step in self.steps():
            try:
                yield self._restore(step, like)
            except Exception as error:  # damage shows as many kinds of exception
                reason = (
                    str(error).splitlines()[0][:200] if str(error) else "unreadable"
                )
                warnings.warn(
                    f"checkpoint {self.directory / str(step)} is damaged ({reason}); "
                    "using the one before it",
                    CheckpointWarning,
                    stacklevel=3,
                )

    def restore_newest(self, like: Any) -> tuple[TrainState, dict[str, Any]]:
        """The newest undamaged checkpoint.

        Args:
            like: `(progress) -> state` of arrays or shapes, the form to restore into.

        Returns:
            The state and the progress record saved with it. Damaged checkpoints newer
            than it are reported as `CheckpointWarning`.

        Raises:
            CheckpointError: if there is no checkpoint, or none undamaged.
        """
        for state, progress in self._attempts(like):
            return state, progress
        raise CheckpointError(
            f"no usable checkpoint in {self.directory}; looked at steps "
            f"{self.steps() or 'none'}. Train the run again in another directory."
        )

    def set_aside_newer(self, step: int) -> None:
        """Move checkpoints beyond a step, which are damaged, out of the way.

        They are kept under `damaged/` beside the checkpoints, never deleted.
        """
        newer = [other for other in self.steps() if other > step]
        if not newer:
            return
        for other in newer if is_primary() else ():
            aside = self.directory.parent / "damaged"
            aside.mkdir(exist_ok=True)
            target = aside / str(other)
            if target.exists():
                shutil.rmtree(target)
            shutil.move(self.directory / str(other), target)
        agree(0.0)  # the others wait until they are moved
        self._manager.reload()
