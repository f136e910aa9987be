"""Growth of a disturbance through the layers and along a text, and continuations of a text."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from probattn.attention.attention import Attention
from probattn.attention.noise_propagation import sensitivity
from probattn.checks import as_float_array, as_integer, as_key
from probattn.errors import InputError
from probattn.lens.disturbance import half_variance, random_directions, through_layer
from probattn.lens.forward import logits_after, streams
from probattn.lens.measurement import as_ids
from probattn.lens.tokenization import token_texts


def growth(model: Any, text: Any, *, key: Any, position: Any = 0, draws: Any = 8) -> xr.Dataset:
    """How noise on one token's embedding grows through the layers and reaches later positions.

        size_lt = sqrt(mean over draws of |dx_lt|^2 / |x_lt|^2) / (|dx_0p| / |x_0p|)

    to first order, for random directions dx_0p at position p. At depth l the stream is the one that
    enters layer l, the last depth the one after all layers. Above 1 the noise has grown beside what
    it disturbs.

    Of an `Attention` the noise is that of the theory's process u_t = mu_t(u_t; u_<t) + e_t: it
    enters at depth 0, at depth 1 it is what `sensitivity` makes of it, and a small margin of the
    token amplifies it.

    Args:
        model: of `load_transformer`, or an `Attention`.
        text: a str, or token ids (t,), of no more than the context; for an `Attention` embeddings
            (t, i).
        key: random key of the directions.
        position: where the noise enters.
        draws: number of directions.

    Returns: `size` (depth, position), 0 before the position; `rate` (layer), log of the growth of
    the noise in the whole text through a layer; of a transformer also `kl` (position), the
    divergence of next-token laws to second order, in nats, for relative noise of length 1.

    Raises: InputError for a position that is not there, or fewer than one draw.
    """
    of_process = isinstance(model, Attention)
    ids = None if of_process else as_ids(model, text)
    stream = _of_process(model, text) if of_process else streams(model, ids)  # (depth, t, i)
    length, width = stream.shape[1:]
    draws, position = as_integer("draws", draws), as_integer("position", position, 0)
    if position >= length:
        raise InputError(f"position: expected 0 to {length - 1}, got {position}")
    start = random_directions(as_key(key), (draws, width)) * jnp.linalg.norm(stream[0][position])
    dx = jnp.zeros((draws, length, width)).at[:, position].set(start)  # (m, t, i)
    through = _through_process if of_process else through_layer
    sizes, totals = [], []
    for depth, x in enumerate(stream):
        dx = through(model, depth - 1, stream[depth - 1], dx) if depth else dx
        squares = (dx**2).sum(-1).mean(0)  # (t,)
        sizes.append(np.sqrt(squares) / np.linalg.norm(x, axis=-1))
        totals.append(float(squares.sum()))
    found = xr.Dataset(
        {
            "size": (("depth", "position"), np.stack(sizes)),
            "rate": ("layer", 0.5 * np.diff(np.log(totals))),
        },
        coords={
            "depth": np.arange(len(stream)),
            "layer": np.arange(len(stream) - 1),
            "position": np.arange(length),
        },
        attrs={"disturbed": position, "draws": draws},
    )
    if ids is None:
        return found
    return found.assign(
        kl=("position", np.asarray(half_variance(model, stream[-1], dx)).mean(0))
    ).assign_coords(token=("position", np.asarray(token_texts(model, ids), object)))


def _of_process(attention: Attention, embeddings: Any) -> Float[Array, "2 t i"]:
    """The embeddings where the noise enters and where it has acted, as the streams of one layer."""
    u = as_float_array("text", embeddings)
    if u.ndim != 2 or u.shape[1] != attention.dim or not len(u):
        raise InputError(
            f"text: expected embeddings (t, {attention.dim}) of an Attention, got shape {u.shape}"
        )
    return jnp.stack([u, u])


def _through_process(
    attention: Attention, layer: int, u: Float[Array, "t i"], dx: Float[Array, "m t i"]
) -> Float[Array, "m t i"]:
    """What noise dx makes of the embeddings of the process, to first order."""
    return jnp.einsum("tisj,msj->mti", sensitivity(attention, u), dx)


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
    number: Any,
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
    ids, number = as_ids(model, text), as_integer("number", number)
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
