"""Whether averaging over a posterior withstands noise and typos, beside MAPs and an ensemble."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from probattn.errors import InputError
from probattn.inference.evaluation.convergence import diagnose
from probattn.inference.evaluation.measured import Measured
from probattn.inference.evaluation.perturbations import DISTURBANCES, Robustness, robustness
from probattn.inference.fitting.ensemble import fit_ensemble
from probattn.inference.fitting.map import fit_map
from probattn.inference.fitting.posterior import sample_posterior

PLAIN, BARRIER, ENSEMBLE, POSTERIOR = "MAP", "MAP with barrier", "ensemble", "posterior"


def compare_under_disturbance(
    plain: Any,
    barrier: Any,
    data: np.ndarray,
    heldout: np.ndarray,
    *,
    num_members: int = 3,
    num_warmup: int = 200,
    num_samples: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Held-out loss of four fits of a small LanguageModel under embedding noise and typos.

    The fits are a MAP of the model without the barrier, and a MAP, an ensemble and a posterior of
    the model with it.

    Args:
        plain, barrier: the model without the barrier and with it.
        data, heldout: training and held-out tokens, (num_sequences, length).
        num_members: of the ensemble.
        num_warmup, num_samples: of each of the posterior's four chains.
        seed: of all fits.

    Returns: a dictionary with, among others,

        curves           by disturbance and fit: `levels`, `loss`, and `averaged`, the loss of the
                         mean probability over as many noises as a posterior has draws; losses are
                         [value, standard error across sequences] at each level
        posterior_minus  by disturbance and fit: the posterior's loss minus that of the fit, paired,
                         [value, standard error] at each level
        verdicts         by fit, in words
    """
    quiet: dict[str, Any] = {"key": jax.random.key(seed), "progress": False}
    fits = {
        PLAIN: fit_map(plain, data, **quiet),
        BARRIER: fit_map(barrier, data, **quiet),
        ENSEMBLE: fit_ensemble(barrier, data, num_members=num_members, **quiet),
        POSTERIOR: sample_posterior(
            barrier, data, num_chains=4, num_warmup=num_warmup, num_samples=num_samples, **quiet
        ),
    }
    curves: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    for disturbance in DISTURBANCES:
        try:
            found = {name: robustness(fit, heldout, disturbance) for name, fit in fits.items()}
        except InputError:  # no sequence has room for typos
            continue
        curves[disturbance] = {name: _curve(one) for name, one in found.items()}
        differences[disturbance] = {
            name: [_pair(found[POSTERIOR].minus(one, level)) for level in range(len(one.levels))]
            for name, one in found.items()
            if name != POSTERIOR
        }
    verdicts = {
        name: str(fit.verdict or diagnose(fit, heldout).verdict) for name, fit in fits.items()
    }
    return {
        "failed": None,
        "model": repr(barrier),
        "training sequences": len(data),
        "held-out sequences": len(heldout),
        "curves": curves,
        "posterior_minus": differences,
        "verdicts": verdicts,
    }


def judge_averaging(posterior: Mapping[str, Any], against: str = BARRIER) -> dict[str, str]:
    """Whether the posterior helps or hurts beside another fit, in words, by disturbance.

    The paired difference of losses decides, on clean data and at the strongest disturbance: "helps"
    or "hurts" if it exceeds two standard errors, else "no difference".

    Args:
        posterior: the result of `compare_under_disturbance`.
        against: name of the other fit.
    """

    def word(pair: list[float]) -> str:
        difference = Measured(*pair)
        return (
            "no difference" if not difference.sure else "helps" if difference.value < 0 else "hurts"
        )

    return {
        disturbance: f"clean: {word(of[against][0])}, disturbed: {word(of[against][-1])}"
        for disturbance, of in posterior["posterior_minus"].items()
    }


def _curve(of: Robustness) -> dict[str, Any]:
    levels = [float(level) for level in of.levels]
    averaged = of.averaged or of.loss
    return {
        "levels": levels,
        "loss": [_pair(one) for one in of.loss],
        "averaged": [_pair(one) for one in averaged],
    }


def _pair(of: Measured) -> list[float]:
    return [float(of.value), float(of.error)]
