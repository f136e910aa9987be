"""Losses of the trial: clean, under noise, attacks, typos, dropped tokens and rounded weights.

Every measure takes members: parameters with a leading axis, whose next-token probabilities are
averaged. A single model is one member. A disturbance of the embeddings is in units of each member's
own root mean square, or absolute.

Letters in shapes: m member, n sequence, t position, i component of an embedding, v token.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probattn.inference.contract import LayeredModel
from probattn.inference.data.typos import TYPO_KINDS, room_for_typos, with_typos
from probattn.inference.fitting.unconstrained import Values
from probattn.inference.study.trial_texts import OTHERS
from probattn.inference.study.under_stress import NOISE_LEVELS, TYPOS, unit_vectors

NOISE_DRAWS = 4
PRIMARY_NOISE = 0.4  # in root mean squares of the embeddings
DROPPED = (0.05, 0.15)  # shares of the tokens
ATTACKS = (5, 20)  # steps of gradient ascent
RESTARTS = 3
ATTACK_RADIUS = 0.1  # of each position's displacement, as noise of this level has on average
MOST_ATTACKED = 128  # sequences
BITS = (8, 4)
CALIBRATION_BINS = 15
SEQUENCES_AT_ONCE = 32  # sequences


def members_of(params: Values, number: Any) -> Values:
    """One member, or with a slice or list several, of parameters with a leading axis."""
    return jax.tree.map(lambda leaf: leaf[number], params)


def stacked(several: list[Values]) -> Values:
    """Parameters as members, with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)


def loss_of(
    model: LayeredModel,
    members: Values,
    tokens: Any,
    *,
    read: Any = None,
    noise: Any = None,
    unit: float | None = None,
    own: Any = None,
) -> Array:
    """The mean loss of a token in nats.

    Args:
        model: without what acts in training alone.
        tokens: what is to be predicted, (n, t).
        read: what the model reads, (n, t); None is `tokens`.
        noise: added to the embeddings, (n, t, i); None is none.
        unit: of the noise; None is the root mean square of each member's embeddings.
        own: mask of the tokens that count, (n, t); None is all.
    """
    tokens = jnp.asarray(tokens)
    rows = _log_probs(model, members, tokens if read is None else jnp.asarray(read), noise, unit)
    chosen = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
    own = jnp.ones(tokens.shape, bool) if own is None else jnp.asarray(own)
    return -jnp.where(own, chosen, 0).sum() / own.sum()


def primary(model: LayeredModel, members: Values, tokens: Any, seed: int) -> dict[str, float]:
    """Clean loss, and loss under noise of 0.4, the mean of 4 draws: what tuning minimises."""
    return {
        "clean": float(loss_of(model, members, tokens)),
        "noise": _noisy(model, members, tokens, seed, PRIMARY_NOISE),
    }


def losses_under_stress(
    model: LayeredModel,
    members: Values,
    tokens: np.ndarray,
    other: np.ndarray,
    *,
    seed: int,
    absolute: float | None = None,
) -> dict[str, Any]:
    """All losses of the plan's section 6, by name, in nats per token.

    Args:
        model: without what acts in training alone.
        tokens: of the part that is judged, (n, t).
        other: the other text in the symbols of this one, (n, t).
        seed: of noise, typos and attacks.
        absolute: root mean square of the plain model's embeddings; None leaves this measure out.

    Returns: a flat dictionary of names and numbers; among them the calibration error, no loss.
    """
    found: dict[str, Any] = {"clean": float(loss_of(model, members, tokens))}
    for level in NOISE_LEVELS:
        found[f"noise {level}"] = _noisy(model, members, tokens, seed, level)
    if absolute is not None:
        found["noise, absolute"] = _noisy(model, members, tokens, seed, PRIMARY_NOISE, absolute)
    for kind in TYPO_KINDS:
        some = tokens[room_for_typos(tokens, TYPOS)]
        typed, own = with_typos(some, kind, TYPOS, vocab_size=model.vocab_size, seed=seed)
        found[f"typos: {kind}"] = float(loss_of(model, members, typed, own=own))
    for share in DROPPED:
        lost = np.random.default_rng(seed).random(tokens.shape) < share
        read = np.where(lost, OTHERS, tokens)
        found[f"dropped {share}"] = float(loss_of(model, members, tokens, read=read))
    for steps in ATTACKS:
        some, key = jnp.asarray(tokens[:MOST_ATTACKED]), jax.random.key(seed)
        found[f"attack, {steps} steps"] = float(_attacked(model, steps, members, some, key))
    for bits in BITS:
        found[f"{bits} bits"] = float(loss_of(model, rounded(members, bits), tokens))
    found["other text"] = float(loss_of(model, members, other))
    found["calibration error"] = calibration_error(model, members, tokens)
    return found


def root_mean_square(model: LayeredModel, members: Values, tokens: Any) -> float:
    """Root mean square of the first member's embeddings."""
    u = model.path(members_of(members, 0), jnp.asarray(tokens))
    return float(jnp.sqrt((u**2).mean()))


def rounded(members: Values, bits: int) -> Values:
    """Weights rounded to 2^(bits - 1) - 1 steps on each side of 0, by tensor of each member."""

    def one(leaf: Array) -> Array:
        axes = tuple(range(1, leaf.ndim))
        step = abs(leaf).max(axes, keepdims=True) / (2 ** (bits - 1) - 1)
        return jnp.where(step > 0, jnp.round(leaf / jnp.where(step > 0, step, 1)) * step, 0)

    return jax.tree.map(one, members)


def calibration_error(model: LayeredModel, members: Values, tokens: Any) -> float:
    """Expected calibration error of the next token, in bins of equally many tokens.

    sum over bins of (share of tokens) |accuracy - confidence|
    """
    rows = np.asarray(_log_probs(model, members, jnp.asarray(tokens), None, None), float)
    confidence, right = np.exp(rows.max(-1)).ravel(), (rows.argmax(-1) == tokens).ravel()
    order = np.argsort(confidence, kind="stable")
    return float(
        sum(
            abs(right[bin_].mean() - confidence[bin_].mean()) * len(bin_) / len(order)
            for bin_ in np.array_split(order, CALIBRATION_BINS)
        )
    )


def _noisy(
    model: LayeredModel,
    members: Values,
    tokens: Any,
    seed: int,
    level: float,
    unit: float | None = None,
) -> float:
    """Mean loss over draws of noise, which are the same for all models, levels and members."""
    draws = []
    for key in jax.random.split(jax.random.key(seed), NOISE_DRAWS):
        shape = (*np.shape(tokens), members["embedding"].shape[-1])
        noise = level * jax.random.normal(key, shape)
        draws.append(float(loss_of(model, members, tokens, noise=noise, unit=unit)))
    return float(np.mean(draws))


@partial(jax.jit, static_argnums=0)
def _log_probs(model: Any, members: Values, read: Array, noise: Any, unit: Any) -> Array:
    """Log of the members' mean probabilities of every token, [n, t, v]."""
    units = _units(model, members, read) if unit is None else unit * jnp.ones(_number(members))

    def of_sequence(inputs: tuple[Array, Any]) -> Array:
        row, delta = inputs
        return _mixed(model, members, row, units[:, None, None] * delta)

    delta = jnp.zeros((*read.shape, 1)) if noise is None else noise
    return jax.lax.map(of_sequence, (read, delta), batch_size=min(SEQUENCES_AT_ONCE, len(read)))


def _mixed(model: Any, members: Values, row: Array, moved: Array) -> Array:
    """Log mean probabilities [t, v] of one sequence whose embeddings move by `moved` [m, t, i]."""

    def one(params: Values, moved: Array) -> Array:
        u = model.path(params, row[None])[0] + moved
        return jax.nn.log_softmax(model.logits_at(params, u))

    each = jax.vmap(one)(members, moved)
    return jax.nn.logsumexp(each, axis=0) - jnp.log(len(each))


def _units(model: Any, members: Values, tokens: Array) -> Array:
    """Root mean square of the embeddings of each member, [m]."""
    return jax.vmap(lambda params: jnp.sqrt((model.path(params, tokens) ** 2).mean()))(members)


def _number(members: Values) -> int:
    return len(jax.tree.leaves(members)[0])


@partial(jax.jit, static_argnums=(0, 1))
def _attacked(model: Any, steps: int, members: Values, tokens: Array, key: Array) -> Array:
    """Mean loss of a token after gradient ascent on it in the embeddings, the worst of restarts.

    Each position moves by at most the root mean square length of noise of ATTACK_RADIUS, all
    members along the same direction in their own unit. The worst restart is that of each sequence.
    """
    units = _units(model, members, tokens)
    width = members["embedding"].shape[-1]
    radius = ATTACK_RADIUS * width**0.5

    def of_sequence(inputs: tuple[Array, Array]) -> Array:
        row, key = inputs

        def loss(delta: Array) -> Array:
            rows = _mixed(model, members, row, units[:, None, None] * delta)
            return -jnp.take_along_axis(rows, row[:, None], axis=-1).mean()

        def ascend(delta: Array, _: None) -> tuple[Array, None]:
            delta = delta + 2 * radius / steps * unit_vectors(jax.grad(loss)(delta))
            length = jnp.linalg.norm(delta, axis=-1, keepdims=True)
            return delta * jnp.minimum(1, radius / jnp.maximum(length, 1e-30)), None

        def restart(key: Array) -> Array:
            start = radius * unit_vectors(jax.random.normal(key, (len(row), width)))
            return loss(jax.lax.scan(ascend, start, None, length=steps)[0])

        return jax.vmap(restart)(jax.random.split(key, RESTARTS)).max()

    keys = jax.random.split(key, len(tokens))
    return jax.lax.map(
        of_sequence, (tokens, keys), batch_size=min(SEQUENCES_AT_ONCE, len(tokens))
    ).mean()
