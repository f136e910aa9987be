"""Compiled programs on disk: what has been compiled once need not be compiled by the next run."""

import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from platformdirs import user_cache_path

# For programs that run once or a few times: on a CPU the compiler's optimisation then takes longer
# than it saves.
ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def keep_compiled(folder: str | Path | None = None) -> Path | None:
    """Keep compiled programs for later runs with the same shapes, as the command line does; returns
    the folder.

    A folder that JAX was given otherwise (JAX_COMPILATION_CACHE_DIR, jax_compilation_cache_dir)
    stays as it is, unless one is given here. It can be deleted at any time. What others can write
    to is no place for it: JAX runs what it finds there.

    Args: folder, by default `probattn/jax` in the user's cache folder (XDG_CACHE_HOME or ~/.cache
        on Linux).
    Returns: None, and nothing is kept, under JAX_ENABLE_COMPILATION_CACHE=false and where the
    folder cannot be written."""
    if not jax.config.jax_enable_compilation_cache:
        return None
    chosen = jax.config.jax_compilation_cache_dir
    if folder is None and chosen is not None:
        return Path(chosen) if chosen else None
    path = user_cache_path("probattn", appauthor=False) / "jax" if folder is None else Path(folder)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(path, os.W_OK):
        return None
    reset_cache()  # JAX keeps to the folder that it first wrote to
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", 0.0
    )  # a fit is hundreds of small programs
    return path
