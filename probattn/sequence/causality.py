"""Whether a function of tokens is causal, found out by changing what it must not see."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probattn.errors import InputError

# positions from which on the tokens are changed; shorter sequences are tried at every position
MOST_CUTS = 64


def check_causal(
    next_token_logits: Callable,
    params: Any,
    length: int,
    vocab_size: int,
    batched: bool,
    cached_step: Any,
) -> None:
    """Change the tokens from each position on and see that no logit up to that position moves.

    Rows may differ by rounding, sqrt(machine epsilon) of the largest logit; a leak below that is
    not noticed. Traced
    parameters have no values: random ones of their shapes take their place. A cached step is held
    against the rows.

    Raises: InputError where a shape is wrong, a row sees its own token or a later one, or a cached
    step disagrees."""
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
    leaves, structure = jax.tree.flatten(shapes)
    if is_traced(params):
        _try_random(
            next_token_logits, structure, tuple(leaves), length, vocab_size, batched, cached_step
        )
    else:
        _try(next_token_logits, params, length, vocab_size, batched, cached_step)


def is_traced(params: Any) -> bool:
    """Whether some of the parameters have no values yet."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params))


@functools.lru_cache(maxsize=256)
def _try_random(
    next_token_logits, structure, leaves, length, vocab_size, batched, cached_step
) -> None:
    rng = np.random.default_rng(0)
    drawn = [
        rng.standard_normal(leaf.shape).astype(leaf.dtype) / 2
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else np.zeros(leaf.shape, leaf.dtype)
        for leaf in leaves
    ]
    params = jax.tree.unflatten(structure, drawn)
    # Random values may be outside what the function accepts, such as a negative scale: their NaN
    # says nothing.
    _try(next_token_logits, params, length, vocab_size, batched, cached_step, report_nan=False)


def _try(
    next_token_logits, params, length, vocab_size, batched, cached_step, report_nan=True
) -> None:
    rng = np.random.default_rng(0)
    cuts = np.unique(np.linspace(0, length - 1, min(length, MOST_CUTS)).round().astype(int))
    tried = []
    for least in (0, 1):
        base = rng.integers(least, vocab_size, length)
        # Every token from the cut on becomes another one.
        other = (base + rng.integers(1, vocab_size, (len(cuts), length))) % vocab_size
        tried.append(
            np.concatenate([base[None], np.where(np.arange(length) >= cuts[:, None], other, base)])
        )
    with (
        jax.ensure_compile_time_eval()
    ):  # the answer is needed now, even while something else is being traced
        results = _evaluate(
            next_token_logits, cached_step, batched, params, jnp.asarray(np.stack(tried))
        )
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
                    f"but row {row} moved by "
                    f"{moved[row]:.3g} when tokens {cut} to {length - 1} changed (counted from "
                    "0); shift the tokens by "
                    "one or mask what follows"
                )
    for name, others in (("next_token_logits(one sequence)", alone), ("cached_step", stepped)):
        moved = _difference(others, rows[:, 0]).max(-1)
        # Another order of the same sums: rounding through a whole model, not one row compared with
        # itself.
        if (moved > 16 * tolerance).any():
            raise InputError(
                f"{name}: expected the rows of next_token_logits, got logits that differ by "
                f"{moved.max():.3g}"
            )


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Largest difference in each row; two equal infinities, or two NaN, do not differ."""
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0, abs(first - second))
    return np.where(np.isnan(apart), np.inf, apart).max(-1)


@jax.jit(static_argnums=(0, 1, 2))
def _evaluate(next_token_logits, cached_step, batched, params, tried):
    """Rows of all tried sequences; of the bases one by one; and of the bases by cached steps."""
    flat = tried.reshape(-1, tried.shape[-1])
    every = jax.vmap(next_token_logits, (None, 0))
    rows = (next_token_logits if batched else every)(params, flat).reshape(*tried.shape, -1)
    alone = every(params, tried[:, 0]) if batched else rows[:, 0]
    if cached_step is None:
        return rows, alone, alone

    def steps(base):
        def step(cache, position_and_previous):
            position, previous = position_and_previous
            return cached_step.step(params, cache, previous, position)

        return jax.lax.scan(
            step, cached_step.start(params), (jnp.arange(len(base)), jnp.roll(base, 1))
        )[1]

    return rows, alone, jax.vmap(steps)(tried[:, 0])
