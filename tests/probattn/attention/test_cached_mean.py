"""The attention mean by cached steps, against the mean of the whole sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import Attention, InputError, attention_mean
from probattn.attention.cached_mean import empty_cache, mean_step

draw = np.random.default_rng(0).standard_normal
QUERY, KEY, VALUE = draw((2, 3, 4)), draw((2, 3, 4)), draw((2, 4, 4))
MAPS = {
    "strict": Attention(QUERY, KEY),
    "inclusive": Attention(QUERY, KEY, VALUE, mask="inclusive"),
    "origin and bias": Attention(QUERY, KEY, VALUE, origin=draw(4), position_bias=draw((2, 6))),
    "inclusive and bias": Attention(QUERY, KEY, mask="inclusive", position_bias=draw((2, 6))),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_steps_give_the_rows_of_the_mean(name, shift):
    attention, u = MAPS[name], jnp.asarray(draw((6, 4)) + shift)
    _, stepped = jax.lax.scan(
        lambda cache, at: mean_step(attention, cache, u[at], at),
        empty_cache(attention, 6),
        jnp.arange(6),
    )
    # Rounding of logits up to |A| |u|^2, some 10 and at a shift 1e3, passes through the softmax to
    # means of size |u|.
    size = 4 + 2 * shift
    tolerance = 50 * jnp.finfo(u.dtype).eps * size * (1 + 4 * size)
    np.testing.assert_allclose(stepped, attention_mean(attention, u), rtol=0, atol=tolerance)


def test_what_needs_the_whole_past_is_refused():
    for attention in (Attention(QUERY, KEY, contraction=0.9), Attention(QUERY[None], KEY[None])):
        with pytest.raises(InputError, match="expected one map without a contraction cap"):
            empty_cache(attention, 6)
