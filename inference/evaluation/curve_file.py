"""Learning curves on disk: one file of arrays, written atomically."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from probattn.errors import InputError
from probattn.inference.data.array_file import DamagedFile, read_arrays, write_arrays
from probattn.inference.evaluation.curve import LearningCurve

CURVE_FORMAT = 1  # raised whenever what the file holds changes
JUDGED = (None, False, True)  # a file holds each `converged` as its index in this tuple


def save_curve(path: str | Path, curve: LearningCurve) -> None:
    """Write a curve to one file atomically, replacing an existing file.

    Raises: InputError if the folder does not exist or the path is a folder; FitError if writing
    fails.
    """
    path = Path(path)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(
            f"{path}: cannot be written (expected the name of a file in a folder that exists)"
        )
    names = list(curve.methods)
    table: dict[str, np.ndarray] = {
        what: np.array([getattr(curve, what)[name] for name in names])
        for what in ("seconds", "gradients", "unfinished")
    }
    table["converged"] = np.array(
        [[JUDGED.index(value) for value in curve.converged[name]] for name in names]
    )
    table["log_prob"] = np.stack([curve.log_prob[name] for name in names])
    about = {"format": CURVE_FORMAT, "names": names, "methods": list(curve.methods.values())}
    about |= {"model": curve.model, "heldout": curve.heldout}
    write_arrays(path, {"sizes": curve.sizes, "counts": curve.counts, **table}, about)


def load_curve(path: str | Path, heldout_tokens: Any = None) -> LearningCurve:
    """Read a curve that `save_curve` wrote.

    Args:
        path: the file.
        heldout_tokens: if given, the held-out tokens (num_sequences, length) that the curve must
            have been computed on.

    Raises: InputError if the file is missing, damaged or of another format, or the curve is of
    other held-out sequences.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; make one with `probattn learning-curve`")
    try:
        arrays, about = read_arrays(path)
        if about["format"] == CURVE_FORMAT:
            curve = _from_arrays(arrays, about)
    except (DamagedFile, KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{path}: no learning curve, or a damaged one ({error}); make it again"
        ) from error
    if about["format"] != CURVE_FORMAT:
        raise InputError(
            f"{path}: written in format {about['format']}, this probattn reads {CURVE_FORMAT}; "
            "make it again"
        )
    if heldout_tokens is not None:
        curve.refuse_other(heldout_tokens)
    return curve


def _from_arrays(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> LearningCurve:
    names = about["names"]

    def by_name(what: str) -> dict[str, Any]:
        return {name: tuple(row.tolist()) for name, row in zip(names, arrays[what], strict=True)}

    return LearningCurve(
        sizes=arrays["sizes"],
        log_prob=dict(zip(names, arrays["log_prob"], strict=True)),
        counts=arrays["counts"],
        methods=dict(zip(names, about["methods"], strict=True)),
        converged={
            name: tuple(JUDGED[value] for value in row)
            for name, row in by_name("converged").items()
        },
        seconds=by_name("seconds"),
        gradients=by_name("gradients"),
        unfinished=by_name("unfinished"),
        model=about["model"],
        heldout=about["heldout"],
    )
