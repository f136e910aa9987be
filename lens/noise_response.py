"""Measured fragility: what noise at one token of one layer does to the laws of next tokens.

Letters in shapes: l layer, t position, m disturbance, i component of the stream.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from probattn.checks import as_integer, as_key
from probattn.errors import InputError
from probattn.lens.disturbance import (
    divergence,
    half_variance,
    layer_of_many,
    random_directions,
    through_layer,
)
from probattn.lens.forward import streams
from probattn.lens.measurement import as_ids, block_threads, chosen_layers, extremes_at
from probattn.lens.tokenization import token_texts
from probattn.lens.transformer import Transformer

NOISE_DIRECTIONS = ("random", "v_min", "v_max")
NOISES_AT_ONCE = 64  # disturbances that are followed together


def fragility(
    model: Any,
    text: Any,
    *,
    key: Any,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    draws: int = 4,
    size: float | None = None,
) -> xr.Dataset:
    """What noise at one position of the stream does to the next-token laws, layer by layer.

        KL(p_s || p_s with x_t + size |x_t| n) / size^2,  n a unit vector,  summed over s = t, s > t

    To second order in the noise, by the derivative of the layers above; or, with a size, with noise
    of that size itself, once along n and once against it, so that terms of third order cancel.

    Args:
        model: of `load_transformer`.
        text: a str, or token ids (t,), of no more than the context.
        key: random key of the random directions.
        layers: those whose entering stream is disturbed; None is all.
        positions: those that are disturbed; None is all.
        draws: number of random directions, over which "random" is the mean.
        size: length of the noise relative to the stream; None is the second order.

    Returns: `kl` (layer, position, direction, reach), in nats; direction is "random", "v_min" or
    "v_max", the directions which the attention block of that layer keeps least and most (reading
    "stream"), and reach is "own" or "later"; `spread` (layer, position, reach), the standard error
    of "random" over its draws.

    Raises: InputError for layers or positions that are not there, fewer than 2 draws, or a size
    that is not positive.
    """
    ids, key = as_ids(model, text), as_key(key)
    chosen = chosen_layers(model, layers)
    at = _positions(len(ids), positions)
    draws = as_integer("draws", draws, 2)
    if size is not None and not size > 0:
        raise InputError(f"size: expected a positive number, got {size!r}")
    stream = streams(model, ids)
    width = model.config.width
    kl = np.zeros((len(chosen), len(at), draws + 2, 2))
    for row, layer in enumerate(chosen):
        with block_threads() as pool:
            found = extremes_at(model, layer, stream[layer], at, pool)
        unit = random_directions(jax.random.fold_in(key, layer), (len(at), draws, width))
        special = jnp.asarray([[one.v_min, one.v_max] for one in found])
        unit = jnp.concatenate([unit, special], axis=1)  # (n, m, i)
        length = jnp.linalg.norm(stream[layer][at], axis=-1)
        noise = (unit * length[:, None, None]).reshape(-1, width)  # (n m, i)
        where = np.repeat(at, draws + 2)
        laws = _of_noise(model, layer, stream, noise, where, size)  # (n m, t)
        position = np.arange(len(ids))
        own = laws[np.arange(len(where)), where]
        later = np.where(position > where[:, None], laws, 0).sum(-1)
        kl[row] = np.stack([own, later], axis=-1).reshape(len(at), draws + 2, 2)
    random = kl[:, :, :draws]
    mean = random.mean(2, keepdims=True)
    texts = np.asarray(token_texts(model, ids), object)
    return xr.Dataset(
        {
            "kl": (
                ("layer", "position", "direction", "reach"),
                np.concatenate([mean, kl[:, :, draws:]], axis=2),
            ),
            "spread": (
                ("layer", "position", "reach"),
                random.std(2, ddof=1) / np.sqrt(draws),
            ),
        },
        coords={
            "layer": chosen,
            "position": at,
            "direction": list(NOISE_DIRECTIONS),
            "reach": ["own", "later"],
            "token": ("position", texts[at]),
        },
        attrs={"draws": draws, "size": 0.0 if size is None else float(size)},
    )


def _of_noise(
    model: Transformer, layer: int, stream: Any, noise: Any, where: np.ndarray, size: float | None
) -> np.ndarray:
    """Divergences (m, t) by noise (m, i) at positions (m,) of the stream that enters a layer."""
    found = []
    for first in range(0, len(noise), NOISES_AT_ONCE):
        some = slice(first, first + NOISES_AT_ONCE)
        rows = jnp.arange(len(noise[some]))
        dx = jnp.zeros((len(rows), *stream.shape[1:])).at[rows, where[some]].set(noise[some])
        if size is None:
            for above in range(layer, len(model.layers)):
                dx = through_layer(model, above, stream[above], dx)
            found.append(np.asarray(half_variance(model, stream[-1], dx)))
            continue
        both = []
        for signed in (size, -size):
            x = stream[layer] + signed * dx
            for above in range(layer, len(model.layers)):
                window = model.config.windows[above]
                x = layer_of_many(model.config, model.layers[above], x, window=window)
            both.append(np.asarray(divergence(model, stream[-1], x)) / size**2)
        found.append((both[0] + both[1]) / 2)
    return np.concatenate(found)


def _positions(length: int, positions: Any) -> np.ndarray:
    chosen = np.arange(length) if positions is None else np.asarray(positions)
    if chosen.ndim != 1 or not chosen.size or chosen.dtype.kind not in "iu":
        raise InputError(f"positions: expected integers, got {positions!r}")
    if chosen.min() < 0 or chosen.max() >= length:
        raise InputError(f"positions: expected 0 to {length - 1}, got {positions!r}")
    return chosen
