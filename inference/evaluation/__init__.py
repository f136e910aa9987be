"""Numbers about fits: scores, predictions, margins, convergence. No figures, and nothing of
matplotlib."""
