"""Do chains lie at different levels of the density? Then each stays near a mode of its own."""

import numpy as np

APART = 5.0  # standard deviations of a chain's own draws between the levels of two chains
ADVICE = (
    "More draws hardly bring such chains together. Let all start on the way to the best of many "
    "modes (start=fit_map(model, data, key=key, num_starts=16)); their agreement then says nothing "
    "about other modes."
)


def levels_apart(log_density: np.ndarray) -> str:
    """What to say of chains whose log densities are apart; nothing where they are not.

    Draws of one posterior in n coordinates have a log density that spreads by some sqrt(n / 2). Of
    chains whose means are apart by many times that, those below hold next to nothing of the mass.

    Args: log_density, up to a constant, (chains, draws)."""
    means, spread = np.mean(log_density, 1, float), np.std(log_density, 1, float).max()
    if not np.isfinite(means).all() or np.ptp(means) <= APART * spread:
        return ""
    below = ", ".join(f"{means.max() - mean:.0f}" for mean in means)
    return (
        f"The chains' mean log densities lie {below} nats below the highest, and within a chain "
        f"they spread by {spread:.0f}: chains are near different modes, or still on the way."
    )
