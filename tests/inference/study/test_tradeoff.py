"""Arms compared: intervals, matching at equal cost, and the verdict on the claim, on made-up losses
with known answers."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from probattn.inference.study.tradeoff import (
    Interval,
    at_equal_cost,
    change,
    fragility,
    interval,
    judge_claim,
    losses,
    surviving,
)


def arm(name, clean, noisy):
    results = [{"clean": c, "noise": {"0.4": n}} for c, n in zip(clean, noisy, strict=True)]
    return {"name": name, "results": results}


def test_the_interval_is_students():
    values = np.random.default_rng(0).standard_normal(5)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval(values)
    np.testing.assert_allclose([found.lower, found.upper], expected)
    assert np.isnan(interval([1.0]).upper)


def test_changes_are_paired_by_seed():
    plain = arm("plain", [1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    better = arm("better", [1.1, 2.2, 4.4], [1.0, 2.0, 4.0])
    assert losses(better, "noise 0.4").tolist() == [1.0, 2.0, 4.0]
    assert change(better, plain, "noise 0.4") == Interval(-0.5, -0.5, -0.5, 3)
    assert change(better, plain, "clean").percent == "+10.0 % [+10.0, +10.0]"


def test_matching_takes_the_best_that_costs_no_more():
    barrier = arm("barrier", [1.5, 1.52], [2.01, 2.03])
    cheap = arm("cheap", [1.4, 1.42], [2.5, 2.5])
    good = arm("good", [1.5, 1.52], [1.8, 1.84])
    dear = arm("dear", [1.6, 1.62], [1.2, 1.2])
    best = at_equal_cost(barrier, [cheap, good, dear])
    assert best.baseline == "good"
    np.testing.assert_allclose(best.difference.mean, 0.2)
    assert at_equal_cost(barrier, [dear]) is None


def test_what_is_chosen_is_tested_on_other_seeds():
    """Baselines of pure noise: the best of 15 on the same seeds would look surely better."""
    rng = np.random.default_rng(0)
    words = {"ahead": 0, "behind": 0, "neither": 0}
    for _ in range(100):
        noise = rng.normal(2, 0.1, (16, 5))
        barrier, *baselines = (arm(str(i), [1.0] * 5, list(row)) for i, row in enumerate(noise))
        words[at_equal_cost(barrier, baselines).word] += 1
    # Each side in 5 % of the cases, since the folds share seeds: more with probability 0.1 %.
    assert words["behind"] <= 13
    assert words["ahead"] <= 13


def test_corrections_for_many_comparisons_by_hand():
    found = surviving([0.001, 0.02, 0.03, 0.04, 0.9])
    # Holm: 0.005, 0.08, ...; Benjamini and Hochberg: 0.005, 0.05, 0.05, 0.05, 0.9.
    assert found["Holm"].tolist() == [True, False, False, False, False]
    found = surviving([0.001, 0.012, 0.03, 0.9])
    assert found["Holm"].tolist() == [True, True, False, False]  # 0.004, 0.036, 0.06, 0.9
    assert found["Benjamini and Hochberg"].tolist() == [True, True, True, False]  # 0.04 the third


def test_fragility_is_what_chance_does_not_do():
    added = [
        {"smallest margin": 0.5, "random": 0.2, "highest entropy": 0.1, "highest gradient": 0.2}
    ] * 3
    found = fragility({"results": [{"support": one} for one in added]})
    assert {name: round(one.mean, 12) for name, one in found.items()} == {
        "smallest margin": 0.3,
        "highest entropy": -0.1,
        "highest gradient": 0.0,
    }


@pytest.mark.parametrize(
    ("clean", "noise", "verdict"),
    [
        ((0.01, 0.0, 0.02), (-0.13, -0.15, -0.11), "reproduced"),
        ((0.05, 0.04, 0.06), (-0.13, -0.15, -0.11), "partly"),  # costs more
        ((0.01, 0.0, 0.02), (-0.05, -0.08, -0.02), "partly"),  # buys less
        ((0.01, 0.0, 0.02), (-0.13, -0.3, 0.04), "not"),  # may buy nothing
        ((0.01, np.nan, np.nan), (-0.13, np.nan, np.nan), "not"),  # one seed shows nothing
    ],
)
def test_the_verdict(clean, noise, verdict):
    assert judge_claim(Interval(*clean), Interval(*noise)) == verdict
