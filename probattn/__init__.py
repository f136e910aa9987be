"""probattn: causal self-attention as a probabilistic model.

Read each embedding of a sequence as the attention-weighted mean of its past plus noise,

    u_t = mu_t(u_t; u_<t) + e_t,    e_t ~ N(0, sigma^2 I),    t = 1 ... T
    mu_t = sum_h V_h sum_{s<t} alpha^h_ts u_s,    alpha^h_t = softmax_s(u_s^T A_h u_t + c_{t-s})

and attention is to its probabilistic model what PCA is to probabilistic PCA. The equation is
implicit, since the query is the token itself, so the density of a sequence carries a Jacobian. The
residual map u -> e is block lower triangular; its diagonal blocks are

    J_t = d e_t / d u_t = I - sum_h V_h S_t A_h,    S_t = covariance of the past under alpha_t

    log p(u) = sum_t [ log N(e_t; 0, sigma^2 I) + log |det J_t| ]

For T = 4, with `.` a zero block and `x` some block:

    d e / d u =   I   .   .   .      position 1 has no past
                  x   I   .   .      position 2 has one token to attend to, hence no spread
                  x   x  J_3  .
                  x   x   x  J_4

`-log |det J_t|` is the **barrier**: it is +inf where attention becomes ill-conditioned. The
distance of J_t from the nearest singular matrix is the **stability margin** of position t, and the
positions with the smallest margins are the **support tokens**. The theory is that of
arXiv:2602.22271, "Support Tokens, Stability Margins, and a New Foundation for Robust LLMs"; where
its density is one, the contraction cap and the posterior are additions.

    >>> import jax
    >>> from probattn import Attention, log_barrier, stability_margin, support_tokens
    >>> for_query, for_key, for_u = jax.random.split(jax.random.key(0), 3)
    >>> query, key = (jax.random.normal(one, (1, 2, 2)) for one in (for_query, for_key))
    >>> u = jax.random.normal(for_u, (5, 2))
    >>> attention = Attention(query, key)
    >>> stability_margin(attention, u).shape, support_tokens(attention, u, 1).shape
    ((5,), (1,))

The law of u is a NumPyro distribution, `AttentionProcess`. It integrates to one where `u - mu(u) =
e` has one solution
for every e: under the contraction cap for every parameter and history, elsewhere where `certified`
says so, and `expected_roots` counts the solutions. Without a certificate the density is restricted
to the side of the boundary that holds A = 0 (the local domain; outside, the log density is -inf),
and samples must be asked for by branch.

    >>> from probattn import AttentionProcess
    >>> process = AttentionProcess(Attention(query, key, contraction=0.9), scale=0.5, length=5)
    >>> draws = process.sample(jax.random.key(0), (100,))
    >>> draws.shape, process.log_prob(draws).shape
    ((100, 5, 2), (100,))

A causal model of tokens is one law over sequences too, `SequenceProcess`: with a marginal for every
finite set of positions, and a law on the power set of the vocabulary, that of the tokens a sequence
visits. A posterior over its parameters is a mixture of such laws, `ProcessMixture`, and that is
again one.

    >>> from probattn import SequenceProcess
    >>> def bigram(table, tokens):  # the token before each, 0 before the first
    ...     return table[jax.numpy.zeros_like(tokens).at[1:].set(tokens[:-1])]
    >>> process = SequenceProcess(bigram, jax.numpy.zeros((3, 3)), length=4, vocab_size=3)
    >>> print(process.containment([1]))
    0.493827 (exact: 1 path)

Models with priors are in `probattn.models`, fits and their comparison in `probattn.inference`.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

import lazy_loader

# The names and their modules are listed in __init__.pyi, each loaded when it is first asked for:
# --help needs no JAX.
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("probattn")


def __getattr__(name: str) -> Any:
    if name in __all__:
        import_module("probattn._whole_numpyro")  # before all that imports submodules of NumPyro
    return _load(name)


if (
    "numpyro" in sys.modules
):  # it may be ArviZ's lazy one, and modules may be imported without asking for a name
    import_module("probattn._whole_numpyro")
