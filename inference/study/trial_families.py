"""The families of the trial: what each draws its hyperparameters from, as data."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import qmc

PLAIN_FAMILY = "plain"
RATES = (3e-4, 1e-2)
SOBOL_POINTS = 4  # log2 of the points drawn, of which the first are used
SOBOL_SEED = 0
# What a configuration has for the training loop; everything else is a field of the TransformerLM.
OF_TRAINING = ("learning_rate", "weight_decay", "ramp", "falling")


@dataclass(frozen=True)
class Range:
    """An interval from which a hyperparameter is drawn, log-uniformly or uniformly."""

    low: float
    high: float
    log: bool = True

    def at(self, share: float) -> float:
        """The value that has this share of the interval below it."""
        if self.log:
            return float(self.low * (self.high / self.low) ** share)
        return float(self.low + share * (self.high - self.low))


@dataclass(frozen=True)
class Family:
    """One way to train, or to read a training, with the ranges of its hyperparameters.

    Args:
        name: of the family.
        group: "rival", "barrier" or "prior".
        fixed: fields of the TransformerLM, and of the training loop, that do not vary.
        ranges: of what is drawn beside the learning rate.
        reading: of the training: "stopped" (the parameters of the lowest loss on the part for early
            stopping), "averaged" (exponentially over the steps), "ensemble" or "swag".
        of: the family whose configuration is used; None is a configuration of its own, tuned.
        cost: processor time of a step over the plain model's, measured at width 64 (1 where it was
            not told apart from plain, or not measured); what is measured in a trial replaces it.
    """

    name: str
    group: str
    fixed: dict[str, Any] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    reading: str = "stopped"
    of: str | None = None
    cost: float = 1.0

    def configurations(self, number: int) -> list[dict[str, Any]]:
        """The first `number` configurations of a scrambled Sobol sequence over the ranges."""
        ranges = {"learning_rate": Range(*RATES), **self.ranges}
        points = qmc.Sobol(len(ranges), scramble=True, rng=np.random.default_rng(SOBOL_SEED))
        return [
            self.fixed
            | {
                name: one.at(share)
                for (name, one), share in zip(ranges.items(), point, strict=True)
            }
            for point in points.random_base2(SOBOL_POINTS)[:number]
        ]


def _barrier(name: str, fixed: dict[str, Any], cost: float = 1.0, **ranges: Range) -> Family:
    weight = {"barrier_weight": Range(0.003, 0.3), "ramp": Range(0.0, 0.5, log=False)}
    return Family(name, "barrier", fixed, weight | ranges, cost=cost)


def _own(placement: str, variant: str) -> dict[str, Any]:
    return {"placement": placement, "variant": variant, "barrier_sequences": 1}


TRIAL_FAMILIES = (
    Family(PLAIN_FAMILY, "rival"),
    Family("plain, averaged", "rival", reading="averaged", of=PLAIN_FAMILY),
    Family("noise", "rival", ranges={"noise": Range(0.03, 0.6)}),
    Family("dropout", "rival", ranges={"dropout": Range(0.01, 0.3)}),
    Family("weight decay", "rival", ranges={"weight_decay": Range(1e-3, 0.3)}),
    Family("label smoothing", "rival", ranges={"label_smoothing": Range(0.003, 0.2)}),
    Family("QK-norm", "rival", ranges={"qk_norm": Range(1.0, 16.0)}),
    Family("soft-capping", "rival", ranges={"softcap": Range(3.0, 60.0)}),
    Family("z-loss", "rival", ranges={"z_loss": Range(1e-5, 1e-2)}),
    Family("spectral bound", "rival", ranges={"spectral": Range(0.3, 4.0)}),
    Family("ensemble of three", "rival", reading="ensemble", of=PLAIN_FAMILY, cost=3.0),
    _barrier("auxiliary, full", {"variant": "full"}, 1.2),
    _barrier("auxiliary, one-sided", {"variant": "one_sided"}),
    _barrier("auxiliary, bounded", {"variant": "bounded"}, cap=Range(0.5, 0.95, log=False)),
    _barrier("own heads, one-sided", _own("own", "one_sided"), 2.7),
    _barrier("own heads, one-sided, stream", _own("stream", "one_sided"), 3.2),
    _barrier("own heads, hinge", _own("own", "hinge"), 4.2, threshold=Range(0.03, 0.5)),
    _barrier("auxiliary, full, falling", {"variant": "full", "falling": True}, 1.2),
    Family("SWAG, plain", "prior", reading="swag", of=PLAIN_FAMILY),
    Family("SWAG, best barrier", "prior", reading="swag", of="best barrier"),
)


def family(name: str) -> Family:
    """The family of this name."""
    return next(one for one in TRIAL_FAMILIES if one.name == name)


def in_group(group: str) -> list[str]:
    """The names of the families of a group, in order."""
    return [one.name for one in TRIAL_FAMILIES if one.group == group]


def split(configuration: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A configuration as fields of the TransformerLM, and as arguments of the training loop."""
    training = {name: value for name, value in configuration.items() if name in OF_TRAINING}
    return {k: v for k, v in configuration.items() if k not in OF_TRAINING}, training
