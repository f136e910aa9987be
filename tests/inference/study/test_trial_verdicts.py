"""Verdicts of the trial on made-up losses with known answers, and the power of its plan."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from probattn.inference.study.trial_verdicts import (
    SURE_LEVEL,
    VERDICTS,
    Effect,
    beside_rivals,
    effect,
    found_by_rate,
    relative_change,
    surely_by_holm,
    verdict,
)


def between(lower, upper):
    return Effect((lower + upper) / 2, lower, upper, 12)


NOTHING = between(np.nan, np.nan)


@pytest.mark.parametrize(
    ("noise", "clean", "expected"),
    [
        ((-0.10, -0.061), (-0.01, 0.016), "reproduced"),
        ((-0.10, -0.059), (-0.01, 0.016), "partly reproduced"),
        ((-0.10, -0.061), (-0.01, 0.018), "at a price"),
        ((-0.10, -0.001), (0.02, 0.05), "at a price"),
        ((-0.059, 0.059), (-0.016, 0.016), "equivalent"),
        ((-0.059, 0.061), (-0.016, 0.016), "refuted"),  # may do harm
        ((-0.059, 0.059), (-0.018, 0.016), "refuted"),
        ((0.01, 0.05), (-0.016, 0.016), "equivalent"),
        ((0.01, 0.50), (-0.016, 0.016), "refuted"),
        ((-0.061, 0.001), (-0.016, 0.016), "open"),
        ((np.nan, np.nan), (np.nan, np.nan), "open"),
    ],
)
def test_the_first_rule_that_applies(noise, clean, expected):
    assert verdict(between(*noise), between(*clean)) == expected
    assert expected in VERDICTS


def test_effects_are_paired_by_seed_and_students():
    plain = np.array([1.0, 2.0, 4.0])
    assert relative_change(1.1 * plain, plain).percent == "+10.0 % [+10.0, +10.0]"
    values = np.random.default_rng(0).standard_normal(12)
    found, known = effect(values), ttest_1samp(values, 0)
    bounds = known.confidence_interval(1 - 0.05 / 14)
    np.testing.assert_allclose([found.lower, found.upper], bounds)
    np.testing.assert_allclose(found.p_value, known.pvalue)
    # Interval and test agree.
    assert (found.p_value < 1 - SURE_LEVEL) == (found.lower > 0 or found.upper < 0)
    assert np.isnan(effect([0.3]).upper)
    assert effect([0.0, 0.0]).p_value == 1
    assert effect([0.5, 0.5]).p_value == 0  # a mean that no spread explains


@pytest.mark.parametrize(
    ("seeds", "cheap", "noise_alone", "clean_alone", "finds"),
    [(8, 0.71, 0.90, 0.52, 0.95), (12, 0.97, None, 0.95, None), (16, None, None, None, None)],
)
def test_the_power_is_that_of_the_plan(seeds, cheap, noise_alone, clean_alone, finds):
    """The table of the plan's section 5, None for "> 0.99"; a share of 4,000 trials has a standard
    error below 0.008, and figures of the plan are rounded to 0.01: four errors and the rounding."""
    rng, number = np.random.default_rng(0), 4000
    clean, noise = (rng.normal(0, sd, (number, seeds)) for sd in (0.0097, 0.0256))
    of_clean, of_noise = ([effect(row) for row in of] for of in (clean, noise))
    shares = {
        "cheap": np.mean([one.upper < 0.017 for one in of_clean]),
        "noise": np.mean([one.lower > -0.06 and one.upper < 0.06 for one in of_noise]),
        "clean": np.mean([one.lower > -0.017 and one.upper < 0.017 for one in of_clean]),
        "finds": np.mean([effect(row - 0.06).upper < 0 for row in noise]),
    }
    for name, stated in zip(shares, (cheap, noise_alone, clean_alone, finds), strict=True):
        if stated is None:
            assert shares[name] > 0.99, name
        else:
            assert abs(shares[name] - stated) < 4 * 0.008 + 0.005, name
    # Where nothing changes no verdict is a finding more often than the level of one interval
    # allows, on its one side: 0.05 / 28 of 4,000 are 7.1; more than 19 have probability 1e-4.
    words = [verdict(*pair) for pair in zip(of_noise, of_clean, strict=True)]
    findings = sum(word in ("reproduced", "partly reproduced", "at a price") for word in words)
    assert findings <= 19
    both = shares["noise"] * shares["clean"]  # independent here
    assert abs(words.count("equivalent") / number - both) < 4 * 0.008
    refuted = words.count("equivalent") + words.count("refuted")
    assert refuted / number > 0.89


def losses(clean, noise, spread=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "clean": clean * (1 + spread * rng.standard_normal(12)),
        "noise": noise * (1 + spread * rng.standard_normal(12)),
    }


def test_the_best_rival_is_one_that_costs_no_more():
    form = losses(1.5, 2.0, 0.005)
    rivals = {
        "weak": losses(1.5, 2.5, 0.005, 1),
        "good": losses(1.5, 1.8, 0.005, 2),
        "dear": losses(1.7, 1.2, 0.005, 3),
    }
    found = beside_rivals(form, rivals)
    assert found.rivals == {"good": 12}
    assert not found.ahead
    np.testing.assert_allclose(found.difference.mean, 2.0 / 1.8 - 1, atol=0.01)
    assert beside_rivals(form, {"weak": rivals["weak"]}).ahead
    assert beside_rivals(form, {"dear": rivals["dear"]}) is None


def test_a_rival_is_tested_on_seeds_that_did_not_choose_it():
    """Rivals of pure noise: the best of 11 on the same seeds would look surely better."""
    rng, ahead, behind = np.random.default_rng(0), 0, 0
    for _ in range(60):
        every = rng.normal(2, 0.05, (12, 12))
        form, *others = ({"clean": np.ones(12), "noise": row} for row in every)
        difference = beside_rivals(form, {str(i): one for i, one in enumerate(others)}).difference
        ahead, behind = ahead + (difference.upper < 0), behind + (difference.lower > 0)
    # At a level of 0.05 / 14, twice as often since the folds share seeds: two of 60 each have
    # probability 0.03, four 1e-4.
    assert ahead < 4
    assert behind < 4


def test_corrections():
    assert surely_by_holm([0.001, 0.02, np.nan, 0.04]) == [True, False, False, False]
    assert found_by_rate([0.001, 0.02, np.nan, 0.03]) == [True, True, False, True]
    assert surely_by_holm([]) == found_by_rate([]) == []
