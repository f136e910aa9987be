"""Generative models with priors; each is a frozen dataclass that NumPyro calls as a model.

`model(tokens)` conditions on data, `model(num_sequences=n)` generates it.
"""

from probattn.models.language_model import LanguageModel

__all__ = ["LanguageModel"]
