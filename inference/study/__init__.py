"""The robustness study: transformers trained with the barrier and with its rivals, under stress,
and its page."""
