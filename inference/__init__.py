"""What one does with any model: fit it, by MAP or posterior sampling, judge, compare and store."""

import lazy_loader

from probattn import _whole_numpyro  # noqa: F401, before all that imports submodules of NumPyro

# The names and their modules are listed in __init__.pyi, each loaded when it is first asked for: a
# fit needs no figures.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
