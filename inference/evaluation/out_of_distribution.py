"""Does uncertainty tell sequences from elsewhere from those of the corpus?"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata

from probattn.inference.evaluation.measured import INTERNAL, Measured
from probattn.inference.evaluation.predictive import Prediction

SCORES = ("mutual information", "data uncertainty", "surprise")
MOST_SEQUENCES = 1000  # from either side
ROUNDING = 1e-5  # nats: all the mutual information that one draw has, in float32
CURVE = np.linspace(0, 1, 101)  # false alarm rates


@dataclass(frozen=True, eq=False)
class Detection:
    """How well one score of one fit tells sequences from elsewhere from held-out ones.

    Args:
        method: of the fit.
        elsewhere: where the others are from.
        score: "mutual information" or "data uncertainty", means per token of the sequence, or
            "surprise", minus its log probability per token.
        area: under the ROC curve, with DeLong's standard error: the probability that a sequence
            from elsewhere has the higher score, ties counting half; 0.5 is chance.
        hits: share of those from elsewhere that are found at the false alarm rates `CURVE`.
        ours, theirs: DeLong's placements of each held-out sequence, and of each from elsewhere.
    """

    method: str
    elsewhere: str
    score: str
    area: Measured
    hits: np.ndarray
    ours: np.ndarray = field(metadata=INTERNAL)
    theirs: np.ndarray = field(metadata=INTERNAL)

    def __repr__(self) -> str:
        return f"Detection({self.method}, {self.elsewhere}, by {self.score}: area {self.area})"

    def minus(self, other: "Detection") -> Measured:
        """Difference of the areas of two scores of the same sequences, paired (DeLong)."""
        parts = self.ours - other.ours, self.theirs - other.theirs
        return Measured(self.area.value - other.area.value, _delong_error(*parts))


def shuffled(tokens: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """The same sequences with their symbols in random order; the end stays where it is.

    Example:

        >>> import numpy as np
        >>> from probattn.inference import shuffled
        >>> print(shuffled(np.array([[3, 1, 2, 0, 0]])))
        [[2 3 1 0 0]]
    """
    return _reordered(tokens, np.random.default_rng(seed).permutation)


def reversed_order(tokens: np.ndarray) -> np.ndarray:
    """The same sequences read backwards; the end stays where it is.

    Example:

        >>> import numpy as np
        >>> from probattn.inference import reversed_order
        >>> print(reversed_order(np.array([[3, 1, 2, 0, 0]])))
        [[2 1 3 0 0]]
    """
    return _reordered(tokens, np.flip)


def detection(
    ours: Prediction, theirs: Prediction, *, elsewhere: str, method: str
) -> tuple[Detection, ...]:
    """Each score's power to tell two sets of sequences apart. A fit with one draw has no mutual
    information.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).
    """
    found = []
    for score in SCORES:
        one, other = _score(ours, score), _score(theirs, score)
        if score == "mutual information" and max(one.max(), other.max()) < ROUNDING:
            continue
        area, placements = _area(one, other)
        limits = np.quantile(one, 1 - CURVE, method="higher")
        hits = (other[:, None] > limits).mean(0)
        hits[-1] = 1.0
        found.append(Detection(method, elsewhere, score, area, hits, *placements))
    return tuple(found)


def _reordered(tokens: np.ndarray, order: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    result = np.array(tokens)
    for row in result:
        symbols = np.flatnonzero(row)
        row[symbols] = row[order(symbols)]
    return result


def _score(prediction: Prediction, score: str) -> np.ndarray:
    if score == "surprise":
        values = -prediction.token_log_probs
    else:
        values = (
            prediction.mutual_information
            if score == "mutual information"
            else prediction.data_entropy
        )
    return np.where(prediction.counted, values, 0).sum(1) / prediction.counted.sum(1)


def _area(ours: np.ndarray, theirs: np.ndarray) -> tuple[Measured, tuple[np.ndarray, np.ndarray]]:
    """The probability that one of theirs is larger, from ranks; and the placements its error comes
    from."""
    m, n = len(ours), len(theirs)
    together = rankdata(np.concatenate([ours, theirs]))
    below = (together[m:] - rankdata(theirs)) / m  # share of ours under each of theirs, ties half
    above = 1 - (together[:m] - rankdata(ours)) / n
    return Measured(float(below.mean()), _delong_error(above, below)), (above, below)


def _delong_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.sqrt(np.var(ours, ddof=1) / len(ours) + np.var(theirs, ddof=1) / len(theirs)))
