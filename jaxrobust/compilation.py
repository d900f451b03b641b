"""Compiled programs kept on disk, so that only the first run on a machine compiles."""

import os
import warnings

import jax

__all__ = ["keep_compilations"]

CACHE_OPTION = "jax_compilation_cache_dir"


def keep_compilations() -> str | None:
    """Turn on JAX's persistent compilation cache, unless it is configured already.

    The models of an experiment share their programs, though each is trained by itself;
    with the cache they share the compilation too.

    Returns:
        The directory: `$JAX_COMPILATION_CACHE_DIR`, or `jaxrobust` in
        `$XDG_CACHE_HOME` or `~/.cache`. It may be deleted at any time. None, with a
        warning, if there is no place that can be written; nothing is kept then.
    """
    configured = getattr(jax.config, CACHE_OPTION)
    if configured:
        return configured
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = os.path.join(home, "jaxrobust")
    if not _can_be_written(directory):
        warnings.warn(
            f"compiled programs are not kept, since {directory!r} cannot be written; "
            "$JAX_COMPILATION_CACHE_DIR names another place.",
            stacklevel=2,
        )
        return None
    jax.config.update(CACHE_OPTION, directory)
    # By default programs that compile in under a second are not kept; a run has dozens.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return directory


def _can_be_written(directory: str) -> bool:
    # "~" is left where nobody knows the home of the user, as in some containers.
    if not os.path.isabs(directory):
        return False
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)
