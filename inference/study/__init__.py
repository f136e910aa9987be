"""The robustness study: transformers with the barrier or a rival, under stress, and the report."""
