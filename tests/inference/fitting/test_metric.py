"""The sampler's metric against loops, against a posterior of known precision, and against the
symmetries of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from known import Line, Many

from probattn.inference.fitting.metric import (
    Block,
    blocks_of,
    next_metric,
    second_moments,
    to_w,
    to_z,
    unit_metric,
)
from probattn.models import LanguageModel

SHAPES = (("a", (3, 2)), ("b", (2, 2)), ("c", (3,)), ("d", (2, 2, 2)))


class Toy:
    """Columns of a and b share a matrix over five rows; all of d a number; c is not named."""

    def metric_blocks(self):
        return ({"b": 1, "a": 1}, {"d": 0})

    def __call__(self, data):
        raise NotImplementedError


MODEL = LanguageModel(5, 4, 3, heads=2, rank=2)
SITES = {name: prior.shape() for name, prior in sorted(MODEL.priors().items())}
BLOCKS = blocks_of(MODEL, list(SITES.items()))


def flat(**arrays):
    """The coordinates as the program has them, whatever the order of the arguments."""
    return np.asarray(ravel_pytree(arrays)[0])


def some_arrays(rng):
    return {name: rng.normal(size=shape) for name, shape in SHAPES}


def some_metric(rng, blocks):
    return [
        rng.uniform(0.5, 2, b.rows)
        if b.is_diagonal
        else rng.normal(size=(b.rows, b.rows)) + 3 * np.eye(b.rows)
        for b in blocks
    ]


def test_the_sites_of_a_block_lie_where_the_flat_vector_has_them():
    rng = np.random.default_rng(0)
    blocks, arrays = blocks_of(Toy(), SHAPES), some_arrays(rng)
    z = flat(**dict(reversed(arrays.items())))
    assert [(block.rows, block.replicas) for block in blocks] == [(5, 2), (1, 8), (3, 1)]
    assert blocks == (
        Block(((6, 2), (0, 3)), 2),  # b before a, as the model names them
        Block(((13, 1),), 8),
        Block(((10, 3),), 1),
    )
    matrix, factor, rest = metric = some_metric(rng, blocks)
    moved = matrix @ np.concatenate([arrays["b"], arrays["a"]])
    expected = flat(a=moved[2:], b=moved[:2], c=rest @ arrays["c"], d=factor[0, 0] * arrays["d"])
    # Rounding of sums of five terms.
    np.testing.assert_allclose(to_z(blocks, metric, z), expected, rtol=0, atol=1e-5)


def test_the_two_coordinates_undo_each_other(monkeypatch):
    rng = np.random.default_rng(1)
    for most in (1000, 4):
        monkeypatch.setattr("probattn.inference.fitting.metric.MOST_ROWS", most)
        blocks = blocks_of(Toy(), SHAPES)
        assert [block.is_diagonal for block in blocks] == [most == 4, False, False]
        metric, w = some_metric(rng, blocks), rng.normal(size=21)
        z = np.asarray(to_z(blocks, metric, w))
        # Rounding, magnified by matrices whose condition is below 100.
        np.testing.assert_allclose(to_w(blocks, metric, z), w, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(to_z(blocks, unit_metric(blocks), z), z)
        assert np.abs(z - w).max() > 0.5


def test_second_moments_are_means_over_replicas():
    rng = np.random.default_rng(2)
    blocks, arrays = blocks_of(Toy(), SHAPES), some_arrays(rng)
    rows = np.concatenate([arrays["b"], arrays["a"]])
    expected = (
        sum(np.outer(rows[:, c], rows[:, c]) for c in range(2)) / 2,
        [[sum(entry**2 for entry in arrays["d"].ravel()) / 8]],
        np.outer(arrays["c"], arrays["c"]),
    )
    found = second_moments(blocks, jnp.asarray(flat(**arrays)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_a_normal_posterior_becomes_spherical():
    """Its precision G has the symmetry; the gradient at a draw is N(0, G) distributed, in w that of
    z times W. Twice, since the second metric starts from one that is no multiple of the identity.
    """
    rng, number = np.random.default_rng(3), 20_000
    blocks = blocks_of(Toy(), SHAPES)
    roots = [rng.normal(size=(b.rows, b.rows)) + 2 * np.eye(b.rows) for b in blocks]
    metric = unit_metric(blocks)
    for _ in range(2):
        moments = []
        for block, root, now in zip(blocks, roots, metric, strict=True):
            gradients = now.T @ root @ rng.normal(size=(block.rows, number * block.replicas))
            moments.append(gradients @ gradients.T / (number * block.replicas))
        metric = next_metric(blocks, metric, moments, number)
        for block, root, now in zip(blocks, roots, metric, strict=True):
            spherical = now.T @ root @ root.T @ now
            # Of a mean of n squares of normal variables the standard error is (2 / n)^(1/2); the
            # shrinkage, one in 6,000 at most, is below it.
            error = np.sqrt(2 / (number * block.replicas))
            np.testing.assert_allclose(spherical, np.eye(block.rows), rtol=0, atol=5 * error)
            covariance = np.linalg.inv(root @ root.T)
            assert np.abs(now @ now.T - covariance).max() < 0.05 * np.abs(covariance).max()


def test_few_draws_shrink_correlations_towards_none():
    rng, number = np.random.default_rng(4), 3
    (block,) = blocks = (Block(((0, 4),), 2),)
    gradients = rng.normal(size=(4, number * block.replicas)) * np.array([[1], [10], [0.1], [3]])
    moment = gradients @ gradients.T / (number * block.replicas)
    (root,) = metric = [rng.normal(size=(4, 4))]
    (found,) = next_metric(blocks, metric, [moment], number)
    share = 4 / (4 + 6)
    shrunk = moment * np.where(np.eye(4) > 0, 1, 1 - share)
    np.testing.assert_allclose(
        found @ found.T, root @ np.linalg.inv(shrunk) @ root.T, rtol=1e-6, atol=1e-9
    )


def test_a_model_that_names_no_symmetries_has_one_block():
    (block,) = blocks_of(Line(), [("offset", ()), ("slopes", (2,))])
    assert (block.rows, block.replicas, block.parts) == (3, 1, ((0, 1), (1, 2)))


def test_a_large_block_has_a_diagonal():
    (block,) = blocks = blocks_of(Many(), [("theta", (1001,))])
    assert block.is_diagonal
    (ones,) = metric = unit_metric(blocks)
    np.testing.assert_array_equal(ones, np.ones(1001))
    gradient = np.arange(1001.0)
    (moment,) = second_moments(blocks, jnp.asarray(gradient))
    np.testing.assert_allclose(moment, gradient**2)
    (found,) = next_metric(blocks, [2 * one for one in metric], [np.asarray(moment)], 1)
    # What has no gradient keeps its scale.
    np.testing.assert_allclose(found, 2 / np.maximum(gradient, 1))


def rotated(z, rotation):
    """All parameters in another basis of the embeddings, a symmetry of the model's density."""
    arrays = {}
    for name, shape in SITES.items():
        first = sum(int(np.prod(SITES[n])) for n in SITES if n < name)
        array = z[first : first + int(np.prod(shape))].reshape(shape)
        if name == "value":
            array = np.einsum("hij,ik,jl->hkl", array, rotation, rotation)
        elif name != "bias":
            array = array @ rotation
        arrays[name] = array
    return flat(**arrays)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_metric_of_a_language_model_does_not_see_rotations(seed):
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    size = sum(int(np.prod(shape)) for shape in SITES.values())
    gradients = rng.normal(size=(7, size)) * rng.uniform(0.2, 5, size)

    def metric_from(gradients):
        each = [second_moments(BLOCKS, jnp.asarray(one)) for one in gradients]
        moments = [np.mean(one, axis=0) for one in zip(*each, strict=True)]
        return next_metric(BLOCKS, unit_metric(BLOCKS), moments, len(gradients))

    metric = metric_from(gradients)
    for one, other in zip(
        metric, metric_from([rotated(g, rotation) for g in gradients]), strict=True
    ):
        # Rounding, which the inverse root of a shrunk correlation hardly magnifies.
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.abs(one).max())
    z = rng.normal(size=size)
    np.testing.assert_allclose(
        to_z(BLOCKS, metric, rotated(z, rotation)),
        rotated(np.asarray(to_z(BLOCKS, metric, z)), rotation),
        rtol=0,
        atol=1e-4,
    )


def test_every_parameter_of_a_language_model_is_in_one_block():
    covered = np.concatenate(
        [
            first + np.arange(rows * block.replicas)
            for block in BLOCKS
            for first, rows in block.parts
        ]
    )
    size = sum(int(np.prod(shape)) for shape in SITES.values())
    np.testing.assert_array_equal(np.sort(covered), np.arange(size))
    assert jax.tree.map(np.shape, unit_metric(BLOCKS)) == [(14, 14), (2, 2), (1, 1), (5, 5)]
