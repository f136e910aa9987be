"""What one does with any model: fit it by MAP or by full posterior sampling, diagnose and compare fits, store them."""

from probattn.inference.calibration import Calibration, simulation_based_calibration
from probattn.inference.compare import compare
from probattn.inference.comparison import Comparison
from probattn.inference.corpus import Corpus, load_corpus
from probattn.inference.curve import LearningCurve
from probattn.inference.curve_figure import plot_learning_curve
from probattn.inference.curve_file import load_curve, save_curve
from probattn.inference.detection import detection, plot_detection, reversed_order, shuffled
from probattn.inference.diagnose import Diagnosis, LeaveOneOut, diagnose, leave_one_out
from probattn.inference.estimates import Measured
from probattn.inference.fit import Fit
from probattn.inference.generation_figure import plot_generation
from probattn.inference.geometry import plot_spectrum, singular_values, uniqueness
from probattn.inference.identity import Density
from probattn.inference.laplace import fit_ensemble, fit_laplace
from probattn.inference.learning_curve import learning_curve
from probattn.inference.map import fit_map
from probattn.inference.microcanonical import sample_microcanonical
from probattn.inference.mode import draw_scores, plot_mode_against_draws
from probattn.inference.particles import ParticleLogProb, particle_log_prob
from probattn.inference.posterior import load_posterior, resume_posterior, sample_posterior
from probattn.inference.predictive import Prediction, predict
from probattn.inference.rank_figure import plot_ranks
from probattn.inference.reliability import plot_calibration, reliability
from probattn.inference.robustness import plot_robustness, robustness
from probattn.inference.scores import plot_scores, plot_traces
from probattn.inference.storage import load_run, save_run
from probattn.inference.support import margins_of, plot_margins, plot_support
from probattn.inference.typos import with_typos
from probattn.inference.uncertainty import plot_uncertainty, uncertainty
from probattn.inference.verdict import Verdict

__all__ = [
    "Calibration",
    "Comparison",
    "Corpus",
    "Density",
    "Diagnosis",
    "Fit",
    "LearningCurve",
    "LeaveOneOut",
    "Measured",
    "ParticleLogProb",
    "Prediction",
    "Verdict",
    "compare",
    "detection",
    "diagnose",
    "draw_scores",
    "fit_ensemble",
    "fit_laplace",
    "fit_map",
    "learning_curve",
    "leave_one_out",
    "load_corpus",
    "load_curve",
    "load_posterior",
    "load_run",
    "margins_of",
    "particle_log_prob",
    "plot_calibration",
    "plot_detection",
    "plot_generation",
    "plot_learning_curve",
    "plot_margins",
    "plot_mode_against_draws",
    "plot_ranks",
    "plot_robustness",
    "plot_scores",
    "plot_spectrum",
    "plot_support",
    "plot_traces",
    "plot_uncertainty",
    "predict",
    "reliability",
    "resume_posterior",
    "reversed_order",
    "robustness",
    "sample_microcanonical",
    "sample_posterior",
    "save_curve",
    "save_run",
    "shuffled",
    "simulation_based_calibration",
    "singular_values",
    "uncertainty",
    "uniqueness",
    "with_typos",
]
