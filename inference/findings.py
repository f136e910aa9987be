"""What the numbers of a comparison say, in sentences: no verdict without an interval, and noise is called noise."""

from collections.abc import Iterator
from typing import NamedTuple

from probattn.inference.answers import reference_of
from probattn.inference.compare import Comparison
from probattn.inference.estimates import Measured, ratio
from probattn.inference.robustness import NOISE
from probattn.inference.scores import BASELINES, Difference


class Finding(NamedTuple):
    """A sentence, what it is about, and the fit that it is about, if it is one."""

    topic: str
    text: str
    fit: str = ""


def warnings_of(comparison: Comparison) -> list[Finding]:
    """What a reader must know before the findings: runs that are unfinished or have not converged, densities that differ."""
    found = [
        Finding(
            "unfinished",
            f"{name} is unfinished: {draws} of {planned} draws a chain. All of its numbers are provisional.",
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
        Finding("different densities", f"Fits of different densities were mixed knowingly: {mixed}.")
        for mixed in comparison.mixed
    ]
    return found


def findings(comparison: Comparison) -> list[Finding]:
    """What was found, the most important first."""
    parts = (
        _predictions,
        _baselines,
        _calibration,
        _uncertainty,
        _detection,
        _robustness,
        _curve,
        _geometry,
        _left_out,
    )
    return [Finding(topic, text) for part in parts for topic, text in part(comparison)]


def _predictions(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for difference in comparison.differences:
        yield "prediction", _better(difference)
    for score in comparison.scores:
        if score.monte_carlo_error:
            yield (
                "prediction",
                f"{score.name}: its held-out log probability is estimated by particles, to within {score.monte_carlo_error:.4f} "
                f"nats per token, and on average too low by about {score.monte_carlo_bias:.4f}.",
            )


def _better(difference: Difference) -> str:
    first, second, size = difference.first, difference.second, difference.per_token
    one, other = difference.densities
    apart = "" if one == other else f" They are different densities: {one} and {other}."
    between = f"{_unsigned(size)} nats per token (paired)"
    if not size.sure:
        return f"{first} and {second} predict equally well within noise: they differ by {between}.{apart}"
    better, worse = (first, second) if size.value > 0 else (second, first)
    return f"{better} predicts held-out sequences better than {worse}, by {between}.{apart}"


def _baselines(comparison: Comparison) -> Iterator[tuple[str, str]]:
    baselines = [score for score in comparison.scores if score.name in BASELINES and score.method == "baseline"]
    best = max(baselines, key=lambda score: score.per_token.value)
    for score in comparison.scores:
        if score.method != "baseline":
            gain = _gain(score.log_probs, best.log_probs, comparison)
            if gain.sure:
                word = "better" if gain.value > 0 else "worse"
                yield (
                    "baseline",
                    f"{score.name} predicts {word} than the {best.name} of the same sequences, by {_unsigned(gain)} nats per token.",
                )
            else:
                yield (
                    "baseline",
                    f"{score.name} and the {best.name} of the same sequences predict equally well within noise ({gain} nats per token).",
                )


def _gain(one, other, comparison: Comparison) -> Measured:
    return ratio(one - other, comparison.heldout_counts)


def _calibration(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for name in comparison.methods:
        if name in comparison.reliability:
            yield "calibration", f"{name} is {comparison.reliability[name].verdict()}"


def _uncertainty(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for name, one in comparison.uncertainty.items():
        if one.mutual_information.value > 0.0005:
            share = one.mutual_information.value / one.total.value
            yield (
                "uncertainty",
                f"{name}: of {one.total} nats of uncertainty of the next token its draws disagree about {one.mutual_information} "
                f"({share:.1%}); the rest is in the data.",
            )


def _detection(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for where, by_name in comparison.detection.items():
        best = max(
            (one for some in by_name.values() for one in some if one.score != "surprise"),
            key=lambda one: one.area.value,
        )
        surprise = max(
            (one for some in by_name.values() for one in some if one.score == "surprise"),
            key=lambda one: one.area.value,
        )
        names = {id(one): name for name, some in by_name.items() for one in some}
        gap = surprise.minus(best)
        compared = "within noise of" if not gap.sure else ("more than" if gap.value > 0 else "less than")
        yield (
            "detection",
            f"Sequences that are {where} are told from held-out ones with area {best.area} by the best uncertainty ({best.score} of "
            f"{names[id(best)]}; 0.5 is chance), and {surprise.area} by surprise: {compared} it.",
        )  # fmt: skip


def _robustness(comparison: Comparison) -> Iterator[tuple[str, str]]:
    reference = reference_of(comparison.methods)
    for disturbance, by_name in comparison.robustness.items():
        for name, one in by_name.items():
            if name == reference:
                continue
            level = len(one.levels) - 1 if disturbance != NOISE else one.levels.index(0.4)
            gap = by_name[reference].minus(one, level)
            what = (
                "embedding noise of 0.4 root mean squares"
                if disturbance == NOISE
                else f"{one.levels[level]} typos each ({disturbance})"
            )
            fair = f", both averaged over as many noises ({reference} alone, without averaging: {by_name[reference].loss[level]})" if disturbance == NOISE and by_name[reference].averaged else ""  # fmt: skip
            if gap.sure:
                word = "less" if gap.value > 0 else "more"
                yield (
                    "robustness",
                    f"Under {what} {name} loses {word} than {reference}, by {_unsigned(gap)} nats per token{fair}.",
                )
            else:
                yield (
                    "robustness",
                    f"Under {what} {name} and {reference} lose as much within noise ({gap} nats per token){fair}.",
                )


def _curve(comparison: Comparison) -> Iterator[tuple[str, str]]:
    if comparison.curve is not None:
        for sentence in comparison.curve.verdicts():
            yield "training size", sentence


def _geometry(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for one in comparison.disagreements:
        yield (
            "support tokens",
            f"{one.point} and {one.draws} name different support tokens in {_percent(one.share)} of the sequences that have a "
            f"choice; in {_percent(one.unsure)} {one.draws} gives no position more than one half.",
        )
    for name, unique in comparison.uniqueness.items():
        yield "density", f"{name}: {unique.verdict()}"
    for name, found in comparison.leave_one_out.items():
        per = Measured(found.log_prob, found.standard_error)
        yield (
            "leave-one-out",
            f"{name}: PSIS-LOO gives the training sequences {per.value:.1f} ± {per.error:.1f} nats. {found.verdict.findings[0]}",
        )


def _left_out(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for what, why in comparison.left_out.items():
        yield "left out", f"{what}: {why}."


def _percent(share: Measured) -> str:
    return f"{share.value:.0%} ± {share.error:.0%}"


def _unsigned(size: Measured) -> str:
    return str(Measured(abs(size.value), size.error))
