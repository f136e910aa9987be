"""JAX's compilation cache on disk, so that a later run need not compile the same programs."""

import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from platformdirs import user_cache_path

# Compiler options for programs that run once or a few times: on a CPU, optimising such a program
# takes longer than it saves.
ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def keep_compiled(folder: str | Path | None = None) -> Path | None:
    """Keep compiled programs on disk for later runs with the same shapes; returns the folder.

    The command line does this for every command. A folder that JAX already has, from
    JAX_COMPILATION_CACHE_DIR or jax_compilation_cache_dir, is kept unless `folder` is given. The
    folder can be deleted at any time. It must not be one that others can write to: JAX runs the
    programs that it finds there.

    Args:
        folder: by default `probattn/jax` in the user's cache folder (XDG_CACHE_HOME or ~/.cache on
            Linux).

    Returns: the folder; None if nothing is kept, which is so under
        JAX_ENABLE_COMPILATION_CACHE=false and where the folder cannot be written.
    """
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
    reset_cache()  # otherwise JAX stays with the folder that it first wrote to
    jax.config.update("jax_compilation_cache_dir", str(path))
    # A fit compiles hundreds of small programs, which JAX's default limit would leave out.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return path
