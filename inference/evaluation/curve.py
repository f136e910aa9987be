"""Held-out losses against the number of training sequences, and verdicts on them in words."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any

import numpy as np

from probattn.errors import InputError
from probattn.inference.evaluation.measured import Measured, ratio
from probattn.inference.fitting.density import data_hash
from probattn.inference.fitting.fit import CHAINS

# Fields of a curve that hold a tuple for each name, with one value for each size.
PER_SIZE = ("converged", "seconds", "gradients", "unfinished")

Converged = tuple[bool | None, ...]


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Held-out log probabilities of fits to growing prefixes of the same training sequences.

    Standard errors are across held-out sequences. They do not include the variation between
    training sets, since there is only one prefix of each size.

    Args:
        sizes: numbers of training sequences, ascending, (num_sizes,).
        log_prob: by name, the log probability of each held-out sequence in nats, (num_sizes,
            num_heldout).
        counts: tokens that count in each held-out sequence, (num_heldout,).
        methods: by name, the method of its fits; "baseline" for the bigram.
        converged: by name, whether the fit of each size has converged; None without a verdict.
        seconds: by name, wall time of each fit; NaN for the bigram.
        gradients: by name, gradient evaluations of each fit; NaN if unknown and for the bigram.
        unfinished: by name, whether each fit has fewer draws than planned.
        model: name and fields of the model, as text.
        heldout: SHA-256 of the held-out tokens.
    """

    sizes: np.ndarray
    log_prob: dict[str, np.ndarray]
    counts: np.ndarray
    methods: dict[str, str]
    converged: dict[str, Converged]
    seconds: dict[str, tuple[float, ...]]
    gradients: dict[str, tuple[float, ...]]
    unfinished: dict[str, tuple[bool, ...]]
    model: str
    heldout: str

    def losses(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Held-out loss of one method and its standard error, nats per token, each (num_sizes,)."""
        return _columns(self._per_token(-self._of(name)))

    def differences(self, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
        """By how much `first` predicts better than `second`, with standard errors.

        `sum_i (log p_first(x_i) - log p_second(x_i)) / sum_i counts_i`, in nats per token, each
        (num_sizes,). The differences are paired: how hard a sequence is for both methods cancels
        and does not enlarge the error.
        """
        return _columns(self._gains(first, second))

    def verdicts(self) -> list[str]:
        """Sentences on which method predicts better, at which sizes, and on unreliable fits.

        Each difference comes with its standard error; within two standard errors it is called
        noise. Further sentences name the fits that have not converged or are unfinished.
        """
        ranked = sorted(
            self.methods,
            key=lambda name: (self.methods[name] == "baseline", not self._sampled(name)),
        )
        sentences = [self._pair_verdict(first, second) for first, second in combinations(ranked, 2)]
        for name in self.methods:
            if apart := self._sizes_where(value is False for value in self.converged[name]):
                sentences.append(
                    f"{name} has not converged at {apart} sequences: its numbers there are "
                    "those of an unconverged fit."
                )
            if short := self._sizes_where(self.unfinished[name]):
                sentences.append(
                    f"{name} is unfinished at {short} sequences: its numbers there are those "
                    "of the draws so far."
                )
        return sentences

    def trusted(self, name: str) -> np.ndarray:
        """Whether each fit of one method is finished and not known to be unconverged, (num_sizes,).

        A fit without a verdict counts as trusted.
        """
        pairs = zip(self.converged[name], self.unfinished[name], strict=True)
        return np.array(
            [converged is not False and not unfinished for converged, unfinished in pairs]
        )

    def refuse_other(self, heldout_tokens: Any) -> None:
        """InputError unless the curve is of these held-out sequences, (num_sequences, length)."""
        if data_hash(heldout_tokens) != self.heldout:
            raise InputError(
                "learning curve: it is of other held-out sequences than those given; make one "
                "of the same corpus and length"
            )

    def _of(self, name: str) -> np.ndarray:
        if name not in self.log_prob:
            raise InputError(
                f"learning curve: expected one of {', '.join(self.log_prob)}, got {name!r}"
            )
        return self.log_prob[name]

    def _sampled(self, name: str) -> bool:
        return self.methods[name] in CHAINS

    def _per_token(self, log_prob: np.ndarray) -> list[Measured]:
        return [ratio(row, self.counts) for row in log_prob]

    def _gains(self, first: str, second: str) -> list[Measured]:
        return self._per_token(self._of(first) - self._of(second))

    def _sizes_where(self, true: Any) -> str:
        return _listed(
            [f"{size:,}" for size, chosen in zip(self.sizes, true, strict=True) if chosen]
        )

    def _pair_verdict(self, first: str, second: str) -> str:
        """One sentence with a clause for each run of sizes at which the same method is better."""
        gains = self._gains(first, second)
        signs = [np.sign(gain.value) if gain.sure else 0 for gain in gains]
        stretches = [
            list(places) for _, places in groupby(range(len(signs)), key=lambda place: signs[place])
        ]
        clauses = []
        for number, places in enumerate(stretches):
            sign = signs[places[0]]
            by = _listed(
                [str(Measured(abs(gains[place].value), gains[place].error)) for place in places]
            )
            where = self._where(places, begins=number == 0, ends=number == len(stretches) - 1)
            better, worse = (first, second) if sign > 0 else (second, first)
            who = "they" if number else f"{first} and {second}"
            says = f"{better} predicts better than {worse} by {by} nats per token"
            clauses.append(
                f"{where} {says if sign else f'{who} differ by {by} nats per token, within noise'}"
            )
        return "; ".join(clauses) + "."

    def _where(self, places: list[int], begins: bool, ends: bool) -> str:
        if begins:
            return f"At {_listed([f'{self.sizes[place]:,}' for place in places])} sequences"
        if ends and len(places) > 1:  # "from ... on" needs at least two sizes
            return f"from {self.sizes[places[0]]:,} on"
        return f"at {_listed([f'{self.sizes[place]:,}' for place in places])}"


def join(curves: Sequence[LearningCurve]) -> LearningCurve:
    """Join curves of different training sizes into one.

    The curves must have the same methods, model and held-out sequences, and no training size in
    common. The caller ensures that the training sequences are prefixes of one another.

    Raises: InputError if methods, model or held-out sequences differ, or a size occurs twice.
    """
    first = curves[0]
    for other in curves[1:]:
        for what in ("methods", "model", "heldout"):
            if getattr(other, what) != getattr(first, what):
                raise InputError(
                    f"learning curve: expected one of the same {what} "
                    f"({getattr(first, what)}), got {getattr(other, what)}"
                )
    ordered = sorted(curves, key=lambda curve: curve.sizes[0])
    sizes = np.concatenate([curve.sizes for curve in ordered])
    if (np.diff(sizes) <= 0).any():
        raise InputError(
            f"learning curve: expected each training size once, got {', '.join(map(str, sizes))}"
        )
    per_size: dict[str, Any] = {
        what: {
            name: sum((getattr(curve, what)[name] for curve in ordered), ())
            for name in first.methods
        }
        for what in PER_SIZE
    }
    log_prob = {
        name: np.concatenate([curve.log_prob[name] for curve in ordered]) for name in first.methods
    }
    return dataclasses.replace(first, sizes=sizes, log_prob=log_prob, **per_size)


def _columns(measured: Sequence[Measured]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([one.value for one in measured]), np.array([one.error for one in measured])


def _listed(words: Sequence[str]) -> str:
    """Words joined as in "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
