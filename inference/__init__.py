"""What one does with any model: fit it by MAP or by full posterior sampling, compare fits, store them."""

from probattn.inference.corpus import Corpus, load_corpus
from probattn.inference.fit import Fit
from probattn.inference.map import fit_map
from probattn.inference.posterior import sample_posterior

__all__ = ["Corpus", "Fit", "fit_map", "load_corpus", "sample_posterior"]
