"""Shared input checks: each returns the value it accepts and raises an InputError otherwise.

All floats become JAX's default float where they enter, float32, or float64 where jax_enable_x64 is
set: loops and solvers need one type throughout, and a result then has the digits of that type."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probattn.errors import InputError

MOST = 2**31 - 1  # of an integer, so that it is one of 32 bits in either precision


def is_float(leaf: Any) -> bool:
    """Whether `leaf` is an array of floats, of any type, or a float."""
    return jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating)


def in_default_float(tree: Any) -> Any:
    """`tree` with all floats, arrays and numbers, in JAX's default float; other leaves as they are.

    Half precision and, under jax_enable_x64, float32 are widened, which is exact; without it
    float64 is rounded.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float) if is_float(leaf) else leaf, tree)


def as_float_array(name: str, value: Any) -> jax.Array:
    """`value` as an array of finite numbers in JAX's default float.

    Raises: InputError if it is no array of real numbers, or holds a NaN or an infinity. The entries
    of a traced value are not known and not checked.
    """
    try:
        with np.errstate(over="ignore"):  # too large a number becomes infinity, refused below
            array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: expected an array of numbers, got {type(value).__name__}"
        ) from error
    if not is_float(array) and not jnp.issubdtype(array.dtype, jnp.integer):
        raise InputError(f"{name}: expected real numbers, got dtype {array.dtype}")
    array = jnp.asarray(array, float)
    # numpy, since jax.numpy under jit would trace the check even of a constant.
    if not isinstance(array, jax.core.Tracer) and not np.isfinite(np.asarray(array)).all():
        raise InputError(f"{name}: expected finite numbers of {array.dtype}, got NaN or infinity")
    return array


def as_data(value: Any) -> jax.Array:
    """`value` as an array of integers or of finite numbers, sequences first.

    Raises: InputError for what is no array of numbers, sequences of different lengths among it, for
        a NaN or an infinity, or for integers of more than 32 bits, which JAX would cut off."""
    if isinstance(value, jax.Array):  # a traced one, too
        array: Any = value
    else:
        masked = isinstance(value, np.ma.MaskedArray)
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise InputError(
                "data: expected sequences of one length, got several; pad them with 0"
            ) from error
        if array.dtype.kind not in "biuf" or masked:
            kind = "a masked array" if masked else f"dtype {array.dtype}"
            raise InputError(f"data: expected an array of numbers, got {kind}; convert it first")
        if array.dtype.kind in "iu" and array.size and abs(array).max() > MOST:
            raise InputError(f"data: expected integers of at most {MOST}, got {array.max()}")
        array = array.astype(array.dtype.newbyteorder("="))
    if jnp.issubdtype(array.dtype, jnp.floating) and not isinstance(array, jax.core.Tracer):
        bad = np.argwhere(~np.isfinite(np.asarray(array)))
        if len(bad):
            raise InputError(
                f"data: expected finite numbers, got NaN or infinity in sequence {bad[0][0]}, "
                "counted from 0; leave it out"
            )
    return jnp.asarray(array)


def as_key(value: Any) -> jax.Array:
    """`value` as one JAX random key; raw integers of `jax.random.PRNGKey` become a key.

    Raises: InputError for anything else: a seed, None, a batch of keys."""
    key = value
    if isinstance(value, (jax.Array, np.ndarray)) and value.dtype == np.uint32:
        with contextlib.suppress(TypeError, ValueError):  # not the shape of a key: refused below
            key = jax.random.wrap_key_data(jnp.asarray(value))
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        got = f"an array of {value.dtype}" if hasattr(value, "dtype") else repr(value)
        raise InputError(f"key: expected a random key such as jax.random.key(0), got {got}")
    if key.ndim:
        raise InputError(
            f"key: expected one random key, got a batch of them of shape {key.shape}; give them "
            "one by one"
        )
    return key


def as_scale(value: Any, batch_shape: tuple[int, ...] = ()) -> jax.Array:
    """`value` as positive standard deviations whose shape broadcasts against `batch_shape`.

    Raises: InputError if one is not positive (unless traced), or the shapes do not broadcast.
    """
    scale = as_float_array("scale", value)
    if not isinstance(scale, jax.core.Tracer) and not (np.asarray(scale) > 0).all():
        raise InputError(f"scale: expected positive numbers, got {np.asarray(scale).min()}")
    try:
        np.broadcast_shapes(batch_shape, scale.shape)
    except ValueError as error:
        raise InputError(
            f"scale: expected a shape that broadcasts against the batch {batch_shape} (one for "
            f"each sequence or map), got {scale.shape}"
        ) from error
    return scale


def as_integer(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int. Raises: InputError unless it is an integer from `least` to MOST."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    if value > MOST:
        raise InputError(f"{name}: expected a whole number of at most {MOST}, got {value!r}")
    return int(value)
