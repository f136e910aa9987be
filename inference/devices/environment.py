"""Versions, and the precision, of what results depend on."""

import platform
from importlib.metadata import version

import jax

PACKAGES = ("probattn", "jax", "jaxlib", "numpyro", "numpy", "arviz", "zarr")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def precision() -> str:
    """The type that JAX computes in, "float32" or "float64"."""
    return "float64" if jax.config.jax_enable_x64 else "float32"


def how_to_go_on(name: str, recorded: object) -> str:
    """What to set where `name` differs from what is recorded, as an end of a message."""
    return f": set JAX_ENABLE_X64={int(recorded == 'float64')}" if name == "precision" else ""
