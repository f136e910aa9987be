"""A reference posterior of one small LanguageModel, from a long run, as quantiles with their Monte
Carlo errors.

`python -m benchmarks.reference_posterior` writes
`tests/inference/fitting/reference_posterior.json`; the tests hold short runs to it."""

import json
from pathlib import Path

import arviz as az
import jax
import numpy as np

from probattn.inference import diagnose, sample_posterior
from probattn.inference.devices.device_placement import set_host_device_count
from probattn.inference.devices.environment import versions
from probattn.inference.fitting.fit import over_draws
from probattn.models import LanguageModel

MODEL = LanguageModel(3, 4, 1, contraction=0.9)
TOKENS = np.array(
    [[1, 1, 0, 0], [1, 2, 0, 0], [2, 2, 2, 0], [1, 1, 1, 2], [2, 0, 0, 0], [2, 1, 1, 0]] * 3,
    np.int32,
)
SETTINGS = dict(num_chains=4, num_warmup=2000, num_samples=20_000, sampler="nuts", max_tree_depth=7)
LEVELS = (0.1, 0.5, 0.9)
OUT = Path(__file__).parent.parent / "tests" / "inference" / "fitting" / "reference_posterior.json"


def summary(fit) -> dict[str, dict[str, float]]:
    """Quantiles of each identified quantity and their Monte Carlo errors.

    Interactions have heavy tails: a short run that misses them has too small a standard deviation
    and too small an estimate of its error. Quantiles have neither trouble.
    """
    found = over_draws(type(MODEL).quantities, MODEL, fit.flat_draws(), TOKENS)
    numbers = {}
    for name, values in found.items():
        draws = values.reshape(*fit.shape, -1).astype(float)
        for entry in range(draws.shape[-1]):
            one = draws[..., entry]
            if np.ptp(one) > 0:
                numbers[f"{name}[{entry}]"] = {
                    str(level): [
                        float(np.quantile(one, level)),
                        float(az.mcse(one, method="quantile", prob=level)),
                    ]
                    for level in LEVELS
                }
    return numbers


def main() -> None:
    set_host_device_count(2)
    jax.config.update("jax_enable_x64", True)
    fit = sample_posterior(MODEL, TOKENS, key=jax.random.key(2026), start="random", **SETTINGS)
    verdict = diagnose(fit).verdict
    print(verdict)
    about = {
        "model": repr(MODEL),
        "settings": SETTINGS,
        "verdict": str(verdict),
        "versions": versions(),
    }
    OUT.write_text(json.dumps({"about": about, "quantities": summary(fit)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
