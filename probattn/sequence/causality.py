"""A check that a function of tokens is causal: it changes tokens that logits must not see."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probattn.errors import InputError

# Most positions from which on tokens are changed; sequences up to this length are tried at all.
MOST_CUTS = 64


def check_causal(
    next_token_logits: Callable,
    params: Any,
    length: int,
    vocab_size: int,
    batched: bool,
    cached_step: Any,
) -> None:
    """Change the tokens from each position on and check that no logits up to that position change.

    To allow for rounding, rows may differ by sqrt(machine epsilon) times one plus the largest
    logit; a smaller leak is not noticed. Traced parameters have no values, and random ones of the
    same shapes are used instead. A cached step must give the same rows.

    Args:
        next_token_logits: from tokens (length,) to logits (length, vocab_size).
        params: its parameters, a pytree of arrays.
        length, vocab_size: of the sequences.
        batched: whether it also takes tokens (n, length).
        cached_step: a CachedStep, or None.

    Raises: InputError if the function is not hashable, a shape is wrong, logits are NaN, a row
        depends on its own token or a later one, or a cached step disagrees.
    """
    try:
        hash(next_token_logits)
    except TypeError as error:
        raise InputError(
            "next_token_logits: expected a hashable function, got one that is not; put its "
            "arrays into params"
        ) from error
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), params
    )
    for batch in ((), (2,)) if batched else ((),):
        found = jax.eval_shape(
            next_token_logits, shapes, jax.ShapeDtypeStruct((*batch, length), jnp.result_type(int))
        )
        shape = getattr(found, "shape", None)
        if shape != (*batch, length, vocab_size) or not jnp.issubdtype(found.dtype, jnp.floating):
            raise InputError(
                "next_token_logits: expected real logits of shape "
                f"{(*batch, length, vocab_size)} for tokens of shape "
                f"{(*batch, length)}, got {found}"
            )
    if cached_step is not None:
        _check_cache(cached_step, shapes)
    leaves, structure = jax.tree.flatten(shapes)
    if is_traced(params):
        _check_at_random(
            next_token_logits, structure, tuple(leaves), length, vocab_size, batched, cached_step
        )
    else:
        _check_at(next_token_logits, params, length, vocab_size, batched, cached_step)


def _check_cache(cached_step: Any, params: Any) -> None:
    """Raise InputError unless a step returns a cache like the one it was given."""
    number = jax.ShapeDtypeStruct((), jnp.result_type(int))
    cache = jax.eval_shape(cached_step.start, params)
    after, _ = jax.eval_shape(cached_step.step, params, cache, number, number)
    expected, found = (
        jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", one) for one in (cache, after)
    )
    if expected != found:
        raise InputError(
            "cached_step: expected a step to return a cache of the shapes and types that start "
            f"gave, {expected}, got {found}; params are in JAX's default float, take types from "
            "them"
        )


def is_traced(params: Any) -> bool:
    """Whether some of the parameters are traced, and so have no values yet."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params))


@functools.lru_cache(maxsize=256)
def _check_at_random(
    next_token_logits, structure, leaves, length, vocab_size, batched, cached_step
) -> None:
    """`_check_at` at random parameters, once for each function and shapes of its parameters."""
    rng = np.random.default_rng(0)
    drawn = [
        rng.standard_normal(leaf.shape).astype(leaf.dtype) / 2
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else np.zeros(leaf.shape, leaf.dtype)
        for leaf in leaves
    ]
    params = jax.tree.unflatten(structure, drawn)
    # Random parameters may be invalid, such as a negative scale, so a NaN is no error here.
    _check_at(next_token_logits, params, length, vocab_size, batched, cached_step, report_nan=False)


def _check_at(
    next_token_logits, params, length, vocab_size, batched, cached_step, report_nan=True
) -> None:
    """Compare the logits of sequences that differ from some position on; raise as `check_causal`.

    Letters in shapes: b base sequence (there are two), c changed sequence, t position, v token.
    """
    rng = np.random.default_rng(0)
    cuts = np.unique(np.linspace(0, length - 1, min(length, MOST_CUTS)).round().astype(int))
    tried = []
    for least in (0, 1):  # the second base has no token 0, which often is the end token
        base = rng.integers(least, vocab_size, length)  # [t]
        # Each token from the cut on is replaced by another one, [c, t].
        other = (base + rng.integers(1, vocab_size, (len(cuts), length))) % vocab_size
        tried.append(
            np.concatenate([base[None], np.where(np.arange(length) >= cuts[:, None], other, base)])
        )
    # Values are needed now, even if the caller is being traced.
    with jax.ensure_compile_time_eval():
        results = _evaluate(
            next_token_logits, cached_step, batched, params, jnp.asarray(np.stack(tried))
        )
        # rows [b, 1 + c, t, v], where index 0 is the base; alone and stepped [b, t, v]
        rows, alone, stepped = (np.asarray(result) for result in results)
    if np.isnan(rows).any() and report_nan:
        raise InputError(
            "next_token_logits: got logits that are not numbers at these params; look for NaN "
            "or infinity in them"
        )
    tolerance = np.sqrt(np.finfo(rows.dtype).eps) * (
        1 + abs(rows[np.isfinite(rows)]).max(initial=0)
    )
    for changed in rows:
        for cut, later in zip(cuts, changed[1:], strict=True):
            moved = _difference(later[: cut + 1], changed[0, : cut + 1])
            if (moved > tolerance).any():
                row = int(moved.argmax())
                raise InputError(
                    "next_token_logits: expected row t to depend on the tokens before t only, "
                    f"but row {row} moved by {moved[row]:.3g} when tokens {cut} to {length - 1} "
                    "changed (counted from 0); shift the tokens by one or mask what follows"
                )
    for name, others in (("next_token_logits(one sequence)", alone), ("cached_step", stepped)):
        moved = _difference(others, rows[:, 0]).max(-1)
        # The tolerance is larger here: another program sums in another order, and so its rounding
        # differs throughout the model.
        if (moved > 16 * tolerance).any():
            raise InputError(
                f"{name}: expected the rows of next_token_logits, got logits that differ by "
                f"{moved.max():.3g}"
            )


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Largest difference over the last axis; two equal infinities, or two NaN, do not differ."""
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0, abs(first - second))
    return np.where(np.isnan(apart), np.inf, apart).max(-1)


@jax.jit(static_argnums=(0, 1, 2))
def _evaluate(next_token_logits, cached_step, batched, params, tried):
    """Logits of all sequences in `tried`, of the bases one by one, and of these by cached steps.

    Shapes with the letters of `_check_at`: tried [b, 1 + c, t]; results [b, 1 + c, t, v] and twice
    [b, t, v].
    """
    flat = tried.reshape(-1, tried.shape[-1])
    every = jax.vmap(next_token_logits, (None, 0))
    rows = (next_token_logits if batched else every)(params, flat).reshape(*tried.shape, -1)
    alone = every(params, tried[:, 0]) if batched else rows[:, 0]
    if cached_step is None:
        return rows, alone, alone

    def steps(base):  # [t] -> [t, v]
        def step(cache, position_and_previous):
            position, previous = position_and_previous
            return cached_step.step(params, cache, previous, position)

        return jax.lax.scan(
            step, cached_step.start(params), (jnp.arange(len(base)), jnp.roll(base, 1))
        )[1]

    return rows, alone, jax.vmap(steps)(tried[:, 0])
