"""The arms of the robustness study: the plain model, barriers of all kinds, and baselines."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WEIGHTS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
FIRST_PLACEMENTS = ("auxiliary", "own")
FIRST_VARIANTS = ("full", "margin_only", "one_sided", "bounded")
BARRIER_FAMILY = "barrier"
# Number of sequences of each minibatch on which the barrier on a model's own heads is computed. The
# estimate is unbiased; more sequences would cost many more d x d determinants.
OWN_SEQUENCES = 1
ROOT_OF_RANK = 8**0.5  # scale of the cosines of the arm qk-norm: of heads of width 32 / 4


@dataclass(frozen=True)
class Arm:
    """One way to train a model.

    Args:
        name: of the arm.
        family: the kind of regularisation.
        dose: its strength; the plain model is dose 0 of every family.
        settings: fields of the TransformerLM.
        weight_decay: of the optimiser.
    """

    name: str
    family: str
    dose: float
    settings: dict[str, Any] = field(default_factory=dict)
    weight_decay: float = 0.0


def arms(quick: bool = False) -> list[Arm]:
    """The plain model, the barrier in each variant, placement and weight, and the baselines.

    Args: quick, whether to return only a few arms, for a quick look.
    """
    found = [Arm("plain", "plain", 0.0)]
    weights: Sequence[float] = (0.05,) if quick else WEIGHTS
    for placement in FIRST_PLACEMENTS:
        for variant in FIRST_VARIANTS:
            if quick and (placement, variant) not in (
                ("auxiliary", "full"),
                ("auxiliary", "margin_only"),
                ("own", "one_sided"),
            ):
                continue
            for weight in weights:
                settings = {"barrier_weight": weight, "placement": placement, "variant": variant}
                if placement == "own":
                    settings["barrier_sequences"] = OWN_SEQUENCES
                family = f"{BARRIER_FAMILY} {variant}, {placement}"
                found.append(
                    Arm(
                        f"{BARRIER_FAMILY}-{variant}-{placement}-{weight}", family, weight, settings
                    )
                )
    doses: dict[str, Sequence[float]] = {
        "noise": (0.05, 0.1, 0.2, 0.4),
        "dropout": (0.02, 0.05, 0.1, 0.2),
        "spectral": (2.0, 1.0, 0.5),
    }
    if quick:
        doses = {"noise": (0.2,)}
    for name, several in doses.items():
        found += [Arm(f"{name}-{dose}", name, dose, {name: dose}) for dose in several]
    if not quick:
        found += [
            Arm(f"weight-decay-{dose}", "weight decay", dose, weight_decay=dose)
            for dose in (0.003, 0.01, 0.03, 0.1)
        ]
        found.append(Arm("qk-norm", "QK-norm", 1.0, {"qk_norm": ROOT_OF_RANK}))
    return found
