"""Saving and restoring training with Orbax.

A checkpoint holds the whole `TrainState` and a JSON record of the run's progress. It
is committed atomically, so a process killed while saving leaves the one before it. It
carries a checksum of each of its arrays and one of its record, so damage is noticed and
not trained on.
"""

import errno
import functools
import logging
import os
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.options import MultiprocessingOptions

from jaxrobust.hosts import is_primary
from jaxrobust.hosts.together import agree, failing_together
from jaxrobust.keeping import seal
from jaxrobust.keys import is_data
from jaxrobust.training.course.older_states import FORM, from_form, in_form
from jaxrobust.training.course.storage import StorageError, errno_of, failing_storage
from jaxrobust.training.step.trainer import TrainState, from_arrays, to_arrays

__all__ = [
    "CheckpointError",
    "CheckpointWarning",
    "Checkpoints",
]


T = TypeVar("T")


class CheckpointError(RuntimeError):
    """No checkpoint could be used."""


class CheckpointWarning(UserWarning):
    """A checkpoint was damaged; an older one is used."""


def _checksums(arrays: Any) -> dict[str, int]:
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).data)
        for path, leaf in leaves
    }


UNREAD = {
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
}
"""Errors that say nothing of what is in a file."""

TRIES = 100
"""Looks at a directory in which another process goes on saving."""


@functools.cache
def _quiet_failures() -> None:
    """Keep from the user what Orbax says of a failure: it is raised, too.

    Of a failed save it logs the exception once or twice, its tasks are not asked for
    theirs, and TensorStore calls back to a loop that is closed by then: hundreds of
    lines for a disk that is full.
    """

    def is_news(record: logging.LogRecord) -> bool:
        is_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
        # Of a checkpoint that another process removes while this one reads it.
        is_gone = record.getMessage().startswith("Metadata file does not exist")
        return not (is_orbax and (record.exc_info or is_gone))

    def is_other_task(record: logging.LogRecord) -> bool:
        # Of a task Orbax's code is named, of a future the checkpoint that it was for.
        return "orbax" not in record.getMessage()

    logging.getLogger("absl").addFilter(is_news)
    logging.getLogger("asyncio").addFilter(is_other_task)
    before = sys.unraisablehook

    def hook(details: Any) -> None:
        if str(details.exc_value) != "Event loop is closed":
            before(details)

    sys.unraisablehook = hook


def _forms(arrays: Any) -> dict[str, str]:
    """Type and shape of each array, by name."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype.name}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    }


def _warn_of(directory: Path, damaged: dict[int, str]) -> None:
    for step, reason in damaged.items():
        warnings.warn(
            f"checkpoint {directory / str(step)} is damaged ({reason}); using the one "
            "before it",
            CheckpointWarning,
            stacklevel=3,
        )


class Checkpoints:
    """The checkpoints of one run, newest kept; a context manager.

    In a job of several processes all must do the same. The first one writes, in the
    background, and for this needs none of the others: each has the whole state. They
    meet where files are opened and where a run ends, not while one is written.

    Args:
        directory: made if missing, unless it is only to be read.
        max_to_keep: number of newest checkpoints that stay.
        is_read_only: leave everything as it is, also what another process may be
            writing there at this moment. A writer clears away what a killed one left
            half done; so the directory must be claimed by it.

    Raises:
        StorageError: if the directory cannot be made or cleared.
    """

    def __init__(
        self, directory: Path, *, max_to_keep: int = 2, is_read_only: bool = False
    ):
        self.directory = Path(directory).absolute()
        self.is_read_only = is_read_only
        self.is_writer = not is_read_only and jax.process_index() == 0
        _quiet_failures()
        with nullcontext() if is_read_only else failing_together():
            if self.is_writer:
                self._manager = self._managed(max_to_keep)
        if not self.is_writer:
            self._manager = self._managed(None)

    def _managed(self, max_to_keep: int | None) -> ocp.CheckpointManager:
        # By itself Orbax would have all processes meet at every save, at barriers of
        # the devices: in the background they would get in the way of training.
        index = jax.process_index()
        processes = MultiprocessingOptions(primary_host=index, active_processes={index})
        # Orbax's own `read_only` does the same, and logs three warnings each time.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep,
            create=False,
            cleanup_tmp_directories=self.is_writer,
            enable_async_checkpointing=self.is_writer,
            multiprocessing_options=processes,
        )
        with failing_storage(self.directory, "checkpoints cannot be kept there"):
            if self.is_writer:
                self.directory.mkdir(parents=True, exist_ok=True)
            return self._looked(
                lambda: ocp.CheckpointManager(self.directory, options=options)
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _saving(self, what: str) -> AbstractContextManager[None]:
        """Give a failure as one of storage, saying what is kept all the same."""
        kept = [step for step in self.steps() if (self.directory / str(step)).is_dir()]
        whole = (
            f"the one before it, of step {kept[0]}, is whole"
            if kept
            else ("there is none before it")
        )
        return failing_storage(self.directory, f"{what} was not saved; {whole}")

    def close(self) -> None:
        """Let go of the directory, after all saves of this process are committed.

        Raises:
            StorageError: if one of them failed.
        """
        with self._saving("the newest checkpoint"):
            self._manager.close()

    def steps(self) -> list[int]:
        """Optimizer steps at which a checkpoint is committed, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Start saving in the background, unless this step is already saved.

        Only the writer does anything.

        Args:
            state: copied before this returns, so its buffers may be donated next.
            progress: anything JSON can hold; a function of the step alone. Copied too:
                lists in it may grow on while this is written.

        Raises:
            StorageError: if this save, or the one before it, failed, for want of room,
                say. Checkpoints that were committed stay.
        """
        step = int(state.step)
        if not self.is_writer or step in self._manager.all_steps():
            return
        arrays = jax.tree.map(np.asarray, to_arrays(state))
        record = seal(
            {
                **progress,
                "form": FORM,
                "step": step,
                "checksums": _checksums(arrays),
            }
        )
        with self._saving(f"the checkpoint of step {step}, or the last one,"):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    progress=ocp.args.JsonSave(record),
                ),
            )

    def wait(self) -> None:
        """Return when every save of this process is committed to disk.

        Raises:
            StorageError: if one of them failed.
        """
        with self._saving("the newest checkpoint"):
            self._manager.wait_until_finished()

    def _progress(self, step: int) -> dict[str, Any]:
        restored = self._manager.restore(
            step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
        )
        progress = restored["progress"]
        # Older versions wrote no seal, and no step.
        # (Only the checksums are compared: a NaN is equal to nothing.)
        expected = progress.pop("checksum", None)
        if expected not in (None, seal(progress)["checksum"]):
            raise ValueError("checksum of the progress record does not match")
        if progress.pop("step", step) != step:
            raise ValueError("the progress record is that of another step")
        return progress

    def _restore(self, step: int, like: Any) -> tuple[TrainState, dict[str, Any]]:
        progress = self._progress(step)
        form = progress.pop("form", 1)
        if form > FORM:
            raise CheckpointError(
                f"checkpoint {self.directory / str(step)} was written by a later "
                "version of jaxrobust; upgrade to read it."
            )
        template = in_form(form, jax.eval_shape(to_arrays, like(progress)))
        abstract = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        arrays = jax.tree.map(np.asarray, restored["state"])
        # Orbax gives arrays of any shape, whatever it was asked for. A key of another
        # generator, which older versions let users configure, is as good.
        if is_data(arrays.key):
            template = template._replace(key=arrays.key)
        stored, wanted = _forms(arrays), _forms(template)
        for name in dict.fromkeys([*wanted, *stored]):
            if stored.get(name) != wanted.get(name):
                raise ValueError(
                    f"{name} is {stored.get(name, 'missing')} rather than "
                    f"{wanted.get(name, 'missing')}"
                )
        expected = progress.pop("checksums")
        sums = _checksums(arrays)
        damaged = [name for name in sums if sums[name] != expected.get(name)]
        if damaged:
            raise ValueError(f"checksum of {damaged[0]} does not match")
        if int(arrays.step) != step:
            raise ValueError(f"its state is that of step {int(arrays.step)}")
        arrays = from_form(form, arrays)
        return from_arrays(jax.device_put(arrays)), progress

    def _has_moved_on(self) -> bool:
        """Whether another process has saved since, and may have removed what is older.

        It removes a checkpoint after it has committed a newer one.
        """
        if not self.is_read_only:
            return False
        before = self.steps()
        self._looked(self._manager.reload)
        return self.steps() != before

    def _looked(self, look: Callable[[], T]) -> T:
        """What a look at the directory gives; what was listed may be gone by then."""
        for _ in range(TRIES if self.is_read_only else 0):
            with suppress(FileNotFoundError):
                return look()
        return look()

    def restore_newest(self, like: Any) -> tuple[TrainState, dict[str, Any]]:
        """The newest undamaged checkpoint.

        Args:
            like: `(progress) -> state` of arrays or shapes, the form to restore into.

        Returns:
            The state and the progress record saved with it. Damaged checkpoints newer
            than it are reported as `CheckpointWarning`.

        Raises:
            CheckpointError: if there is no checkpoint, or none undamaged.
            StorageError: if one cannot be read, which says nothing of what is in it.
        """
        damaged: dict[int, str] = {}
        for _ in range(TRIES):
            left = [step for step in self.steps() if step not in damaged]
            # While one is added and another removed, a list may have neither.
            if not left and not damaged and self._has_moved_on():
                continue
            if not left:
                break
            try:
                state = self._restore(left[0], like)
            except CheckpointError:
                raise
            except Exception as error:  # damage shows as many kinds of exception
                if self._has_moved_on():
                    damaged = {}
                    continue
                path = self.directory / str(left[0])
                number = errno_of(error)
                if number in UNREAD:
                    told = f"{os.strerror(number)}, so that it cannot be read"
                    raise StorageError(number, told, str(path)) from error
                text = str(error).splitlines()
                damaged[left[0]] = text[0][:200] if text else "unreadable"
                continue
            _warn_of(self.directory, damaged)
            return state
        _warn_of(self.directory, damaged)
        if not self.steps():
            raise CheckpointError(
                f"no usable checkpoint in {self.directory}, which has none yet; train "
                "the run (jaxrobust train --resume) until it has one."
            )
        raise CheckpointError(
            f"no usable checkpoint in {self.directory}; looked at steps "
            f"{self.steps()}. Train the run again in another directory."
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
