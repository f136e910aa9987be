"""Loss of a trained model under stress: noise, gradient attacks, typos, noise on chosen tokens.

Disturbances of the embeddings are in units of their root mean square, so that a model cannot
protect itself by larger embeddings.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probattn import jacobian_blocks
from probattn.inference.contract import LayeredModel
from probattn.inference.data.typos import TYPO_KINDS, room_for_typos, with_typos
from probattn.inference.fitting.unconstrained import Values
from probattn.sequence.tokens import counted

NOISE_LEVELS = (0.1, 0.2, 0.4, 0.8)  # standard deviations
ATTACK = (0.05, 0.1, 0.2)  # largest displacements, as standard deviations of noise of equal length
ATTACK_STEPS = 5
TYPOS = 3  # in each sequence
AUXILIARY = ("auxiliary_query", "auxiliary_key")
CHOSEN = 6  # tokens of each sequence that are disturbed in `_support`
CHOSEN_NOISE = 0.5  # standard deviation of the noise on them
CHOICES = ("smallest margin", "random", "highest entropy", "highest gradient")
MARGIN_EDGES = np.concatenate([[0.0], np.logspace(-4, 1, 51), [np.inf]])
MOST_MARGINS = 32  # sequences whose Jacobian blocks are computed


def stress(model: LayeredModel, params: Values, tokens: Any, *, seed: int = 0) -> dict[str, Any]:
    """Held-out loss of a trained model, clean and under each disturbance, and its margins.

    Args:
        model: with `path`, `logits_at` and `attentions`.
        params: one set of its parameters.
        tokens: held-out tokens (num_sequences, length).
        seed: of the noise and the typos.

    Returns: a dictionary; losses are in nats per token.

        clean             loss without disturbance
        noise, attack     loss by level
        typos             loss by kind of typo
        root_mean_square  of the embeddings, the unit of the disturbances
        support           loss added by noise on a few tokens, by the choice of these (CHOICES)
        margins           of the model's own heads, as from `margins_of_heads`
        auxiliary         the same of the auxiliary attention, if the model has one
    """
    tokens, whole, model = np.asarray(tokens), model, model.law
    auxiliary = {name: params[name] for name in AUXILIARY if name in params}
    params = {name: value for name, value in params.items() if name not in auxiliary}
    on_device, key = jnp.asarray(tokens), jax.random.key(seed)
    some = on_device[:MOST_MARGINS]
    margin, sign, barrier = blocks_of_heads(model, params, some)
    found: dict[str, Any] = {
        "clean": float(_clean_loss(model, params, on_device)),
        "noise": {
            f"{level}": float(_noisy_loss(model, params, on_device, key, level))
            for level in NOISE_LEVELS
        },
        "attack": {
            f"{level}": float(_attacked_loss(model, params, on_device, level)) for level in ATTACK
        },
        "typos": {kind: _typo_loss(model, params, tokens, kind, seed) for kind in TYPO_KINDS},
        "root_mean_square": float(_root_mean_square(model.path(params, on_device))),
        "margins": _spread(margin, sign, barrier),
    }
    if auxiliary:
        attention = whole.auxiliary_attention(auxiliary)
        found["auxiliary"] = _spread(
            *_margins_and_barriers(jacobian_blocks(attention, model.path(params, some)))
        )
    added = _support(model, params, some, margin.min(0), key)
    found["support"] = dict(zip(CHOICES, np.asarray(added, float).tolist(), strict=True))
    return found


def margins_of_heads(model: LayeredModel, params: Values, tokens: Any) -> dict[str, Any]:
    """How close the model's own attention comes to the boundary.

    All layers and positions of the first 32 sequences are pooled.

    Returns: a dictionary.

        smallest, one_percent, median  of the margins sigma_min(J_t); one_percent is a quantile
        beyond                         share of blocks with det J_t <= 0
        barrier                        mean of -log |det J_t|
        counts                         number of margins in each interval of MARGIN_EDGES
    """
    return _spread(*blocks_of_heads(model.law, params, jnp.asarray(tokens[:MOST_MARGINS])))


def _spread(margins: Array, signs: Array, barriers: Array) -> dict[str, Any]:
    margin, sign = np.asarray(margins), np.asarray(signs)
    counts = np.histogram(margin, MARGIN_EDGES)[0]
    return {
        "smallest": float(margin.min()),
        "one_percent": float(np.quantile(margin, 0.01)),
        "median": float(np.median(margin)),
        "beyond": float((sign <= 0).mean()),
        "barrier": float(np.mean(barriers)),
        "counts": counts.tolist(),
    }


def _root_mean_square(u: Array) -> Array:
    return jnp.sqrt((u**2).mean())


def _loss(
    model: LayeredModel,
    params: Values,
    tokens: Array,
    u: Array,
    own: Array | None = None,
) -> Array:
    """Loss per token when the first layer reads u, over tokens of the mask `own`.

    Without a mask all tokens up to the end count.
    """
    rows = jax.nn.log_softmax(model.logits_at(params, u))
    chosen = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
    own = counted(tokens) if own is None else own
    return -jnp.where(own, chosen, 0).sum() / own.sum()


@partial(jax.jit, static_argnums=0)
def _clean_loss(model: LayeredModel, params: Values, tokens: Array) -> Array:
    return _loss(model, params, tokens, model.path(params, tokens))


@partial(jax.jit, static_argnums=0)
def _noisy_loss(
    model: LayeredModel, params: Values, tokens: Array, key: Array, level: Array
) -> Array:
    u = model.path(params, tokens)
    noise = level * _root_mean_square(u) * jax.random.normal(key, u.shape)
    return _loss(model, params, tokens, u + noise)


@partial(jax.jit, static_argnums=0)
def _attacked_loss(model: LayeredModel, params: Values, tokens: Array, level: Array) -> Array:
    """Loss after gradient ascent on it in the embeddings.

    Each position moves by at most `radius`, the root mean square length of noise of this level.
    """
    u = model.path(params, tokens)
    radius = level * _root_mean_square(u) * u.shape[-1] ** 0.5
    gradient = jax.grad(lambda moved: _loss(model, params, tokens, u + moved))

    def ascend(moved: Array, _: None) -> tuple[Array, None]:
        moved = moved + 2 * radius / ATTACK_STEPS * unit_vectors(gradient(moved))
        length = jnp.linalg.norm(moved, axis=-1, keepdims=True)
        return moved * jnp.minimum(1, radius / jnp.maximum(length, 1e-30)), None

    moved, _ = jax.lax.scan(ascend, jnp.zeros_like(u), None, length=ATTACK_STEPS)
    return _loss(model, params, tokens, u + moved)


def unit_vectors(x: Array) -> Array:
    """Vectors along the last axis, divided by their lengths; those of length 0 stay."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def _typo_loss(
    model: LayeredModel, params: Values, tokens: np.ndarray, kind: str, seed: int
) -> float:
    """Loss under typos of the tokens that are still the writer's own, given the typed prefix."""
    some = tokens[room_for_typos(tokens, TYPOS)]
    typed, own = with_typos(some, kind, TYPOS, vocab_size=model.vocab_size, seed=seed)
    return float(_own_loss(model, params, jnp.asarray(typed), jnp.asarray(own)))


@partial(jax.jit, static_argnums=0)
def _own_loss(model: LayeredModel, params: Values, tokens: Array, own: Array) -> Array:
    return _loss(model, params, tokens, model.path(params, tokens), own)


@partial(jax.jit, static_argnums=0)
def blocks_of_heads(
    model: LayeredModel, params: Values, tokens: Array
) -> tuple[Array, Array, Array]:
    """`sigma_min(J_t)`, sign of det J_t and -log |det J_t| in every layer.

    The shape of each is (layers, num_sequences, length).
    """
    read = model.attentions(params, model.path(params, tokens))
    return _margins_and_barriers(
        jnp.stack([jacobian_blocks(attention, x) for attention, x in read])
    )


def _margins_and_barriers(blocks: Array) -> tuple[Array, Array, Array]:
    sign, log_abs_det = jnp.linalg.slogdet(blocks)
    return jnp.linalg.svd(blocks, compute_uv=False)[..., -1], sign, -log_abs_det


@partial(jax.jit, static_argnums=0)
def _support(
    model: LayeredModel, params: Values, tokens: Array, margin: Array, key: Array
) -> Float[Array, " choices"]:
    """Loss added by noise on CHOSEN tokens of each sequence, chosen in each of the ways of CHOICES.

    The noise is the same for all choices. n sequences, t positions, d the dimension.

    Args: margin, the smallest margin over layers, [n, t].
    """
    for_noise, for_random = jax.random.split(key)
    u = model.path(params, tokens)
    rows = jax.nn.log_softmax(model.logits_at(params, u))
    gradient = jax.grad(lambda u: _loss(model, params, tokens, u))(u)  # [n, t, d]
    scores = jnp.stack(  # in the order of CHOICES, [choices, n, t]
        [
            -margin,
            jax.random.uniform(for_random, tokens.shape),
            -(jnp.exp(rows) * rows).sum(-1),
            jnp.linalg.norm(gradient, axis=-1),
        ]
    )
    noise = CHOSEN_NOISE * _root_mean_square(u) * jax.random.normal(for_noise, u.shape)
    clean = _loss(model, params, tokens, u)

    def added(score: Array) -> Array:
        # The smallest score that is chosen in each sequence, [n, 1].
        least = jax.lax.top_k(jnp.where(counted(tokens), score, -jnp.inf), CHOSEN)[0][:, -1:]
        return (
            _loss(model, params, tokens, u + jnp.where((score >= least)[..., None], noise, 0))
            - clean
        )

    return jax.lax.map(added, scores)
