"""Detection: how well uncertainty tells sequences from elsewhere from held-out ones."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import brentq
from scipy.stats import rankdata

from probattn.errors import InputError
from probattn.inference.evaluation.measured import INTERNAL, Measured
from probattn.inference.evaluation.predictive import Prediction

SCORES = ("mutual information", "data uncertainty", "surprise")
DETECTION_SEQUENCES = 1000  # of held-out sequences, and of those from elsewhere
ROUNDING = 1e-5  # nats; in float32 rounding gives a single draw less mutual information than this
FEW = 5  # placements apart from the edge, for which DeLong's error is too small
CURVE = np.linspace(0, 1, 101)  # false alarm rates at which the ROC curve is computed


@dataclass(frozen=True, eq=False)
class Detection:
    """How well one score of one fit tells sequences from elsewhere from held-out ones.

    Args:
        method: of the fit.
        elsewhere: where the other sequences come from.
        score: "mutual information" or "data uncertainty", as a mean over the tokens of a sequence,
            or "surprise", minus the log probability per token.
        area: under the ROC curve, with the error of `area_error`: the probability that a sequence
            from elsewhere has the higher score, ties counting half; 0.5 is chance.
        hits: share of the sequences from elsewhere that are detected at each false alarm rate of
            `CURVE`.
        ours: DeLong's placement of each held-out sequence, (num_held_out,).
        theirs: DeLong's placement of each sequence from elsewhere, (num_elsewhere,).
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
        """Paired difference of two areas on the same sequences, with DeLong's error.

        Where nearly no pair is out of order it is at least that of either area at the edge.
        """
        parts = self.ours - other.ours, self.theirs - other.theirs
        edges = [one.area.error for one in (self, other) if _at_the_edge(one.ours, one.theirs)]
        return Measured(self.area.value - other.area.value, max([_delong_error(*parts), *edges]))


def shuffled(tokens: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """The sequences with their symbols in random order; end tokens keep their places.

    Example:

        >>> import numpy as np
        >>> from probattn.inference import shuffled
        >>> print(shuffled(np.array([[3, 1, 2, 0, 0]])))
        [[2 3 1 0 0]]
    """
    return _reordered(tokens, np.random.default_rng(seed).permutation)


def reversed_order(tokens: np.ndarray) -> np.ndarray:
    """The sequences with their symbols in reverse order; end tokens keep their places.

    Example:

        >>> import numpy as np
        >>> from probattn.inference import reversed_order
        >>> print(reversed_order(np.array([[3, 1, 2, 0, 0]])))
        [[2 1 3 0 0]]
    """
    return _reordered(tokens, np.flip)


def detection(ours: Prediction, theirs: Prediction, *, elsewhere: str) -> tuple[Detection, ...]:
    """Detection of sequences from elsewhere by each score.

    Mutual information is left out where it is 0 up to rounding, as it is for a fit with one draw.

    Args:
        ours: predictions of held-out sequences.
        theirs: predictions of sequences from elsewhere, by the same fit.
        elsewhere: where those come from, in words.

    Raises: InputError for predictions of different methods.
    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).
    """
    if ours.method != theirs.method:
        raise InputError(
            f"detection: expected two predictions of the same fit, got {ours.method} and "
            f"{theirs.method}"
        )
    found = []
    for score in SCORES:
        one, other = _score(ours, score), _score(theirs, score)
        if score == "mutual information" and max(one.max(), other.max()) < ROUNDING:
            continue
        area, placements = _area(one, other)
        limits = np.quantile(one, 1 - CURVE, method="higher")
        hits = (other[:, None] > limits).mean(0)
        hits[-1] = 1.0  # at a false alarm rate of 1 every sequence is flagged
        found.append(Detection(ours.method, elsewhere, score, area, hits, *placements))
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
    """Area under the ROC curve, and the placements (ours, theirs) that its error is computed from.

    The area is the probability that a score of theirs (n,) is larger than one of ours (m,). The
    placement of a score is the share of the other sample on its expected side, ties counting half.
    """
    m, n = len(ours), len(theirs)
    together = rankdata(np.concatenate([ours, theirs]))
    below = (together[m:] - rankdata(theirs)) / m  # share of ours below each of theirs, [n]
    above = 1 - (together[:m] - rankdata(ours)) / n  # share of theirs above each of ours, [m]
    return Measured(float(below.mean()), area_error(above, below)), (above, below)


def area_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Standard error of an area under the ROC curve, from the placements of the two samples.

    DeLong's, which is 0 where no pair is out of order, however few the pairs. With fewer than five
    scores of either sample out of order, or in order, it is at least the distance from the area A
    to the further limit a of Newcombe's interval at one standard error,

        (A - a)^2 = a (1 - a) [1 + N (1 - a) / (2 - a) + N a / (1 + a)] / (m n),
        N = (m + n) / 2 - 1,

    which for A = 1 is 0.096 from 6 against 6 and 0.0005 from 1,000 against 1,000.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); Newcombe, Statistics in
    Medicine 25 (2006) 559-573, method 5; its variance: Hanley and McNeil, Radiology 143 (1982).
    """
    found = _delong_error(ours, theirs)
    if not _at_the_edge(ours, theirs):
        return found
    m, n, area = len(ours), len(theirs), float(theirs.mean())
    others = (m + n) / 2 - 1

    def excess(limit: float) -> float:
        spread = 1 + others * (1 - limit) / (2 - limit) + others * limit / (1 + limit)
        return (area - limit) ** 2 - limit * (1 - limit) * spread / (m * n)

    # The limits 0 and 1 solve the equation for areas of 0 and 1, and are not those that are meant.
    low = 0.0 if area == 0 else brentq(excess, 0, min(area, 1 - 1e-9))
    high = 1.0 if area == 1 else brentq(excess, max(area, 1e-9), 1)
    return max(found, area - low, high - area)


def _at_the_edge(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether few scores are out of order, or few in order, for the normal approximation."""
    return any(min((ours != end).sum(), (theirs != end).sum()) < FEW for end in (0, 1))


def _delong_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Standard error of a difference of means, from the placements of the two samples."""
    return float(np.sqrt(np.var(ours, ddof=1) / len(ours) + np.var(theirs, ddof=1) / len(theirs)))
