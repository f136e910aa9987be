"""Generative models with priors; each is a frozen dataclass that NumPyro calls as a model.

`model(data)` conditions on data, `model(num_sequences=n)` generates it.
"""

from probattn import _whole_numpyro  # noqa: F401, before all that imports submodules of NumPyro
from probattn.models.emission_model import EmissionModel
from probattn.models.language_model import LanguageModel
from probattn.models.latent_attention import LatentAttention
from probattn.models.transformer import TransformerLM

__all__ = ["EmissionModel", "LanguageModel", "LatentAttention", "TransformerLM"]
