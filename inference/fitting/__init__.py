"""How a model is fitted and a fit is kept: modes, posteriors, verdicts, run directories."""
