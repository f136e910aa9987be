"""Sentences on a comparison: each difference has its standard error, and noise is called noise."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from probattn.inference.evaluation.measured import Measured
from probattn.inference.evaluation.perturbations import EMBEDDING_NOISE
from probattn.inference.evaluation.scores import BASELINES, Difference, gain
from probattn.inference.fitting.map_verdict import SAME_MODE
from probattn.inference.report.comparison import Comparison
from probattn.inference.report.power_figure import said_of
from probattn.inference.report.summary_table import NOISE_SHOWN, reference_of

SURELY = 0.05  # a corrected p-value below it is said to be no chance
NEGLIGIBLE = 0.0005  # nats: mutual information below this is not mentioned; one draw has none


class Finding(NamedTuple):
    """A sentence, its topic, and the name of the fit that it concerns, empty without one."""

    topic: str
    text: str
    fit: str = ""


def warnings_of(comparison: Comparison) -> list[Finding]:
    """Warnings to read before the findings.

    They name fits that are unfinished or have not converged, densities that differ, and notes.
    """
    found = [
        Finding(
            "unfinished",
            (
                f"{name} is unfinished: {draws} of {planned} draws a chain. All of its numbers are "
                "provisional."
            ),
            name,
        )
        for name, (draws, planned) in comparison.unfinished.items()
    ]
    verdicts = {one.name: one.verdict for one in comparison.diagnostics} | comparison.modes
    found += [
        Finding("not converged", f"{name} has not converged: {' '.join(verdict.findings)}", name)
        for name, verdict in verdicts.items()
        if not verdict.converged
    ]
    found += [
        Finding(
            "different densities", f"Fits of different densities were mixed knowingly: {mixed}."
        )
        for mixed in comparison.mixed
    ]
    return found + [Finding("note", note) for note in comparison.notes]


def findings(comparison: Comparison) -> list[Finding]:
    """The findings of a comparison as sentences, the most important first."""
    parts = (
        _predictions,
        _stack,
        _modes,
        _checks,
        _baselines,
        _calibration,
        _uncertainty,
        _detection,
        _robustness,
        _curve,
        _power,
        _geometry,
        _left_out,
    )
    return [Finding(topic, text) for part in parts for topic, text in part(comparison)]


def _predictions(comparison: Comparison) -> Iterator[tuple[str, str]]:
    reference = reference_of(comparison.methods)
    for difference in comparison.differences:
        if reference in (difference.first, difference.second):
            yield "prediction", _better(difference)
    best = min(
        (score for score in comparison.scores if score.name in comparison.methods),
        key=lambda score: score.loss,
    )
    for difference in comparison.differences:
        if best.name in (difference.first, difference.second) and reference not in (
            difference.first,
            difference.second,
        ):
            yield "prediction", _better(difference)
    for score in comparison.scores:
        if score.monte_carlo_error:
            yield (
                "prediction",
                f"{score.name}: its held-out log probability is estimated by particles, with a "
                f"standard error from these of {score.monte_carlo_error:.4f} nats per token, and "
                f"is on average too low by about {score.monte_carlo_bias:.4f}.",
            )


def _checks(comparison: Comparison) -> Iterator[tuple[str, str]]:
    checks = {"the prior": comparison.prior} | comparison.checks
    for name, check in checks.items():
        surely = [what for what, p in check.adjusted().items() if p < SURELY]
        yield (
            "checks",
            f"New data of {name} are surely unlike the held-out sequences in {', '.join(surely)}."
            if surely
            else f"New data of {name} are not surely unlike the held-out sequences in any of "
            f"{len(check.p_values())} statistics.",
        )


def _stack(comparison: Comparison) -> Iterator[tuple[str, str]]:
    stack = comparison.stack
    if stack is None:
        return
    best = max(stack.weights, key=lambda name: -stack.gains[name].value)
    gain = stack.gains[best]
    worth = (
        f"predicts {'better' if gain.value > 0 else 'worse'} than {best}, by {_unsigned(gain)}"
        if gain.sure
        else f"and {best} predict equally well within noise: they differ by {_unsigned(gain)}"
    )
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in stack.weights.items())
    yield (
        "combination",
        f"The stack of all fits (weights {weights}; scored on sequences that chose none of their "
        f"weights) {worth} nats per token.",
    )


def _power(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for name, found in comparison.power_scaling.items():
        said = "; ".join(said_of(found))
        yield "what decides what", f"In {name} {said}."


def _better(difference: Difference) -> str:
    first, second, size = difference.first, difference.second, difference.per_token
    one, other = difference.densities
    apart = "" if one == other else f" They are different densities: {one} and {other}."
    between = f"{_unsigned(size)} nats per token (paired)"
    if not size.sure:
        return (
            f"{first} and {second} predict equally well within noise: they differ by "
            f"{between}.{apart}"
        )
    better, worse = (first, second) if size.value > 0 else (second, first)
    return f"{better} predicts held-out sequences better than {worse}, by {between}.{apart}"


def _baselines(comparison: Comparison) -> Iterator[tuple[str, str]]:
    baselines = [
        score
        for score in comparison.scores
        if score.name in BASELINES and score.method == "baseline"
    ]
    best = max(baselines, key=lambda score: score.per_token.value)
    gains = {
        score.name: gain(best, score, comparison.heldout_counts)
        for score in comparison.scores
        if score.method != "baseline"
    }
    yield (
        "baseline",
        (
            f"Loss minus that of the {best.name} of the same sequences, in nats per token: "
            f"{_list(gains)}."
        ),
    )


def _calibration(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for name in comparison.methods:
        yield "calibration", f"{name} is {comparison.reliability[name].verdict()}"


def _uncertainty(comparison: Comparison) -> Iterator[tuple[str, str]]:
    parts = [
        f"{name} {one.mutual_information} of {one.total} "
        f"({one.mutual_information.value / one.total.value:.1%})"
        for name, one in comparison.uncertainty.items()
        if one.mutual_information.value > NEGLIGIBLE
    ]
    if parts:
        yield (
            "uncertainty",
            (
                "The draws disagree about a part of the uncertainty of the next token, in nats: "
                f"{'; '.join(parts)}. The rest is data uncertainty."
            ),
        )


def _detection(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for where, by_name in comparison.detection.items():
        found = [(one, name) for name, some in by_name.items() for one in some]
        best, whose = max(
            ((one, n) for one, n in found if one.score != "surprise"),
            key=lambda pair: pair[0].area.value,
        )
        surprise, _ = max(
            ((one, n) for one, n in found if one.score == "surprise"),
            key=lambda pair: pair[0].area.value,
        )
        gap = surprise.minus(best)
        compared = (
            "equally well within noise"
            if not gap.sure
            else ("better" if gap.value > 0 else "worse")
        )
        detects = best.area.value > 0.5 + 2 * best.area.error
        yield (
            "detection",
            (
                f"Of the uncertainties, {best.score} of {whose} is the best at detecting sequences "
                f"that are {where}: its area under the ROC curve is {best.area} (0.5 is chance). "
                f"Surprise detects them {compared}, with area {surprise.area}."
                if detects
                else f"No uncertainty is surely larger on sequences that are {where}: the largest "
                f"area under the ROC curve is {best.area}, of {best.score} of {whose} (0.5 is "
                "chance; below it the uncertainty is smaller there). Surprise has area "
                f"{surprise.area}."
            ),
        )


def _robustness(comparison: Comparison) -> Iterator[tuple[str, str]]:
    reference = reference_of(comparison.methods)
    others = [name for name in comparison.methods if name != reference]
    noise = comparison.robustness.get(EMBEDDING_NOISE)
    if noise and others:
        one = noise[reference]
        at = one.levels.index(NOISE_SHOWN)
        gaps = {name: noise[name].minus(one, at) for name in others}
        alone = (
            f". Without averaging, the loss of {reference} is {one.loss[at]}"
            if one.averaged
            else ""
        )
        yield (
            "robustness",
            f"Loss under embedding noise of {NOISE_SHOWN} root mean squares minus that of "
            f"{reference}, in nats per token, with all fits averaged over as many noises: "
            f"{_list(gaps)}{alone}.",
        )
    typos = {
        kind: by_name for kind, by_name in comparison.robustness.items() if kind != EMBEDDING_NOISE
    }
    for name in others if typos else []:
        gaps = {
            kind: by_name[name].minus(by_name[reference], -1) for kind, by_name in typos.items()
        }
        most = next(iter(typos.values()))[name].levels[-1]
        yield (
            "robustness",
            (
                f"Loss of {name} with {most} typos in each sequence minus that of {reference}, in "
                f"nats per token by kind of typo: {_list(gaps)}."
            ),
        )


def _curve(comparison: Comparison) -> Iterator[tuple[str, str]]:
    if comparison.curve is not None:
        for sentence in comparison.curve.verdicts():
            yield "training size", sentence


def _modes(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Findings on MAPs whose joint density is exceeded by a draw of another fit."""
    if comparison.mixed:  # values of different joint densities are not comparable
        return
    for name, method in comparison.methods.items():
        others = {
            other: one.log_joint.max()
            for other, one in comparison.draw_scores.items()
            if other != name
        }
        if method == "map" and others:
            best = max(others, key=lambda other: others[other])
            gap = others[best] - comparison.draw_scores[name].log_joint[0]
            if gap > SAME_MODE:
                yield (
                    "mode",
                    (
                        f"{name} is not the best mode here: the log joint density of a draw of "
                        f"{best} is {gap:.1f} nats higher."
                    ),
                )


def _geometry(comparison: Comparison) -> Iterator[tuple[str, str]]:
    if comparison.rankings:
        shares = ", ".join(f"{_percent(one.share)} ({one.name})" for one in comparison.rankings)
        above = ", ".join(f"{one.repelled:.1%} ({one.name})" for one in comparison.rankings)
        yield (
            "support tokens",
            "The support token has the smallest sigma_min(J_t), which depends on the coordinates "
            "of the embeddings. The law of the tokens does not, nor does log det J_t: it is "
            f"smallest at another token in {shares} of the sequences with more than three "
            "positions, the first two left out, where J_t = I. det J_t is above 1, so that "
            f"attention stays clear of the boundary, at {above} of the other positions.",
        )
    for one in comparison.disagreements:
        yield (
            "support tokens",
            f"{one.point} and {one.draws} have different support tokens in {_percent(one.share)} "
            f"of the sequences with more than two positions. In {_percent(one.unsure)} no position "
            f"is the support token with probability above one half under {one.draws}.",
        )
    if comparison.generalised:
        yield (
            "density",
            f"{', '.join(comparison.generalised)}: the posterior is a generalised one. The density "
            "of the embedding path is a factor beside the law of tokens, and its integral depends "
            "on the parameters: tokens are scored and generated by another law than was fitted. "
            "The normalised barrier makes it a part of that law.",
        )
    for name, unique in comparison.uniqueness.items():
        yield "density", f"{name}: {unique.verdict()}."
    for name, found in comparison.leave_one_out.items():
        per = f"{found.log_prob:.1f} ± {found.standard_error:.1f}"
        yield (
            "leave-one-out",
            f"{name}: by PSIS-LOO the log probability of the training sequences is {per} nats, "
            f"with {found.effective_parameters:.0f} effective parameters. "
            f"{found.verdict.findings[0]}",
        )


def _left_out(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for what, why in comparison.left_out.items():
        yield "left out", f"{what}: {why}."


def _list(gaps: Mapping[str, Measured]) -> str:
    """Differences of losses as text, with the sign of the summary table and the word for it."""
    words = {
        name: "the same within noise" if not gap.sure else ("worse" if gap.value > 0 else "better")
        for name, gap in gaps.items()
    }
    return "; ".join(f"{name} {words[name]}, {gap.signed}" for name, gap in gaps.items())


def _percent(share: Measured) -> str:
    return f"{share.value:.0%} ± {share.error:.0%}"


def _unsigned(size: Measured) -> str:
    return str(Measured(abs(size.value), size.error))
