"""What a GPU must give: the figures of the CPU, at full precision, with chains side by side.
Skipped without one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import Attention, AttentionProcess
from probattn.attention.determinant import LARGEST_UNROLLED
from probattn.inference import fit_map, sample_posterior
from probattn.inference.devices.device_placement import place_chains
from probattn.models import LanguageModel

TOKENS = np.tile([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0], [3, 3, 2, 1, 0]], (20, 1))
KEY = jax.random.key(0)


def gpu():
    try:
        return jax.devices("gpu")[0]
    except RuntimeError:
        pytest.skip("needs a GPU")


def value_and_gradient(dim, rank):
    draw = np.random.default_rng(0).standard_normal
    query, key = (jnp.asarray(0.3 * draw((1, rank, dim))) for _ in range(2))
    u = jnp.asarray(draw((200, 16, dim)))
    density = lambda *at: AttentionProcess(Attention(*at[:2]), 1.0, 16).log_prob(at[2]).mean()  # noqa: E731
    return jax.value_and_grad(density, (0, 1, 2))(query, key, u)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dim", "rank"), [(4, 4), (16, 2), (LARGEST_UNROLLED + 1, LARGEST_UNROLLED + 1)]
)
def test_density_and_gradient_are_those_of_the_cpu(dim, rank):
    on_gpu = gpu()
    with jax.default_device(jax.devices("cpu")[0]):
        expected = value_and_gradient(dim, rank)
    with jax.default_device(on_gpu):
        found = value_and_gradient(dim, rank)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = np.abs(np.asarray(other)).max()
        # Sums of at most 200 terms at full precision; products of 10 bits would be off by 1e-3.
        np.testing.assert_allclose(one, other, rtol=0, atol=200 * np.finfo(other.dtype).eps * scale)


@pytest.mark.gpu
def test_fits_run_there_with_chains_side_by_side():
    gpu()
    assert place_chains(4).method == "vectorised" or jax.local_device_count() >= 4
    model = LanguageModel(4, 5, 2)
    assert np.isfinite(
        fit_map(model, TOKENS, key=KEY, num_steps=50, progress=False).stats["loss"]
    ).all()
    settings = dict(
        num_chains=4, num_warmup=20, num_samples=20, max_tree_depth=4, start="prior", progress=False
    )
    assert sample_posterior(model, TOKENS, key=KEY, **settings).shape == (4, 20)


def test_products_are_at_full_precision_wherever_they_run():
    """On a CPU all are; a GPU reads it from the program."""
    draw = np.random.default_rng(0).standard_normal
    process = AttentionProcess(Attention(draw((1, 2, 3)), draw((1, 2, 3))), 1.0, 5)
    model = LanguageModel(4, 5, 2)
    z = {name: jnp.zeros(prior.shape()) for name, prior in model.priors().items()}
    for function, argument in (
        (lambda u: process.log_prob(u).sum(), jnp.asarray(draw((4, 5, 3)))),
        (lambda z: model.log_likelihood(z, TOKENS).sum(), z),
    ):
        program = jax.jit(jax.grad(function)).lower(argument).as_text()
        products = [line for line in program.splitlines() if "dot_general" in line]
        assert products
        assert [line for line in products if "HIGHEST" not in line] == []


def test_nothing_in_the_density_calls_the_host_or_a_library_of_the_cpu():
    draw = np.random.default_rng(0).standard_normal
    process = AttentionProcess(Attention(draw((2, 2, 8)), draw((2, 2, 8)), contraction=0.9), 1.0, 5)
    program = (
        jax.jit(jax.value_and_grad(lambda u: process.log_prob(u).sum()))
        .lower(jnp.asarray(draw((4, 5, 8))))
        .as_text()
    )
    assert "custom_call" not in program.replace("@Sharding", "")
