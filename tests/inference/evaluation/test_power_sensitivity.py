"""What decides what: sensitivities against a slow twin, and against what is known to matter."""

import dataclasses

import numpy as np
import pytest

from probattn import InputError
from probattn.inference import plot_power_scaling, power_scaling
from probattn.inference.evaluation.power_sensitivity import _chance_of, _sensitivities
from probattn.inference.report.power_figure import said_of


def distance(values, weights):
    """Cumulative Jensen-Shannon distance of the weighted law from the even one, by a loop."""
    order = np.argsort(values)
    x, w = values[order], weights[order]
    above = below = bound = 0.0
    for i in range(len(x) - 1):
        width, p, q = x[i + 1] - x[i], (i + 1) / len(x), w[: i + 1].sum()
        middle = (p + q) / 2
        above += width * (p * np.log2(p / middle) + (q - p) / (2 * np.log(2)))
        below += width * (q * np.log2(q / middle) + (p - q) / (2 * np.log(2)))
        bound += width * (p + q)
    return np.sqrt(max(above, 0) + max(below, 0)) / np.sqrt(bound)


def test_sensitivities_are_distances_over_powers():
    """By weights without smoothing, which at powers this near 1 changes next to nothing."""
    rng = np.random.default_rng(0)
    part = rng.normal(size=(4, 250))
    quantity = 0.5 * part + rng.normal(size=part.shape)
    expected = []
    for power in (0.99, 1.01):
        weights = np.exp((power - 1) * part.ravel())
        weights /= weights.sum()
        flat = quantity.ravel()
        far = max(distance(flat, weights), distance(-flat, weights))
        expected.append(far / abs(np.log2(power)))
    found = _sensitivities({"quantity": quantity}, part)["quantity"]
    assert found == pytest.approx(np.mean(expected), rel=0.02)


def test_what_is_decided_is_above_chance(fits, corpus):
    posterior = fits["posterior"]
    found = power_scaling(posterior, corpus.heldout)
    assert found.parts == ("prior", "path", "likelihood")
    assert {"held-out loss", "smallest margin", "sharpness of attention", "size of bias"} <= set(
        found.sensitivity
    )
    for part in found.parts:
        surely = found.decided_by(part)
        values = [found.sensitivity[name][part] for name in surely]
        assert values == sorted(values, reverse=True)
        assert all(value > found.limit(part) for value in values)
    plain = dataclasses.replace(
        posterior, model=dataclasses.replace(posterior.model, barrier_weight=0.0)
    )
    assert power_scaling(plain, corpus.heldout).parts == ("prior", "likelihood")
    ax = plot_power_scaling(found)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(found.sensitivity)[::-1]
    assert len(said_of(found)) == 3


def test_chance_is_what_independent_quantities_show():
    """Of quantities that have nothing to do with the part some 5 of 100 are above the limit."""
    rng, above = np.random.default_rng(2), []
    for _ in range(20):
        part = 10 * rng.normal(size=(4, 100))
        quantities = {str(k): rng.normal(size=part.shape) for k in range(10)}
        limit = _chance_of(quantities, part)
        above += [value > limit for value in _sensitivities(quantities, part).values()]
    # 200 quantities: 10 expected, standard deviation 3; the limit itself is estimated.
    assert 1 <= sum(above) <= 22
    assert limit > 0.1  # a fixed limit of 0.05 would have called most of them sensitive


def test_other_fits_are_refused(fits, corpus):
    with pytest.raises(InputError, match="at least 25 draws of Markov chains"):
        power_scaling(fits["map"], corpus.heldout)
