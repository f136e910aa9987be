"""A comparison as a self-contained HTML page of verdicts, figures, tables and settings."""

import base64
import io
from functools import partial
from importlib.resources import files
from typing import Any

import jinja2
import markupsafe
import matplotlib as mpl
from matplotlib.figure import Figure

from probattn.inference.data.array_file import with_folder, write_text
from probattn.inference.devices.environment import versions
from probattn.inference.evaluation.convergence import ESS_LIMIT, RHAT_LIMIT
from probattn.inference.evaluation.scores import has_chains
from probattn.inference.report.captions import CAPTIONS, SECTIONS, alternative
from probattn.inference.report.comparison import Comparison
from probattn.inference.report.panels import figures
from probattn.inference.report.sentences import findings, warnings_of
from probattn.inference.report.style import DARK, STYLE, save_figure
from probattn.visible_text import visible

PACKAGE = "probattn.inference.report"  # whose templates and style these are


def save_html(comparison: Comparison, path: Any) -> None:
    """Write the page of a comparison to `path`; the file is never partial."""
    found, warnings = _by_topic(findings(comparison)), warnings_of(comparison)
    page = render(
        "report.html",
        comparison=comparison,
        title=title(comparison),
        lead=next(iter(found.get("prediction", ())), ""),
        warnings=warnings,
        findings=found,
        prior=comparison.prior.adjusted(),
        checks={name: check.adjusted() for name, check in comparison.checks.items()},
        sections=_sections(comparison),
        scores=sorted(comparison.scores, key=lambda score: score.loss),
        provisional={finding.fit: finding.topic for finding in reversed(warnings) if finding.fit},
        versions=versions(),
        rhat_limit=RHAT_LIMIT,
        ess_limit=ESS_LIMIT,
    )
    write_text(with_folder(path), page)


def render(template: str, package: str = PACKAGE, **values: Any) -> str:
    """A template of a package's folder `templates`, filled in, with the style of all pages.

    What it includes or imports is from the templates of this package."""
    loader = jinja2.Environment(
        loader=jinja2.FunctionLoader(partial(_read, PACKAGE)),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    loader.filters |= {"number": _number, "short": _short, "signed": _signed, "percent": _percent}
    css = markupsafe.Markup(_read(PACKAGE, "page.css"))
    return loader.from_string(_read(package, template)).render(css=css, **values)


def _read(package: str, name: str) -> str:
    return files(package).joinpath("templates", name).read_text("utf-8")


def title(comparison: Comparison) -> str:
    """The title of the page: the question it answers, or else the names of the fits."""
    methods = set(comparison.methods.values())
    if "map" in methods and any(has_chains(score) for score in comparison.scores):
        return "What does the posterior buy over the MAP?"
    return " beside ".join(comparison.methods)


def _sections(comparison: Comparison) -> dict[str, list[dict[str, str]]]:
    """The figures of each part of the page."""
    light, dark = figures(comparison), figures(comparison, dark=True)
    return {
        part: [
            {
                "name": name,
                "light": data_uri(light[name], STYLE),
                "dark": data_uri(dark[name], DARK),
                "caption": CAPTIONS[name],
                "alternative": alternative(comparison, name),
            }
            for name in names
            if name in light
        ]
        for part, names in SECTIONS.items()
    }


def _by_topic(found: list) -> dict[str, list[str]]:
    topics: dict[str, list[str]] = {}
    for finding in found:
        topics.setdefault(finding.topic, []).append(finding.text)
    return topics


def _shown(value: Any) -> Any:
    """A value as the page shows it: text with its control characters visible, markup as it is."""
    if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
        return visible(value, keep="\n\t")
    return value


def _number(value: float, digits: int = 4) -> str:
    return "" if value != value else f"{value:,.{digits}f}"


def _short(value: float) -> str:
    return "NaN" if value != value else f"{value:.3g}"


def _signed(value: float) -> str:
    return "NaN" if value != value else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _percent(value: float) -> str:
    return "NaN" if value != value else f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def data_uri(figure: Figure, style: dict) -> str:
    """A figure as a data URI, an SVG image that a page can embed."""
    buffer = io.BytesIO()
    with mpl.rc_context(style):
        save_figure(figure, buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
