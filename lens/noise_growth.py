"""Growth of a disturbance through the layers and along a text, and continuations of a text."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Int

from probattn.checks import as_key
from probattn.errors import InputError
from probattn.lens.disturbance import half_variance, random_directions, through_layer
from probattn.lens.forward import logits_after, streams
from probattn.lens.measurement import as_ids
from probattn.lens.tokenization import token_texts


def growth(model: Any, text: Any, *, key: Any, position: int = 0, draws: int = 8) -> xr.Dataset:
    """How noise on one token's embedding grows through the layers and reaches later positions.

        size_lt = sqrt(mean over draws of |dx_lt|^2 / |x_lt|^2) / (|dx_0p| / |x_0p|)

    to first order, for random directions dx_0p at position p. At depth l the stream is the one that
    enters layer l, the last depth the one after all layers. Above 1 the noise has grown beside what
    it disturbs.

    Args:
        model: of `load_transformer`.
        text: a str, or token ids (t,), of no more than the context.
        key: random key of the directions.
        position: where the noise enters.
        draws: number of directions.

    Returns: `size` (depth, position), 0 before the position; `rate` (layer), log of the growth of
    the noise in the whole text through a layer; `kl` (position), the divergence of next-token laws
    to second order, in nats, for relative noise of length 1.

    Raises: InputError for a position that is not there, or fewer than one draw.
    """
    ids, key = as_ids(model, text), as_key(key)
    for name, value, low, high in (
        ("position", position, 0, len(ids) - 1),
        ("draws", draws, 1, 10_000),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{name}: expected {low} to {high}, got {value!r}")
    stream = streams(model, ids)
    unit = random_directions(key, (draws, model.config.width))
    start = unit * jnp.linalg.norm(stream[0][position])
    dx = jnp.zeros((draws, *stream.shape[1:])).at[:, position].set(start)  # (m, t, i)
    sizes, totals = [], []
    for depth in range(len(model.layers) + 1):
        squares = (dx**2).sum(-1).mean(0)  # (t,)
        sizes.append(np.sqrt(squares) / np.linalg.norm(stream[depth], axis=-1))
        totals.append(float(squares.sum()))
        if depth < len(model.layers):
            dx = through_layer(model, depth, stream[depth], dx)
    kl = np.asarray(half_variance(model, stream[-1], dx)).mean(0)
    return xr.Dataset(
        {
            "size": (("depth", "position"), np.stack(sizes)),
            "rate": ("layer", 0.5 * np.diff(np.log(totals))),
            "kl": ("position", kl),
        },
        coords={
            "depth": np.arange(len(model.layers) + 1),
            "layer": np.arange(len(model.layers)),
            "position": np.arange(len(ids)),
            "token": ("position", np.asarray(token_texts(model, ids), object)),
        },
        attrs={"disturbed": position, "draws": draws},
    )


def with_growth(found: xr.Dataset, grown: xr.Dataset) -> xr.Dataset:
    """A dataset of `lens` with what `growth` found on the same text, as `noise_size`.

    The noise is that of the stream which enters each of the layers that were looked at.
    """
    size = grown["size"].sel(depth=found["layer"].values).rename(depth="layer")
    return found.assign(noise_size=size.assign_coords(layer=found["layer"])).assign_attrs(
        disturbed=grown.attrs["disturbed"]
    )


def continued(
    model: Any,
    text: Any,
    number: int,
    *,
    key: Any = None,
    temperature: float | None = None,
) -> Int[np.ndarray, "t"]:
    """A text and its continuation by the model, as token ids.

    Args:
        model: of `load_transformer`.
        text: a str, or token ids (t,).
        number: of tokens to append.
        key: random key; None takes the most probable token at each step.
        temperature: by which logits are divided before a draw; None is 1.

    Raises: InputError if text and continuation are longer than the context, for a number or
    temperature that is not positive, or a temperature without a key.
    """
    ids = as_ids(model, text)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(f"number: expected 1 or more tokens, got {number!r}")
    if temperature is not None and not temperature > 0:
        raise InputError(f"temperature: expected a positive number, got {temperature!r}")
    if temperature is not None and key is None:
        raise InputError("key: expected a random key together with a temperature, got None")
    total = len(ids) + number
    if total > model.config.context:
        raise InputError(
            f"number: expected at most {model.config.context - len(ids)} tokens after "
            f"{len(ids)}, since the context is {model.config.context}, got {number}"
        )
    draws = None if key is None else jax.random.split(as_key(key), number)
    # Of full length from the start, so that there is one program; what comes later is not seen.
    whole = np.concatenate([ids, np.zeros(number, ids.dtype)])
    for step in range(number):
        last = len(ids) + step - 1
        logits = logits_after(model, streams(model, whole)[-1, last : last + 1])[0]
        if draws is None:
            whole[last + 1] = int(logits.argmax())
        else:
            scaled = logits if temperature is None else logits / temperature
            whole[last + 1] = int(jax.random.categorical(draws[step], scaled))
    return whole
