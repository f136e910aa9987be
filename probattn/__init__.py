"""probattn: causal self-attention as a probabilistic model.

Each embedding of a sequence is the attention-weighted mean of its past plus noise:

    u_t = mu_t(u_t; u_<t) + e_t,    e_t ~ N(0, sigma^2 I),    t = 1 ... T
    mu_t = sum_h V_h sum_{s<t} alpha^h_ts u_s,    alpha^h_t = softmax_s(u_s^T A_h u_t + c_{t-s})

Attention is to this model what PCA is to probabilistic PCA. The equation is implicit, since the
query is the token itself, so the density of an embedding path has a Jacobian term. The residual map
u -> e is block lower triangular; its diagonal blocks are

    J_t = d e_t / d u_t = I - sum_h V_h S_t A_h,    S_t = covariance of the past under alpha_t

    log p(u) = sum_t [ log N(e_t; 0, sigma^2 I) + log |det J_t| ]

For T = 4, with `.` a zero block and `x` some block:

    d e / d u =   I   .   .   .      position 1 has no past
                  x   I   .   .      position 2 has one token to attend to, hence no spread
                  x   x  J_3  .
                  x   x   x  J_4

`-log |det J_t|` is the **barrier**: it is +inf where J_t is singular. The distance of J_t from the
nearest singular matrix is the **stability margin** of position t, and the positions with the
smallest margins are the **support tokens**. The theory is that of arXiv:2602.22271, "Support
Tokens, Stability Margins, and a New Foundation for Robust LLMs". Not in the paper are the answer to
where its density integrates to one, the contraction cap and the posterior.

    >>> import jax
    >>> from probattn import Attention, log_barrier, stability_margin, support_tokens
    >>> for_query, for_key, for_u = jax.random.split(jax.random.key(0), 3)
    >>> query, key = (jax.random.normal(one, (1, 2, 2)) for one in (for_query, for_key))
    >>> u = jax.random.normal(for_u, (5, 2))
    >>> attention = Attention(query, key)
    >>> stability_margin(attention, u).shape, support_tokens(attention, u, 1).shape
    ((5,), (1,))

The law of u is a NumPyro distribution, `AttentionProcess`. Its density integrates to one where
`u - mu(u) = e` has only one solution for every e. So it is under the contraction cap for every
parameter and history, and otherwise where `certified` says so; `expected_roots` counts the
solutions. Without a certificate the density is restricted to the local domain, `det J_t > 0` for
all t (outside it the log density is -inf), and `sample` needs a `branch`.

    >>> from probattn import AttentionProcess
    >>> process = AttentionProcess(Attention(query, key, contraction=0.9), scale=0.5, length=5)
    >>> draws = process.sample(jax.random.key(0), (100,))
    >>> draws.shape, process.log_prob(draws).shape
    ((100, 5, 2), (100,))

A causal model of tokens defines one law of token sequences, `SequenceProcess`. It has a marginal
for every finite set of positions, and it implies a law on the power set of the vocabulary, that of
the set of tokens that a sequence visits. A posterior over the parameters gives a mixture of such
laws, `ProcessMixture`, which is again a sequence process.

    >>> from probattn import SequenceProcess
    >>> def bigram(table, tokens):  # logits are the row of the token before each, 0 at first
    ...     return table[jax.numpy.zeros_like(tokens).at[1:].set(tokens[:-1])]
    >>> process = SequenceProcess(bigram, jax.numpy.zeros((3, 3)), length=4, vocab_size=3)
    >>> print(process.containment([1]))
    0.493827 (exact: 1 sequence)

Models with priors are in `probattn.models`, fits and their comparison in `probattn.inference`.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

import lazy_loader

# __init__.pyi lists the public names and their modules. A module is imported when one of its names
# is first used, so that `probattn --help` does not wait for JAX.
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("probattn")


def __getattr__(name: str) -> Any:
    if name in __all__:
        # Before any module that imports a submodule of NumPyro; `_whole_numpyro` says why.
        import_module("probattn._whole_numpyro")
    return _load(name)


# A numpyro that is already imported may be ArviZ's lazy stand-in. Load it whole now, since the
# modules of probattn can also be imported without `__getattr__` above.
if "numpyro" in sys.modules:
    import_module("probattn._whole_numpyro")
