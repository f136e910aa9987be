"""Generative models with priors; each is a frozen dataclass that NumPyro calls as a model.

`model(data)` conditions on data, `model(num_sequences=n)` generates data. Fitting and evaluation
live in `probattn.inference`, on which nothing here may depend.
"""

from probattn import _whole_numpyro  # noqa: F401, before imports of submodules of NumPyro
from probattn.models.emission_model import EmissionModel
from probattn.models.language_model import LanguageModel, falling_weight
from probattn.models.latent_attention import LatentAttention
from probattn.models.transformer import TransformerLM

__all__ = ["EmissionModel", "LanguageModel", "LatentAttention", "TransformerLM", "falling_weight"]
