"""The hash of data: of every row and of their shape, and not of their precision."""

import numpy as np

from probattn.inference.fitting import density
from probattn.inference.fitting.density import data_hash


def test_data_are_known_by_every_row_and_their_shape(monkeypatch):
    data = np.arange(15.0).reshape(5, 3)
    whole = data_hash(data)
    assert data_hash(data.astype(np.float32)) == whole
    assert data_hash(data.astype(int)) != whole
    thirds = data / 3  # rounded in float32
    assert data_hash(thirds) == data_hash(thirds.astype(np.float32)) != whole
    assert data_hash(thirds * 1e300) == data_hash(thirds * 1e200)  # float32 has infinity for both
    assert data_hash(data.reshape(3, 5)) != whole
    monkeypatch.setattr(density, "HASHED_ROWS", 2)  # at a time
    assert data_hash(data) == whole
    for row in range(5):
        other = data.copy()
        other[row, 1] += 1
        assert data_hash(other) != whole
