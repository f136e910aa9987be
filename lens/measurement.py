"""What the attention layers of a pretrained transformer do at each token of a text."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from probattn.errors import InputError
from probattn.inference.devices.progress import Progress
from probattn.lens.extreme_singular_values import Extremes, extremes
from probattn.lens.forward import attention_parts, logits_after, streams
from probattn.lens.jacobian_blocks import READINGS, attention_blocks
from probattn.lens.optional import package
from probattn.lens.tokenization import encode, token_texts
from probattn.lens.transformer import Configuration, Layer, Transformer

WINDOW = 512  # tokens that are looked at together, unless the context is shorter
BLOCKS_AT_ONCE = 16
# Arrays of the size of a block that one block needs while it is made, found on SmolLM2.
ARRAYS_OF_A_BLOCK = 8
NOTES = {
    "stream": (
        "Blocks of x + attention(n(x)), which depend on the function of the layer alone. Small "
        "sigma_min: the layer forgets a direction; large sigma_max: it amplifies one."
    ),
    "mixing": (
        "Blocks of u - the heads' mean of the strict past: what attention mixes, without values. "
        "log |det| is that of the function; sigma_min changes a little with the norm's gain."
    ),
    "theory": (
        "Blocks of u - attention(u) on the normalised stream. They depend on how the weights are "
        "written: moving the norm's gain into the weights behind it leaves the network as it is "
        "and changes them, ranks of positions included."
    ),
}


def lens(
    model: Any,
    text: Any,
    reading: str = "stream",
    *,
    layers: Sequence[int] | None = None,
    window: int | None = None,
    directions: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """Margins of every layer at every token, beside what else is known of the token.

        J = I + d attention(n(x))_t / dx_t  at each layer and position (reading "stream")

    Args:
        model: of `load_transformer`.
        text: a str, or token ids (t,).
        reading: "stream", "mixing" or "theory"; see `probattn.lens.jacobian_blocks`.
        layers: which ones, counted from 0; None is all.
        window: tokens that are looked at together; a longer text is cut into such windows, each by
            itself. By default 512, or the context of the model if that is shorter.
        directions: whether to keep the unit vectors v_min and v_max too.
        progress: whether to say what it will take, and how far it is.

    Returns: a dataset with dimensions layer, position, and head or component where there is one.
    `sigma_min`, `sigma_max`, `log_det` (nats) and `sign` are of the block; `own` is the weight of a
    position for itself, `first` that for the first position, `attention_entropy` the entropy of the
    weights in nats, by head; `norm` is the length of the stream that enters; `loss` and `entropy`
    are of the law of the next token, in nats, loss NaN where the next token is not known. Memory
    does not grow with the number of windows but for these results.

    Raises: InputError for an unknown reading, a layer that is not there, a window below 2, ids that
    the model does not have, and text for a model without a tokenizer.
    """
    if reading not in READINGS:
        raise InputError(f"reading: expected one of {', '.join(READINGS)}, got {reading!r}")
    ids = as_ids(model, text)
    chosen = chosen_layers(model, layers)
    length = _window(model, window)
    if progress:
        print(estimated_cost(model, ids, len(chosen), reading, length), file=sys.stderr, flush=True)
    found, done = [], 0
    with block_threads() as pool, Progress("lens", len(chosen) * len(ids), progress) as bar:
        for first in range(0, len(ids), length):
            piece, after = ids[first : first + length], ids[first + length : first + length + 1]
            stream = streams(model, piece)
            rows = []
            for layer in chosen:
                rows.append(_of_layer(model, layer, stream[layer], reading, directions, pool))
                done += len(piece)
                bar.update(done, bar.time_left(done))
            along = xr.concat(rows, xr.IndexVariable("layer", chosen))
            found.append(along.merge(_of_next_token(model, stream[-1], piece, after)))
    whole = xr.concat(found, "position", data_vars="minimal")
    whole = whole.assign_coords(
        position=np.arange(len(ids)),
        token=("position", np.asarray(token_texts(model, ids), object)),
        token_id=("position", ids),
        window=("position", np.arange(len(ids)) // length),
    )
    return whole.assign_attrs(
        reading=reading, note=NOTES[reading], family=model.config.family, width=model.config.width
    )


@dataclass(frozen=True)
class Cost:
    """What a measurement takes: seconds, by a few of its blocks, and bytes beside the weights."""

    blocks: int
    width: int
    seconds: float
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.blocks:,} blocks of width {self.width}: about {self.seconds:,.0f} s on this "
            f"machine, and {self.bytes / 2**30:.1f} GiB beside the weights"
        )


def estimated_cost(
    model: Transformer, ids: np.ndarray, layers: int, reading: str, length: int
) -> Cost:
    """The cost of a measurement, from a few blocks of the first layer. It grows with width^3."""
    piece = ids[:length]
    stream = streams(model, piece)
    number = len(ids) * layers
    few = min(len(piece), BLOCKS_AT_ONCE)
    with block_threads() as pool:
        extremes_at(model, 0, stream[0], np.arange(few), pool, reading)  # compiles
        started = time.perf_counter()
        extremes_at(model, 0, stream[0], np.arange(few), pool, reading)
        seconds = (time.perf_counter() - started) / few * number
    width, itemsize = model.config.width, stream.dtype.itemsize
    weights = 4 * model.config.heads * len(piece) ** 2
    memory = BLOCKS_AT_ONCE * ARRAYS_OF_A_BLOCK * width**2 + weights + stream.size
    return Cost(number, width, seconds, memory * itemsize)


def _of_layer(
    model: Transformer, layer: int, x: Any, reading: str, directions: bool, pool: Any
) -> xr.Dataset:
    """What is known of each position in one layer."""
    found = extremes_at(model, layer, x, np.arange(len(x)), pool, reading)
    names = ("sigma_min", "sigma_max", "log_det", "sign")
    data: dict[str, Any] = {
        name: ("position", np.array([getattr(one, name) for one in found])) for name in names
    }
    if directions:
        for name in ("v_min", "v_max"):
            vectors = np.stack([getattr(one, name) for one in found])
            data[name] = (("position", "component"), vectors)
    own, first, entropy = _weights(
        model.config, model.layers[layer], x, model.config.windows[layer]
    )
    for name, values in (("own", own), ("first", first), ("attention_entropy", entropy)):
        data[name] = (("head", "position"), np.asarray(values))
    data["norm"] = ("position", np.asarray(jnp.linalg.norm(x, axis=-1)))
    return xr.Dataset(data)


def extremes_at(
    model: Transformer,
    layer: int,
    x: Any,
    positions: np.ndarray,
    pool: ThreadPoolExecutor,
    reading: str = "stream",
) -> list[Extremes]:
    """The extremes of the blocks of one layer at some positions, piece by piece.

    While threads of the host look at one piece, the device makes the next.
    """
    pending: list = []
    for first in range(0, len(positions), BLOCKS_AT_ONCE):
        some = positions[first : first + BLOCKS_AT_ONCE]
        # Of one shape always, so that there is one program: the last position is repeated.
        at = np.pad(some, (0, BLOCKS_AT_ONCE - len(some)), mode="edge")
        blocks = attention_blocks(
            model.config,
            model.layers[layer],
            x,
            at,
            window=model.config.windows[layer],
            reading=reading,
        )
        pending.append(pool.map(extremes, np.asarray(blocks)[: len(some)]))
        if len(pending) > 2:
            pending[-3] = list(pending[-3])  # waits, so that few blocks are held
    return [one for piece in pending for one in piece]


@partial(jax.jit, static_argnames=("config", "window"))
def _weights(config: Configuration, layer: Layer, x: Any, window: int | None) -> Any:
    """Weights for oneself and for the first position, and the entropy of weights, (h, t) each."""
    alpha = attention_parts(config, layer, x, window=window).alpha
    entropy = -jax.scipy.special.xlogy(alpha, alpha).sum(-1)
    return jnp.diagonal(alpha, axis1=-2, axis2=-1), alpha[..., 0], entropy


def _of_next_token(
    model: Transformer, stream: Any, piece: np.ndarray, after: np.ndarray
) -> xr.Dataset:
    """Loss and entropy of the law of the token that follows each position."""
    rows = jax.nn.log_softmax(logits_after(model, stream))  # (t, v)
    following = np.concatenate([piece[1:], after])
    loss = np.full(len(piece), np.nan)
    loss[: len(following)] = -np.asarray(rows[np.arange(len(following)), following])
    entropy = np.asarray(-(jnp.exp(rows) * rows).sum(-1))
    return xr.Dataset({"loss": ("position", loss), "entropy": ("position", entropy)})


@contextlib.contextmanager
def block_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for `extremes`, each with a BLAS of one thread: more would wait for each other."""
    limits = package("threadpoolctl").threadpool_limits(1, "blas")
    with limits, ThreadPoolExecutor(os.cpu_count()) as pool:
        yield pool


def chosen_layers(model: Transformer, layers: Any) -> list[int]:
    """Numbers of layers, all for None. Raises: InputError for what is no layer or there twice."""
    number = len(model.layers)
    chosen = list(range(number)) if layers is None else [*layers]
    wrong = [
        one
        for one in chosen
        if isinstance(one, bool) or not isinstance(one, (int, np.integer)) or not 0 <= one < number
    ]
    if wrong or not chosen or len({*chosen}) < len(chosen):
        raise InputError(
            f"layers: expected numbers from 0 to {number - 1}, each once, got {layers!r}"
        )
    return [int(one) for one in chosen]


def _window(model: Transformer, window: Any) -> int:
    most = model.config.context
    if window is None:
        return min(WINDOW, most)
    if isinstance(window, bool) or not isinstance(window, int) or not 2 <= window <= most:
        raise InputError(f"window: expected 2 to {most} tokens, got {window!r}")
    return window


def as_ids(model: Any, text: Any) -> np.ndarray:
    """Token ids of a text that is a str or ids. Raises: InputError for anything else."""
    if not isinstance(model, Transformer):
        raise InputError(f"model: expected one of `load_transformer`, got {type(model).__name__}")
    if isinstance(text, str):
        return encode(model, text)
    try:
        ids = np.asarray(text)
    except ValueError as error:  # rows of different lengths
        raise InputError("text: expected a str or token ids (t,), got rows of them") from error
    if not ids.size:
        raise InputError("text: expected at least one token, got none")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(
            f"text: expected a str or token ids (t,), got {ids.dtype} of shape {ids.shape}"
        )
    return ids
