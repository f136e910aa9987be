"""A comparison as a self-contained page and as JSON."""

import base64
import dataclasses
import io
import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from probattn.inference.compare import Comparison, Difference
from probattn.inference.diagnose import ESS_LIMIT, RHAT_LIMIT
from probattn.inference.environment import versions
from probattn.inference.figures import ALWAYS_ONE, attending, figures

CAPTIONS = {
    "scores": "Held-out loss of each predictor, with two standard errors. Look at whether the fits beat the bigram that "
    "saw the same sequences. The bars of two predictors may overlap and still differ for sure: the paired difference "
    "in the table is the test.",
    "margins": "Stability margins of held-out positions with at least two tokens before them. Near 0 attention is "
    "ill-conditioned there. Look at how far the posterior spreads where the MAP gives one value.",
    "support_tokens": "The support token is the position with the smallest margin. The MAP names one (triangle); the "
    "posterior gives each position a probability (bars). Look at where they disagree, and where no position is sure.",
    "traces": "Held-out log probability of single draws, chain by chain. Chains that have converged overlap and show no "
    "trend. The posterior as a whole, a mixture of the draws, is better than most of its draws.",
}


def save_html(comparison: Comparison, path: Any) -> None:
    """Write the page to `path`, whole or not at all."""
    loader = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = loader.from_string(files("probattn.inference").joinpath("templates/report.html").read_text("utf-8"))
    page = template.render(
        comparison=comparison,
        verdicts=verdicts(comparison),
        figures=[
            (name, _data_uri(figure), CAPTIONS[name], _alt(comparison, name))
            for name, figure in figures(comparison).items()
        ],
        scores=sorted(comparison.scores, key=lambda score: -score.log_prob_per_token),
        versions=versions(),
        rhat_limit=RHAT_LIMIT,
        ess_limit=ESS_LIMIT,
    )
    _write(Path(path), page)


def save_json(comparison: Comparison, path: Any) -> None:
    """Write every number of the comparison to `path` as JSON."""
    _write(Path(path), json.dumps(comparison_json(comparison), indent=1, allow_nan=False))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values: NaN is null; margins are summarised by quantiles."""
    quantiles = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1)

    def summary(margins: np.ndarray) -> dict[str, float]:
        values = attending(margins)
        return (
            {f"{q:g}": float(v) for q, v in zip(quantiles, np.quantile(values, quantiles), strict=True)}
            if len(values)
            else {}
        )

    return _plain(
        {
            "about": comparison.about,
            "versions": versions(),
            "scores": [dataclasses.asdict(score) for score in comparison.scores],
            "differences": [dataclasses.asdict(difference) for difference in comparison.differences],
            "diagnostics": [dataclasses.asdict(diagnosis) for diagnosis in comparison.diagnostics],
            "modes": {name: dataclasses.asdict(verdict) for name, verdict in comparison.modes.items()},
            "mixed_densities": list(comparison.mixed),
            "margin_quantiles": {name: summary(margins) for name, margins in comparison.margins.items()},
            "traces": comparison.traces,
            "examples": [dataclasses.asdict(example) for example in comparison.examples],
        }
    )


def verdicts(comparison: Comparison) -> list[str]:
    """What the numbers say, in sentences; a difference within two standard errors is called noise."""
    sentences = [f"Fits of different densities were mixed knowingly: {mixed}." for mixed in comparison.mixed]
    sentences += [_difference_verdict(difference) for difference in comparison.differences]
    for score in comparison.scores:
        if score.monte_carlo_error:
            sentences.append(
                f"{score.name}: its held-out log probability is estimated by particles, to within {score.monte_carlo_error:.4f} "
                f"nats per token, and on average too low by about {score.monte_carlo_bias:.4f}."
            )
    for diagnosis in comparison.diagnostics:
        sentences.append(f"{diagnosis.name}: {diagnosis.verdict}")
    sentences += [f"{name}: {verdict}" for name, verdict in comparison.modes.items()]
    best = max((s for s in comparison.scores if s.name in ("unigram", "bigram")), key=lambda s: s.log_prob_per_token)
    for score in comparison.scores:
        if score.kind != "baseline":
            gain = score.log_prob_per_token - best.log_prob_per_token
            word = "better" if gain > 0 else "worse"
            sentences.append(
                f"{score.name}: {abs(gain):.3f} nats per token {word} than the {best.name} of the same sequences."
            )
    return sentences


def _difference_verdict(difference: Difference) -> str:
    size, error = difference.log_prob_per_token, difference.standard_error
    one, other = difference.densities
    apart = "" if one == other else f" They are different densities: {one} and {other}."
    between = f"{abs(size):.4f} ± {error:.4f} nats per token (paired)"
    if abs(size) <= 2 * error:
        return f"{difference.first} and {difference.second} predict equally well within noise: they differ by {between}.{apart}"
    better, worse = (difference.first, difference.second) if size > 0 else (difference.second, difference.first)
    return f"{better} predicts held-out sequences better than {worse}, by {between}.{apart}"


def _alt(comparison: Comparison, name: str) -> str:
    if name == "scores":
        listed = "; ".join(f"{score.name} {-score.log_prob_per_token:.3f}" for score in comparison.scores)
        return f"Held-out loss in nats per token: {listed}."
    if name == "margins":
        medians = "; ".join(f"{fit} {np.nanmedian(m[..., ALWAYS_ONE:]):.2f}" for fit, m in comparison.margins.items())
        return f"Histogram of stability margins; medians: {medians}."
    if name == "support_tokens":
        return f"Support-token probabilities of {len(comparison.examples)} sequences; the table below has the same numbers."
    return "Held-out log probability of each draw, one line a chain."


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
