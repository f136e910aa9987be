"""Rank correlations: SciPy's, what a control takes away, coverage of the interval, bad input."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from probattn import InputError
from probattn.lens import rank_correlations


def made(generator, effect, length=40, layers=3):
    """Figures a and b that share a cause c."""
    c = generator.normal(size=length)
    noise = generator.normal(size=(2, layers, length))
    return xr.Dataset(
        {
            "a": (("layer", "position"), c + noise[0]),
            "b": (("layer", "position"), effect * c + noise[1]),
            "c": ("position", c),
        },
        coords={"position": np.arange(length), "layer": np.arange(layers)},
    )


def test_without_controls_it_is_the_mean_of_spearmans():
    generator = np.random.default_rng(0)
    texts = [made(generator, 1.0) for _ in range(3)]
    found = rank_correlations(texts, "a", ["b", "c", "position"])
    wanted = [np.mean([spearmanr(one.a[k], one.b[k])[0] for k in range(3)]) for one in texts]
    np.testing.assert_allclose(found.texts.sel(other="b"), wanted)
    assert float(found.rho.sel(other="b")) == pytest.approx(np.mean(wanted))
    assert (found.low < found.rho).all()


def test_what_is_given_takes_its_part_away():
    generator = np.random.default_rng(1)
    texts = [made(generator, 3.0) for _ in range(20)]
    plain, given = (rank_correlations(texts, "a", ["b"], some) for some in ([], ["c"]))
    assert float(plain.low[0]) > 0.4
    assert float(given.low[0]) < 0.1 < float(plain.rho[0])


def test_the_interval_holds_what_it_says():
    """Independent figures: 0 is outside in at most 5 % of 400 trials, plus 3.3 standard errors; and
    more often than by half of that, or the interval would be too wide to be of use."""
    generator = np.random.default_rng(2)
    outside = 0
    for _ in range(400):
        found = rank_correlations([made(generator, 0.0, 15, 1) for _ in range(6)], "a", ["b"])
        outside += not float(found.low[0]) < 0 < float(found.high[0])
    assert 0.25 * 20 < outside < 20 + 3.3 * np.sqrt(19)


@pytest.mark.parametrize(
    ("number", "of", "options", "message"),
    [
        (0, "a", {}, "found: expected a list of two datasets"),
        (1, "a", {}, "found: expected a list of two datasets"),
        (2, "x", {}, "x: expected one of"),
        (2, "a", {"level": 1.0}, "level: expected"),
    ],
)
def test_bad_input_is_one_line(number, of, options, message):
    texts = [made(np.random.default_rng(0), 0.0)] * number
    with pytest.raises(InputError, match=message):
        rank_correlations(texts, of, ["b"], **options)
