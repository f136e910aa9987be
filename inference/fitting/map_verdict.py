"""The verdict on a MAP fit: whether descent ended at a mode, and not early or at a saddle."""

import numpy as np
from jaxtyping import Array

from probattn.inference.contract import NumPyroModel
from probattn.inference.fitting.hessian import MOST_PARAMETERS, Curvature, curvature
from probattn.inference.fitting.unconstrained import Values, tree_size
from probattn.inference.fitting.verdict import Verdict

# Nats that a Newton step may still gain: at most one posterior standard deviation.
NEWTON_GAIN = 0.5
SAME_MODE = 1.0  # nats: starts whose losses differ by less count as having found one mode


def judge(
    model: NumPyroModel,
    data: Array,
    mode: Values,
    coordinates: str,
    at_rest: bool,
    losses: np.ndarray | None = None,
    batch_size: int | None = None,
    nans: int = 0,
    found: Curvature | None = None,
    on_disk: bool = False,
) -> Verdict:
    """Judge whether a point in unconstrained coordinates is a mode of the density.

    It is one if descent was at rest, a Newton step would gain at most 0.5 nats, and the Hessian has
    no clearly negative eigenvalue. Where there is no Hessian, being at rest is enough.

    Args:
        mode: the point, in unconstrained coordinates.
        coordinates: "constrained" or "unconstrained", those of the density.
        at_rest: whether the loss had stopped falling.
        losses: the loss at the end of each start, in nats; None if there was no descent.
        batch_size: of the minibatches, None if there were none; it decides what to advise.
        nans: number of steps that met a NaN. It is reported, since a NaN is a numerical failure and
            not the boundary, where the loss is infinite.
        found: the curvature at `mode`, if it is known already.
        on_disk: whether the data stay on disk, so that there is no Hessian.
    """
    found = found or curvature(model, data, mode, coordinates)
    findings, advice, notes = [], [], []
    if not at_rest:
        findings.append("The loss was still falling at the last step.")
        advice.append("Allow more steps (`num_steps`).")
    if found.decrement > NEWTON_GAIN:
        findings.append(
            f"A Newton step would still gain {found.decrement:.2f} nats (limit {NEWTON_GAIN})."
        )
        if at_rest:
            small = "use a larger batch_size or " if batch_size else ""
            advice.append(f"{small.capitalize()}{'lower' if small else 'Lower'} learning_rate.")
    if found.saddle:
        assert found.eigenvalues is not None
        findings.append(
            f"It is a saddle: the smallest eigenvalue of the Hessian is {found.eigenvalues[0]:.3g}."
        )
        advice.append("Start elsewhere (another key), or from several points (`num_starts`).")
    if losses is not None and len(losses) > 1:
        same = int((losses < np.nanmin(losses) + SAME_MODE).sum())
        notes.append(
            f"{same} of {len(losses)} starts ended within {SAME_MODE:g} nat of the best; the "
            f"worst is {np.nanmax(losses) - np.nanmin(losses):.1f} above it."
        )
    if nans:
        notes.append(
            f"{nans} steps led to a loss that is not a number, a numerical failure, and were "
            "halved."
        )
    if found.eigenvalues is None:
        why = (
            f"{tree_size(mode)} numbers, more than {MOST_PARAMETERS}"
            if tree_size(mode) > MOST_PARAMETERS
            else "the data stay on disk"
            if on_disk
            else "the Hessian is not finite"
        )
        notes.append(f"Curvature was not looked at: {why}.")
    converged = not findings
    if converged:
        reached = f"gradient norm {found.gradient_norm:.2g}{_gain_text(found)}."
        if found.eigenvalues is None:
            unknown = "Whether a step would gain anything, or this is a saddle, is not known."
            findings.append(
                f"Descent came to rest, in {coordinates} coordinates: {reached} {unknown}"
            )
        else:
            findings.append(f"A local mode in {coordinates} coordinates was reached: {reached}")
    numbers = {"gradient_norm": found.gradient_norm, "decrement": found.decrement}
    if found.eigenvalues is not None:
        numbers |= {
            "smallest_eigenvalue": float(found.eigenvalues[0]),
            "flat_directions": int((~found.curved).sum()),
        }
    return Verdict(converged, tuple(findings), tuple(advice), tuple(notes), numbers)


def _gain_text(found: Curvature) -> str:
    return "" if np.isnan(found.decrement) else f", {found.decrement:.2g} nats from it"
