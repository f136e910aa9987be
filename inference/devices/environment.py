"""Versions of what results depend on."""

import platform
from importlib.metadata import version

PACKAGES = ("probattn", "jax", "jaxlib", "numpyro", "numpy", "arviz", "zarr")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
