"""NumPyro, loaded whole.

ArviZ, imported first, leaves a lazy `numpyro` in sys.modules (scientific-python's lazy_loader).
Were a submodule imported then, it would go missing as an attribute once NumPyro itself is loaded;
asking for any attribute loads it."""

import numpyro

VERSION = numpyro.__version__
