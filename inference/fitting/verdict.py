"""What a fit says of itself: whether it converged, why not, and what to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verdict:
    """Whether a fit converged.

    Args:
        converged: whether it may be used.
        findings: sentences: what was found wrong, or that nothing was.
        advice: what to do about it.
        notes: what is no failure and yet to be known.
        numbers: the figures it rests on, by name.
    """

    converged: bool
    findings: tuple[str, ...]
    advice: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        head = "converged" if self.converged else "not converged"
        return f"{head}: {' '.join([*self.findings, *self.advice, *self.notes])}"
