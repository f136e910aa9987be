"""The sampler's metric: a linear change of coordinates `z = W w`, learned from gradients.

Where the posterior of z is Gaussian, the second moment of the gradients of its log density is its
precision matrix G, and with `W W^T = G^-1` that of w is spherical. Symmetries of the model say
which entries of G are equal and which are 0: averaged over the group, G commutes with it. A
rotation of the embeddings, for example, makes all their columns share one matrix, so that each draw
counts as many times as there are columns, and few draws are enough. The metric changes the
coordinates and not the density: once it is fixed, the sampler is exact.

Letters in shapes: r row of a block, c replica of a block, n all coordinates of z.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probattn.inference.contract import NumPyroModel, SymmetricModel

MOST_ROWS = 1000  # of a block with a matrix; a larger one gets a diagonal

Metric = tuple[jax.Array, ...]  # W of each block: a matrix [r, r], or its diagonal [r]


@dataclass(frozen=True)
class Block:
    """Coordinates whose precision is one matrix over rows, the same for each replica.

    Args:
        parts: (first coordinate, number of rows) of each array in the flat vector z.
        replicas: columns of each of these arrays as (rows, replicas).
    """

    parts: tuple[tuple[int, int], ...]
    replicas: int

    @property
    def rows(self) -> int:
        """Rows of all arrays together."""
        return sum(rows for _, rows in self.parts)

    @property
    def is_diagonal(self) -> bool:
        """Whether the precision is kept as a diagonal, since a matrix would be too large."""
        return self.rows > MOST_ROWS


def blocks_of(
    model: NumPyroModel, shapes: Sequence[tuple[str, tuple[int, ...]]]
) -> tuple[Block, ...]:
    """The blocks of a model's symmetries, and of what it does not name.

    The latter is one block with a row for each coordinate; beyond MOST_ROWS a block for each array.

    Args: shapes, name and shape of each array of z, in the order of the flat vector."""
    named: Sequence[Mapping[str, int]] = (
        model.metric_blocks() if isinstance(model, SymmetricModel) else ()
    )
    shape_of = dict(shapes)
    sizes = [math.prod(shape) for _, shape in shapes]
    first = dict(zip(shape_of, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    found = []
    for block in named:
        rows = {name: math.prod(shape_of[name][:axes]) for name, axes in block.items()}
        parts = tuple((first[name], number) for name, number in rows.items())
        name = next(iter(block))
        found.append(Block(parts, math.prod(shape_of[name]) // rows[name]))
    rest = [name for name in shape_of if not any(name in block for block in named)]
    parts = tuple((first[name], math.prod(shape_of[name])) for name in rest)
    if sum(rows for _, rows in parts) > MOST_ROWS:
        return (*found, *(Block((part,), 1) for part in parts))
    return (*found, Block(parts, 1)) if parts else tuple(found)


def unit_metric(blocks: tuple[Block, ...]) -> list[np.ndarray]:
    """The metric that leaves z as it is."""
    return [np.ones(b.rows) if b.is_diagonal else np.eye(b.rows) for b in blocks]


def to_z(blocks: tuple[Block, ...], metric: Sequence[Any], w: Any) -> jax.Array:
    """`z = W w` of one flat vector [n]."""
    pieces: list[tuple[int, jax.Array]] = []
    for block, root in zip(blocks, metric, strict=True):
        rows = _rows(block, w)
        moved = root[:, None] * rows if block.is_diagonal else root @ rows
        pieces += _pieces(block, moved)
    return jnp.concatenate([piece for _, piece in sorted(pieces, key=lambda pair: pair[0])])


def to_w(blocks: tuple[Block, ...], metric: Sequence[np.ndarray], z: np.ndarray) -> np.ndarray:
    """`w = W^-1 z` of one flat vector [n], on the host."""
    pieces: list[tuple[int, np.ndarray]] = []
    for block, root in zip(blocks, metric, strict=True):
        rows = np.asarray(_rows(block, z), float)
        root = np.asarray(root, float)
        moved = rows / root[:, None] if block.is_diagonal else np.linalg.solve(root, rows)
        pieces += _pieces(block, moved)
    return np.concatenate([piece for _, piece in sorted(pieces, key=lambda pair: pair[0])])


def second_moments(blocks: tuple[Block, ...], gradient: jax.Array) -> Metric:
    """Mean over the replicas of the outer products of a gradient's [n] rows, for each block."""
    rows = [_rows(block, gradient) for block in blocks]
    return tuple(
        (row**2).mean(1) if block.is_diagonal else row @ row.T / block.replicas
        for block, row in zip(blocks, rows, strict=True)
    )


def next_metric(
    blocks: tuple[Block, ...],
    metric: Sequence[np.ndarray],
    moments: Sequence[np.ndarray],
    number: int,
) -> list[np.ndarray]:
    """The metric after a stage of warmup, whose gradients in w have these second moments.

        W' = W D^-1 C^-1/2,    moments = D C D with the diagonal of C one

    Each C is drawn towards the identity by `r / (r + number * replicas)`, the share of its entries
    among what it is estimated from.

    Args: moments, means over all draws and chains; number, of these draws.
    """
    found = []
    for block, root, moment in zip(blocks, metric, moments, strict=True):
        moment = np.asarray(moment, float)
        diagonal = moment if block.is_diagonal else np.diag(moment)
        spread = np.sqrt(np.where(diagonal > 0, diagonal, 1))
        if block.is_diagonal:
            found.append(root / spread)
            continue
        share = block.rows / (block.rows + number * block.replicas)
        correlation = (1 - share) * moment / np.outer(spread, spread)
        values, vectors = np.linalg.eigh(correlation + share * np.eye(block.rows))
        found.append(root @ (vectors * values**-0.5 / spread[:, None]) @ vectors.T)
    return found


def _rows(block: Block, flat: Any) -> Any:
    """The coordinates [n] of a block, as [r, c]."""
    parts = [
        flat[first : first + rows * block.replicas].reshape(rows, block.replicas)
        for first, rows in block.parts
    ]
    join = np.concatenate if isinstance(flat, np.ndarray) else jnp.concatenate
    return join(parts)


def _pieces(block: Block, rows: Any) -> list[tuple[int, Any]]:
    """(first coordinate, flat values) of each array of a block, from its rows [r, c]."""
    ends = np.cumsum([number for _, number in block.parts])
    return [
        (first, rows[end - number : end].reshape(-1))
        for (first, number), end in zip(block.parts, ends, strict=True)
    ]
