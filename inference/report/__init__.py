"""Figures, tables and pages that show the numbers of `evaluation`."""
