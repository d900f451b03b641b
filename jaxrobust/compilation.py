"""Compiled programs kept on disk, so that only the first run on a machine compiles."""

import os
from pathlib import Path

import jax

__all__ = ["keep_compilations"]

CACHE_OPTION = "jax_compilation_cache_dir"


def keep_compilations() -> str:
    """Turn on JAX's persistent compilation cache, unless it is configured already.

    The models of an experiment share their programs, though each is trained by itself;
    with the cache they share the compilation too.

    Returns:
        The directory: `$JAX_COMPILATION_CACHE_DIR`, or `jaxrobust` in
        `$XDG_CACHE_HOME` or `~/.cache`. It may be deleted at any time.
    """
    configured = getattr(jax.config, CACHE_OPTION)
    if configured:
        return configured
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = str(home / "jaxrobust")
    jax.config.update(CACHE_OPTION, directory)
    # By default programs that compile in under a second are not kept; a run has dozens.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return directory
