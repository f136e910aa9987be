"""How a model is fitted and a fit is kept: modes, posteriors, their verdicts, run directories. No
figures."""
