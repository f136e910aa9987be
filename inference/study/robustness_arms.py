"""The arms of the robustness study: a model and how it is trained, for each weight, variant,
placement and baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WEIGHTS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
VARIANTS = ("full", "margin_only", "one_sided", "bounded")
PLACEMENTS = ("auxiliary", "own")
BARRIER = "barrier"
# Of each minibatch, on which the barrier on a model's own heads is: unbiased, and d x d blocks are
# dear.
OWN_SEQUENCES = 1


@dataclass(frozen=True)
class Arm:
    """One way to train. `family` is what it is a dose of, `dose` how much; the plain model is the
    dose 0 of all of them.

    Args: settings, fields of the TransformerLM; weight_decay, of the optimiser.
    """

    name: str
    family: str
    dose: float
    settings: dict[str, Any] = field(default_factory=dict)
    weight_decay: float = 0.0


def arms(quick: bool = False) -> list[Arm]:
    """The plain model, the barrier in each variant, placement and weight, and the baselines."""
    found = [Arm("plain", "plain", 0.0)]
    weights: Sequence[float] = (0.05,) if quick else WEIGHTS
    for placement in PLACEMENTS:
        for variant in VARIANTS:
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
                family = f"{BARRIER} {variant}, {placement}"
                found.append(
                    Arm(f"{BARRIER}-{variant}-{placement}-{weight}", family, weight, settings)
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
        found.append(Arm("qk-norm", "QK-norm", 1.0, {"qk_norm": True}))
    return found
