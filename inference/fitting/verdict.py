"""The verdict on a fit: whether it converged, why not, and what to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verdict:
    """Whether a fit converged.

    Args:
        converged: whether the fit may be used.
        findings: sentences that say what is wrong with the fit, or that nothing is.
        advice: sentences that say what to do about it.
        notes: sentences worth knowing that are no reason for failure.
        numbers: the figures that the verdict rests on, by name.
    """

    converged: bool
    findings: tuple[str, ...]
    advice: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        head = "converged" if self.converged else "not converged"
        return f"{head}: {' '.join([*self.findings, *self.advice, *self.notes])}"
