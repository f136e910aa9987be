"""A mixture of left-out posteriors: draws from it leave out each of many sequences, without refits.

    q(theta)  ~  sum_i c_i p(theta, x_-i)  =  p(theta, x) sum_i c_i / g_i(theta)
    g_i = p(x_i | theta) f_i(theta),    f_i the other terms of sequence i in the joint

Weighing draws of the posterior by 1 / g_i fails where x_i surprises: the weights have no variance.
From q the weights are (1 / g_i) / sum_j (c_j / g_j), which are bounded. With c_i = p(x_i | x_-i),
as far as it is known, all components have the same mass; with c_i = 1 most of it would be that of
the sequences that surprise most.

Source: Silva and Zanella, arXiv:2209.09190, where all c_i are 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Array, Float
from numpyro.handlers import trace

from probattn.inference.contract import NumPyroModel, SymmetricModel, is_generalised
from probattn.inference.fitting.unconstrained import drawn_values


@dataclass(frozen=True)
class LeftOutMixture:
    """A NumPyro model whose posterior is a mixture of left-out posteriors of another model's.

    Args: model; log_weights, log c_i of each sequence, -inf for one that is not left out."""

    model: Any
    log_weights: tuple[float, ...]

    @property
    def observed(self) -> str:
        """The name of the site that is conditioned on the data."""
        return self.model.observed

    def __call__(self, data: Any) -> None:
        params = drawn_values(trace(self.model).get_trace(data))
        terms = terms_of_sequences(self.model, params, data)
        numpyro.factor("left_out", jax.nn.logsumexp(jnp.array(self.log_weights) - terms))


@dataclass(frozen=True)
class SymmetricLeftOutMixture(LeftOutMixture):
    """The same of a model with symmetries: leaving out changes none of them."""

    def metric_blocks(self) -> Any:
        """Those of the model."""
        return self.model.metric_blocks()


def left_out_mixture(model: NumPyroModel, log_weights: Iterable[float]) -> LeftOutMixture:
    """The mixture of left-out posteriors of a model, as a model."""
    kind = SymmetricLeftOutMixture if isinstance(model, SymmetricModel) else LeftOutMixture
    return kind(model, tuple(map(float, log_weights)))


def terms_of_sequences(model: Any, params: Any, data: Any) -> Float[Array, " n"]:
    """`log g_i`: all that each sequence puts into the log of the joint density."""
    log_prob = model.log_likelihood(params, data)
    return log_prob + model.log_factors(params, data) if is_generalised(model) else log_prob
