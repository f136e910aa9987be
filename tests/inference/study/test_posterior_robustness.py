"""The posterior beside MAP, MAP with barrier and ensemble under noise and typos."""

import numpy as np
import pytest

from probattn.inference.evaluation.perturbations import DISTURBANCES
from probattn.inference.study.posterior_robustness import (
    BARRIER,
    ENSEMBLE,
    PLAIN,
    POSTERIOR,
    compare_under_disturbance,
    judge_averaging,
)
from probattn.models import LanguageModel


@pytest.fixture(scope="module")
def posterior():
    tokens = np.random.default_rng(0).integers(1, 4, (40, 8))
    models = [LanguageModel(4, 8, 1, barrier_weight=weight) for weight in (0.0, 0.05)]
    return compare_under_disturbance(
        *models, tokens[:30], tokens[30:], num_members=2, num_warmup=100, num_samples=50
    )


def test_every_fit_has_every_curve(posterior):
    assert set(posterior["curves"]) == set(DISTURBANCES)
    for disturbance, of in posterior["curves"].items():
        assert list(of) == [PLAIN, BARRIER, ENSEMBLE, POSTERIOR]
        for name, curve in of.items():
            assert len(curve["levels"]) == len(curve["loss"]) == len(curve["averaged"])
            if name == POSTERIOR:
                continue
            # The paired difference is the difference of the curves that average over as many
            # noises.
            ours, theirs = of[POSTERIOR]["averaged"], curve["averaged"]
            for level, (value, error) in enumerate(posterior["posterior_minus"][disturbance][name]):
                np.testing.assert_allclose(value, ours[level][0] - theirs[level][0], atol=1e-5)
                assert error > 0
    assert set(posterior["verdicts"]) == {PLAIN, BARRIER, ENSEMBLE, POSTERIOR}


def test_the_words():
    made_up = {
        "embedding noise": {BARRIER: [[-0.1, 0.02], [0.0, 0.1], [0.3, 0.1]]},
        "swap": {BARRIER: [[0.01, 0.02]]},
    }
    assert judge_averaging({"posterior_minus": made_up}) == {
        "embedding noise": "clean: helps, disturbed: hurts",
        "swap": "clean: no difference, disturbed: no difference",
    }
