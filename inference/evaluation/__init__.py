"""Numbers about fits: scores, predictions, margins, convergence; nothing here loads matplotlib."""
