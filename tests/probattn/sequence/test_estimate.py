"""Frequencies of weighted draws and their standard errors, against the formula in loops."""

import jax.numpy as jnp
import numpy as np

from probattn.sequence.estimate import exact_estimate, frequencies, mean_weight

CELL = np.array([0, 0, 1, 2, 2, 2, 0, 1, -1, 0])
LOG_WEIGHT = np.log([1.0, 2.0, 0.5, 1.0, 3.0, 0.1, 0.4, 1.0, 2.0, 1.0])


def test_frequencies_and_their_errors_follow_the_formula():
    for log_weight in (np.zeros(10), LOG_WEIGHT, LOG_WEIGHT - 500):
        weight = np.exp(log_weight - log_weight.max())
        weight = weight / weight.sum()
        found = frequencies(jnp.asarray(CELL), 4, jnp.asarray(log_weight))
        for cell in range(3):
            p = weight[np.equal(CELL, cell)].sum()
            variance = sum(w**2 * ((c == cell) - p) ** 2 for w, c in zip(weight, CELL, strict=True))
            np.testing.assert_allclose(found.value[cell], p, rtol=1e-4)
            np.testing.assert_allclose(found.standard_error[cell], np.sqrt(variance), rtol=1e-4)
        np.testing.assert_allclose(found.effective_sample_size, 1 / (weight**2).sum(), rtol=1e-4)
        # No draw fell in the last cell: its error is that of one draw, not 0.
        assert not found.value[3]
        np.testing.assert_allclose(found.standard_error[3], (weight**2).sum(), rtol=1e-4)


def test_mean_weights_and_exact_sums_say_what_they_are():
    found = mean_weight(jnp.log(jnp.array([0.1, 0.2, 0.6])))
    np.testing.assert_allclose(
        [found.value, found.standard_error], [0.3, np.std([0.1, 0.2, 0.6], ddof=1) / 3**0.5]
    )
    assert (
        str(found)
        == f"0.3 ± 0.15 (Monte Carlo: 3 draws, effective sample size {0.9**2 / 0.41:,.0f})"
    )
    assert str(exact_estimate(jnp.array(0.25), 1)) == "0.25 (exact: 1 sequence)"
    assert exact_estimate(jnp.array(0.25), 1).exact
