"""What one does with any model: fit it by MAP or by full posterior sampling, compare fits, store them."""

from probattn.inference.calibration import Calibration, simulation_based_calibration
from probattn.inference.calibration_figure import plot_calibration
from probattn.inference.compare import Comparison, compare
from probattn.inference.corpus import Corpus, load_corpus
from probattn.inference.fit import Fit
from probattn.inference.generation_figure import plot_generation
from probattn.inference.map import fit_map
from probattn.inference.particles import ParticleLogProb, particle_log_prob
from probattn.inference.posterior import sample_posterior
from probattn.inference.storage import load_run, save_run

__all__ = [
    "Calibration",
    "Comparison",
    "Corpus",
    "Fit",
    "ParticleLogProb",
    "compare",
    "fit_map",
    "load_corpus",
    "load_run",
    "particle_log_prob",
    "plot_calibration",
    "plot_generation",
    "sample_posterior",
    "save_run",
    "simulation_based_calibration",
]
