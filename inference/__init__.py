"""What one does with any model: fit it by MAP or by full posterior sampling, diagnose and compare fits, store them."""

from probattn.inference.calibration import Calibration, simulation_based_calibration
from probattn.inference.calibration_figure import plot_calibration
from probattn.inference.compare import Comparison, compare
from probattn.inference.corpus import Corpus, load_corpus
from probattn.inference.diagnose import Diagnosis, LeaveOneOut, diagnose, leave_one_out
from probattn.inference.fit import Fit
from probattn.inference.generation_figure import plot_generation
from probattn.inference.identity import Density
from probattn.inference.laplace import fit_ensemble, fit_laplace
from probattn.inference.map import fit_map
from probattn.inference.microcanonical import sample_microcanonical
from probattn.inference.particles import ParticleLogProb, particle_log_prob
from probattn.inference.posterior import load_posterior, resume_posterior, sample_posterior
from probattn.inference.storage import load_run, save_run
from probattn.inference.verdict import Verdict

__all__ = [
    "Calibration",
    "Comparison",
    "Corpus",
    "Density",
    "Diagnosis",
    "Fit",
    "LeaveOneOut",
    "ParticleLogProb",
    "Verdict",
    "compare",
    "diagnose",
    "fit_ensemble",
    "fit_laplace",
    "fit_map",
    "leave_one_out",
    "load_corpus",
    "load_posterior",
    "load_run",
    "particle_log_prob",
    "plot_calibration",
    "plot_generation",
    "resume_posterior",
    "sample_microcanonical",
    "sample_posterior",
    "save_run",
    "simulation_based_calibration",
]
