"""A comparison as JSON; `templates/report.schema.json` describes each number."""

import dataclasses
import math
from typing import Any

import numpy as np

from probattn.inference.data.array_file import with_folder, write_json
from probattn.inference.devices.environment import versions
from probattn.inference.evaluation.measured import QUANTILES
from probattn.inference.evaluation.predictive_check import PredictiveCheck
from probattn.inference.evaluation.scores import has_chains
from probattn.inference.evaluation.support import ALWAYS_ONE
from probattn.inference.report.comparison import Comparison
from probattn.inference.report.sentences import findings, warnings_of

SCHEMA = 3  # version of the schema, raised when a field moves or changes its meaning


def save_json(comparison: Comparison, path: Any) -> None:
    """Write `comparison_json` to `path`; the file is never partial."""
    write_json(with_folder(path), comparison_json(comparison))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values, with NaN as null and quantiles of margins and spectra."""
    fields = {
        field.name: getattr(comparison, field.name) for field in dataclasses.fields(comparison)
    }
    del fields["margins"], fields["spectra"], fields["curve"], fields["heldout_counts"]
    traces = {
        score.name: score.per_draw.sum(-1) / score.num_tokens
        for score in comparison.scores
        if has_chains(score)
    }
    return _plain(
        {
            "schema": SCHEMA,
            "warnings": [finding._asdict() for finding in warnings_of(comparison)],
            "findings": [finding._asdict() for finding in findings(comparison)],
            **fields,
            "prior": _check(comparison.prior),
            "checks": {name: _check(one) for name, one in comparison.checks.items()},
            "power_scaling": {
                name: _plain(one) | {"decided": {part: one.decided_by(part) for part in one.parts}}
                for name, one in comparison.power_scaling.items()
            },
            "answers": [
                {
                    **_plain(answer),
                    "words": {name: answer.word(name) for name in answer.differences},
                }
                for answer in comparison.answers
            ],
            "quantiles": QUANTILES,
            "margins": {
                name: {
                    "by_position": _quantiles(margins, (0, 1)),
                    "all": _quantiles(margins[..., ALWAYS_ONE:], None),
                }
                for name, margins in comparison.margins.items()
            },
            "spectra": {
                name: np.quantile(values, QUANTILES, axis=0)
                for name, values in comparison.spectra.items()
            },
            "traces": traces,
            "learning_curve": None if comparison.curve is None else _curve(comparison.curve),
            "versions": versions(),
        }
    )


def _check(check: PredictiveCheck) -> dict[str, Any]:
    return {
        "source": check.source,
        "sequences": check.sequences,
        "draws": check.number,
        "p_values": check.p_values(),
        "adjusted": check.adjusted(),
    }


def _curve(curve: Any) -> dict[str, Any]:
    fields = {field.name: getattr(curve, field.name) for field in dataclasses.fields(curve)}
    del fields["log_prob"], fields["counts"]
    losses = {name: curve.losses(name) for name in curve.methods}
    return fields | {
        "losses": {
            name: [{"value": v, "error": e} for v, e in zip(*both, strict=True)]
            for name, both in losses.items()
        }
    }


def _quantiles(values: np.ndarray, axis: Any) -> list[Any]:
    """Quantiles of values (draws, n, positions) over `axis`, at positions that any sequence has."""
    values = values[..., np.isfinite(values).any((0, 1))]
    return np.nanquantile(values, QUANTILES, axis=axis).tolist() if values.size else []


def _plain(value: Any) -> Any:
    """A value as JSON values, without the dataclass fields that are marked as internal."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [
            field.name for field in dataclasses.fields(value) if not field.metadata.get("internal")
        ]
        return {name: _plain(getattr(value, name)) for name in kept}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.bool_):
        return bool(value)
    return int(value) if isinstance(value, np.integer) else value
