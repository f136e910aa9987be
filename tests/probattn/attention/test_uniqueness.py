"""Where the density is one: quadrature, root counts, and the certificates that promise it (theory,
section 4)."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probattn import (
    Attention,
    InputError,
    certified,
    expected_roots,
    jacobian_blocks,
    path_log_density,
    residuals,
)

KEYS = jnp.asarray([[-1.0], [1.0]])


def after(past, tokens):
    """Sequences that end in each of the tokens (n, dim) after the same past."""
    return jnp.concatenate(
        [jnp.broadcast_to(past, (len(tokens), *past.shape)), tokens[:, None]], axis=1
    )


def plane(reach, count):
    axis = jnp.linspace(-reach, reach, count)
    return jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2), (
        2 * reach / (count - 1)
    ) ** 2


def integrals(attention, past, scale, grid, cell):
    """Of N(F) over det J > 0, of N(F) det J, and of N(F) |det J|, on a grid: their smooth parts
    converge fast."""
    u = after(past, grid)
    e, det = residuals(attention, u)[:, -1], jnp.linalg.det(jacobian_blocks(attention, u)[:, -1])
    normal = jnp.exp(-0.5 * (e**2).sum(-1) / scale**2) / (2 * jnp.pi * scale**2) ** (
        attention.dim / 2
    )
    return [
        float((normal * part).sum() * cell) for part in (jnp.maximum(det, 0), det, jnp.abs(det))
    ]


@pytest.mark.parametrize(("gain", "expected"), [(1.0, 1.0), (1.5, 1.4360), (3.0, 2.2301)])
def test_the_theorys_one_dimensional_figures(gain, expected):
    attention = Attention.from_interaction([[[gain]]])
    count = expected_roots(attention, KEYS, 0.5)
    assert (count.standard_error, count.unbalanced) == (0, 0)
    np.testing.assert_allclose(count.expected, expected, rtol=0, atol=5e-5)
    grid = jnp.linspace(-8, 8, 160_001)[:, None]
    local, degree, roots = integrals(attention, KEYS, 0.5, grid, 1e-4)
    np.testing.assert_allclose(degree, 1, rtol=0, atol=1e-9)  # normalised whatever the gain
    np.testing.assert_allclose(
        roots, count.expected, rtol=0, atol=1e-7
    )  # the kinks cost the grid h^2
    np.testing.assert_allclose(local, (count.expected + 1) / 2, rtol=0, atol=1e-7)
    scored = jnp.exp(path_log_density(attention, after(KEYS, grid), 0.5)[:, -1]).sum() * 1e-4
    np.testing.assert_allclose(scored, local, rtol=0, atol=1e-9)


@pytest.mark.parametrize("contraction", [0.5, 0.99])
@pytest.mark.parametrize("gain", [1.0, 1000.0])
@pytest.mark.parametrize("dim", [1, 2])
def test_under_the_cap_the_density_integrates_to_one_for_any_parameter_and_history(
    dim, gain, contraction
):
    for seed, spread in ((0, 0.3), (1, 3.0)):
        draw = np.random.default_rng(seed).standard_normal
        attention = Attention(
            gain * draw((2, 2, dim)),
            draw((2, 2, dim)),
            draw((2, dim, dim)),
            contraction=contraction,
        )
        past = jnp.asarray(spread * draw((3, dim)))
        reach = float(jnp.abs(attention.value).sum() * jnp.abs(past).max()) + 8
        if dim == 1:
            grid, cell = jnp.linspace(-reach, reach, 20_001)[:, None], 2 * reach / 20_000
        else:
            grid, cell = plane(reach, 501)
        total = jnp.exp(path_log_density(attention, after(past, grid), 1.0)[:, -1]).sum() * cell
        np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("contraction", [0.5, 0.99])
def test_the_cap_is_tight_and_leaves_one_root(contraction):
    attention = Attention(np.full((1, 1, 1), 1e4), np.ones((1, 1, 1)), contraction=contraction)
    # Between two keys, where both weigh 1/2, S is D^2 / 4: the slope of the mean comes within g/(g
    # + kappa) of kappa.
    slope = 1 - jacobian_blocks(attention, after(KEYS, jnp.zeros((1, 1))))[0, -1, 0, 0]
    np.testing.assert_allclose(slope, 1e4 / (1 + 1e4 / contraction), rtol=1e-12)
    np.testing.assert_allclose(expected_roots(attention, KEYS, 0.1).expected, 1, rtol=0, atol=1e-12)


def test_counting_roots_in_the_plane_agrees_with_quadrature():
    attention = Attention.from_interaction(3 * jnp.eye(2)[None])
    past = jnp.asarray([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    grid, cell = plane(6, 601)
    _, degree, expected = integrals(attention, past, 0.5, grid, cell)
    np.testing.assert_allclose(degree, 1, rtol=0, atol=1e-9)
    assert expected > 1.7
    count = expected_roots(
        attention, past, 0.5, key=jax.random.key(0), num_samples=150, num_starts=24
    )
    assert count.unbalanced <= 0.02  # roots known to be missed
    assert abs(count.expected - expected) < 4 * count.standard_error + 2 * count.unbalanced
    capped = Attention(attention.query, attention.key, contraction=0.99)
    count = expected_roots(capped, past, 0.5, key=jax.random.key(0), num_samples=150, num_starts=24)
    assert count == (1.0, 0.0, 0.0)


def test_certificates_hold_only_where_there_is_one_root():
    draw = np.random.default_rng(2).standard_normal
    proved = 0
    for _ in range(20):
        attention = Attention.from_interaction(2 * draw((1, 1, 1)))
        u = jnp.asarray(draw((4, 1)))
        if certified(attention, u)[-1]:
            proved += 1
            np.testing.assert_allclose(
                expected_roots(attention, u[:-1], 0.3).expected, 1, rtol=0, atol=1e-9
            )
    assert 4 < proved < 16


def test_each_certificate_from_its_formula():
    u = jnp.asarray(np.random.default_rng(0).standard_normal((5, cases.DIM)))
    past = [u[:t] for t in range(5)]
    squared = [max([float(((a - b) ** 2).sum()) for a in p for b in p], default=0.0) for p in past]

    several = cases.attention(2, value=True)
    gain = sum(
        np.linalg.norm(v, 2) * np.linalg.norm(a, 2)
        for v, a in zip(several.value, several.interaction, strict=True)
    )
    for strength in (0.1, 1.0):
        scaled = Attention(several.query * strength / gain, several.key, several.value)
        np.testing.assert_array_equal(certified(scaled, u), [strength * d / 4 < 1 for d in squared])

    one = cases.attention(rank=3)
    largest = np.linalg.eigvalsh(one.interaction[0] + one.interaction[0].T)[-1] / 2
    for strength in (0.1, 1.0):
        expected = [strength * d / 4 < 1 for d in squared]
        for value in (None, np.eye(cases.DIM)[None]):
            scaled = Attention(one.query * strength / largest, one.key, value)
            np.testing.assert_array_equal(certified(scaled, u), expected)
    assert not all(expected)

    assert certified(cases.PROPER["contracted"], 100 * u).all()
    assert certified(cases.PROPER["dissipative"], 100 * u).all()
    assert not certified(several, 100 * u)[2:].any()
    assert certified(several, 100 * u)[:2].all()  # two positions have nothing to choose between


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(attention=cases.attention(mask="inclusive"), past=np.ones((2, 3))), "strict"),
        (
            dict(attention=cases.attention(), past=np.ones((2, 2))),
            r"past: expected shape .*dim 3\), got \(2, 2\)",
        ),
        (dict(attention=cases.attention(), past=np.ones((0, 3))), r"past: .*got \(0, 3\)"),
        (dict(attention=cases.attention(), past=np.ones((2, 3))), "key: expected a random key"),
        (
            dict(attention=cases.attention(), past=np.ones((2, 3)), scale=-1.0),
            "scale: expected positive",
        ),
        (
            dict(attention=cases.attention(), past=np.ones((2, 3)), scale=np.ones(2)),
            "one map and one scale",
        ),
        (
            dict(
                attention=cases.attention(),
                past=np.ones((2, 3)),
                key=jax.random.key(0),
                num_samples=1,
            ),
            "num_samples.*got 1 and 64",
        ),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        expected_roots(**arguments)


def test_certified_refuses_the_inclusive_mask():
    with pytest.raises(InputError, match="strict"):
        certified(cases.attention(mask="inclusive"), np.ones((3, 3)))
