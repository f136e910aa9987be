"""The comparison of several fits on the same held-out sequences."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from probattn.errors import InputError
from probattn.inference.contract import (
    NumPyroModel,
    ParticleModel,
    PathModel,
    TokenModel,
    is_generalised,
    require,
)
from probattn.inference.data.ngram import fit_ngram, token_counts
from probattn.inference.evaluation.convergence import diagnose
from probattn.inference.evaluation.cross_validation import (
    LEAST_FOR_LOO,
    LeaveOneOut,
    leave_one_out,
)
from probattn.inference.evaluation.geometry import singular_values, uniqueness
from probattn.inference.evaluation.learning_study import LearningCurve
from probattn.inference.evaluation.mode_against_draws import draw_scores
from probattn.inference.evaluation.out_of_distribution import (
    DETECTION_SEQUENCES,
    Detection,
    detection,
    reversed_order,
    shuffled,
)
from probattn.inference.evaluation.perturbations import (
    DISTURBANCES,
    DISTURBED_SEQUENCES,
    EMBEDDING_NOISE,
    Robustness,
    robustness,
)
from probattn.inference.evaluation.power_sensitivity import PowerScaling, power_scaling
from probattn.inference.evaluation.predictive import (
    Prediction,
    affordable,
    predict,
    predict_ngram,
)
from probattn.inference.evaluation.predictive_check import (
    PredictiveCheck,
    posterior_check,
    prior_check,
)
from probattn.inference.evaluation.scores import Score, differences, score_baselines, score_fit
from probattn.inference.evaluation.stacking import LEAST_FOR_STACK, Stack, stack
from probattn.inference.evaluation.support import (
    Disagreement,
    Example,
    disagreement,
    example,
    margins_of,
    rankings,
)
from probattn.inference.evaluation.token_calibration import reliability
from probattn.inference.evaluation.uncertainty_parts import uncertainty
from probattn.inference.fitting.fit import Fit
from probattn.inference.report.comparable import law_of, refuse_incomparable, symbols_of
from probattn.inference.report.comparison import Comparison
from probattn.inference.report.plot_arguments import fits_by_name
from probattn.inference.report.summary_table import reference_of

MARGIN_SEQUENCES = 200  # held-out sequences whose margins are computed
CHECKED_SEQUENCES = 100  # held-out sequences that new data are compared with
EXAMPLES = 6  # margins of single sequences that are shown, at most, over all laws together
# Where the likelihood is estimated, each draw costs a particle filter for each sequence.
FILTERED_SEQUENCES = 100
FILTERED_MARGIN_SEQUENCES = 50


def compare(
    fits: Mapping[str, Fit],
    heldout_tokens: Any,
    *,
    symbols: Sequence[str] | None = None,
    reference_tokens: Any = None,
    elsewhere: Mapping[str, Any] | None = None,
    learning_curve: LearningCurve | None = None,
    mix_densities: bool = False,
    about: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    key: Any = None,
) -> Comparison:
    """Compare fits with each other and with n-gram baselines on held-out sequences.

    Every predictor gives one log probability per sequence; a fit with several draws gives that of
    their mixture (theory, section 8). Standard errors are across sequences; the error of a
    difference is that of the paired differences.

    Args:
        fits: by name, all of one density: the same model, fields and training tokens. Otherwise a
            MAP and a posterior are not comparable. Where particles estimate the likelihood, a
            posterior is scored by about 32 of its draws, evenly spaced, with a quarter of the
            model's particles each.
        heldout_tokens: shape (num_sequences, length), at least two sequences.
        symbols: the symbol of each token; its id by default.
        reference_tokens: a larger training set for one more bigram baseline, to show what more data
            is worth.
        elsewhere: by name, sequences (n, length) of other corpora. Detection of them is measured
            as it is for shuffled and reversed held-out sequences.
        learning_curve: a curve of the same held-out sequences, to show with the comparison.
        mix_densities: whether fits of different densities may be compared, as laws of the same
            tokens. The comparison then reports how they differ.
        about: entries to keep with the result, such as how it was made.
        notes: sentences that a reader must know first, such as `Corpus.what_is_left_out`.
        key: random key. With one, training sequences that weights cannot leave out of a posterior
            are left out by a second posterior, which takes as long as the first
            (`leave_one_out`).

    Raises:
        InputError: no fits, fits of different training tokens, vocabularies or densities, a fit
            with the name of a baseline, tokens that a model refuses, fewer than two held-out
            sequences, a wrong number of symbols, or a learning curve of other held-out sequences.
    """
    began = time.perf_counter()
    fits = fits_by_name(fits)
    mixed = refuse_incomparable(fits, mix_densities)
    first = next(iter(fits.values()))
    vocab_size = require("compare", first.model, TokenModel).vocab_size
    symbols = symbols_of(symbols, vocab_size)
    heldout = np.asarray(heldout_tokens)
    if heldout.ndim != 2 or len(heldout) < 2:
        raise InputError(
            f"held-out tokens: expected at least two sequences, got shape {heldout.shape}"
        )
    if learning_curve is not None:
        learning_curve.refuse_other(heldout)

    scores = [score_fit(name, fit, heldout) for name, fit in fits.items()]
    baselines = score_baselines(first.data, heldout, vocab_size, reference_tokens)
    for baseline in baselines:
        if baseline.name in fits:
            raise InputError(
                f"compare: {baseline.name!r} is the name of a baseline; give the fit another name"
            )
    per_draw = {score.name: score.per_draw for score in scores}
    some = heldout[:FILTERED_SEQUENCES] if any(fit.estimated for fit in fits.values()) else heldout
    predictions = {name: predict(fit, some) for name, fit in fits.items()}
    bigram = predict_ngram(fit_ngram(first.data, vocab_size, "bigram"), some)
    few = heldout[
        : FILTERED_MARGIN_SEQUENCES
        if any(fit.estimated for fit in fits.values())
        else MARGIN_SEQUENCES
    ]
    margins = {name: margins_of(affordable(fit), few) for name, fit in fits.items()}
    log_dets = {
        name: margins_of(affordable(fit), few, kind="log_det") for name, fit in fits.items()
    }
    ranked = [rankings(name, margins[name], log_dets[name]) for name in fits]
    left_out: dict[str, str] = {}
    found = Comparison(
        scores=(*scores, *baselines),
        differences=differences(
            sorted(scores, key=lambda score: not fits[score.name].sampled), heldout
        ),
        leave_one_out=_leave_one_out(fits, key, left_out),
        stack=_stack(scores, heldout, left_out),
        prior=_prior_check(first, some[:CHECKED_SEQUENCES]),
        checks=_posterior_checks(fits, some[:CHECKED_SEQUENCES]),
        power_scaling=_power_scaling(fits, heldout, left_out),
        reliability={name: reliability(one) for name, one in predictions.items()}
        | {"bigram": reliability(bigram)},
        uncertainty={name: uncertainty(one) for name, one in predictions.items()},
        detection=_detection(fits, predictions, some, elsewhere or {}, left_out),
        robustness=_robustness(fits, some[:DISTURBED_SEQUENCES], left_out),
        margins=margins,
        spectra={name: singular_values(fit) for name, fit in fits.items()},
        uniqueness={
            name: uniqueness(fit, few)
            for name, fit in fits.items()
            if isinstance(fit.model, PathModel | ParticleModel)
        },
        generalised=tuple(name for name, fit in fits.items() if is_generalised(fit.model)),
        rankings=tuple(one for one in ranked if one is not None),
        disagreements=_disagreements(fits, margins, few, symbols),
        examples=_examples(fits, heldout, symbols),
        draw_scores={name: draw_scores(fit, some) for name, fit in fits.items()},
        curve=learning_curve,
        diagnostics=tuple(
            diagnose(fit, heldout, name=name, log_prob=None if fit.estimated else per_draw[name])
            for name, fit in fits.items()
            if fit.sampled
        ),
        modes={
            name: fit.verdict
            for name, fit in fits.items()
            if not fit.sampled and fit.verdict is not None
        },
        methods={name: fit.method for name, fit in fits.items()},
        draws={name: fit.shape for name, fit in fits.items()},
        symbols=tuple(symbols),
        unfinished={
            name: (fit.shape[1], fit.planned or 0) for name, fit in fits.items() if fit.unfinished
        },
        mixed=mixed,
        left_out=left_out,
        notes=(*notes, *_notes(first, learning_curve)),
        heldout_counts=token_counts(heldout),
    )
    found.about.update(_about(fits, heldout, time.perf_counter() - began), **(about or {}))
    return found


def _notes(first: Fit, curve: LearningCurve | None) -> tuple[str, ...]:
    if curve is None or curve.model == first.density.law:
        return ()
    return (
        f"The learning curve is of another model, {curve.model}, and not of {first.density.law}.",
    )


def _leave_one_out(
    fits: Mapping[str, Fit], key: Any, left_out: dict[str, str]
) -> dict[str, LeaveOneOut]:
    found = {}
    for name, fit in fits.items():
        if not fit.sampled:
            continue
        if fit.estimated:
            left_out[f"PSIS-LOO of {name}"] = "its likelihood is an estimate by particles"
        elif np.prod(fit.shape) < LEAST_FOR_LOO:
            left_out[f"PSIS-LOO of {name}"] = f"it has fewer than {LEAST_FOR_LOO} draws"
        else:
            found[name] = leave_one_out(fit, key=key)
    return found


def _stack(scores: Sequence[Score], heldout: np.ndarray, left_out: dict[str, str]) -> Stack | None:
    if len(scores) < 2 or len(heldout) < LEAST_FOR_STACK:
        left_out["the stack of the fits"] = (
            f"it needs two fits and {LEAST_FOR_STACK} held-out sequences"
        )
        return None
    return stack({score.name: score.log_probs for score in scores}, heldout)


def _prior_check(fit: Fit, tokens: np.ndarray) -> PredictiveCheck:
    return prior_check(fit.model, tokens, key=jax.random.key(0))


def _posterior_checks(fits: Mapping[str, Fit], tokens: np.ndarray) -> dict[str, PredictiveCheck]:
    return {name: posterior_check(fit, tokens, key=jax.random.key(1)) for name, fit in fits.items()}


def _power_scaling(
    fits: Mapping[str, Fit], heldout: np.ndarray, left_out: dict[str, str]
) -> dict[str, PowerScaling]:
    found = {}
    for name, fit in fits.items():
        if not fit.sampled:
            continue
        try:
            found[name] = power_scaling(fit, heldout)
        except InputError as error:  # too few draws, or an estimated likelihood
            left_out[f"what decides what in {name}"] = str(error)
    return found


def _detection(
    fits: Mapping[str, Fit],
    predictions: Mapping[str, Prediction],
    heldout: np.ndarray,
    elsewhere: Mapping[str, Any],
    left_out: dict[str, str],
) -> dict[str, dict[str, tuple[Detection, ...]]]:
    """Detections by kind of sequence and by fit.

    The first half of the held-out sequences is left as it is. The other sequences are the second
    half, shuffled or reversed, and those from elsewhere.
    """
    half = min(len(heldout) // 2, DETECTION_SEQUENCES)
    if half < 2:
        left_out["detection"] = "it needs at least four held-out sequences"
        return {}
    ours = {name: one.first(half) for name, one in predictions.items()}
    others = {
        "shuffled": shuffled(heldout[half : 2 * half]),
        "reversed": reversed_order(heldout[half : 2 * half]),
    }
    others |= {
        f"from {name}": np.asarray(tokens)[:DETECTION_SEQUENCES]
        for name, tokens in elsewhere.items()
    }
    return {
        where: {
            name: detection(ours[name], predict(fit, tokens), elsewhere=where)
            for name, fit in fits.items()
        }
        for where, tokens in others.items()
    }


def _robustness(
    fits: Mapping[str, Fit], heldout: np.ndarray, left_out: dict[str, str]
) -> dict[str, dict[str, Robustness]]:
    found = {}
    for disturbance in DISTURBANCES:
        without = [name for name, fit in fits.items() if not isinstance(fit.model, PathModel)]
        if disturbance == EMBEDDING_NOISE and without:
            left_out[EMBEDDING_NOISE] = _why_no_noise(fits[without[0]].model, without)
            continue
        try:
            found[disturbance] = {
                name: robustness(fit, heldout, disturbance) for name, fit in fits.items()
            }
        except InputError as error:  # too few sequences have room for typos
            left_out[f"typos ({disturbance})"] = str(error)
    return found


def _why_no_noise(model: NumPyroModel, names: Sequence[str]) -> str:
    if isinstance(model, ParticleModel):
        return (
            f"the embeddings of {', '.join(names)} are latent: noise on them is part of the model"
        )
    return f"{type(model).__name__} is not a PathModel: it does not define noise on embeddings"


def _disagreements(
    fits: Mapping[str, Fit],
    margins: Mapping[str, np.ndarray],
    tokens: np.ndarray,
    symbols: Sequence[str],
) -> tuple[Disagreement, ...]:
    """Disagreements of the reference, if it is a MAP, with the fits of its law that are not."""
    point = reference_of({name: fit.method for name, fit in fits.items()})
    if fits[point].method != "map":
        return ()
    start = require("compare", fits[point].model, TokenModel).path_has_start
    several = [
        name
        for name, fit in fits.items()
        if fit.method != "map" and law_of(fit.model) == law_of(fits[point].model)
    ]
    found = [disagreement(point, name, margins, tokens, symbols, start) for name in several]
    return tuple(one for one in found if one is not None)


def _examples(
    fits: Mapping[str, Fit], heldout: np.ndarray, symbols: Sequence[str]
) -> tuple[Example, ...]:
    """Margins of the first held-out sequences with a choice of support tokens.

    Fits of different laws are in different examples, since their path positions may hold different
    things.
    """
    groups: dict[Any, dict[str, Fit]] = {}
    for name, fit in fits.items():
        groups.setdefault(law_of(fit.model), {})[name] = affordable(fit)
    length = (heldout != 0).sum(1)
    tokens = heldout[length >= min(4, length.max())][: max(1, EXAMPLES // len(groups))]
    return tuple(example(group, row, symbols) for row in tokens for group in groups.values())


def _about(fits: Mapping[str, Fit], heldout: np.ndarray, seconds: float) -> dict[str, Any]:
    return {
        "training sequences": len(next(iter(fits.values())).data),
        "held-out sequences": len(heldout),
        "held-out tokens": int(token_counts(heldout).sum()),
        "seconds of this comparison": seconds,
        "model": {name: repr(fit.model) for name, fit in fits.items()},
        "density": {name: fit.density.to_json() for name, fit in fits.items()},
        "start": {name: fit.start for name, fit in fits.items() if fit.start},
        "draws": {
            name: f"{fit.shape[0]} chains of {fit.shape[1]}" if fit.sampled else fit.shape[1]
            for name, fit in fits.items()
        },
    }
