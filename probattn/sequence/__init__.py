"""The law of token sequences that a causal model defines (theory, section 8).

Sampling, marginals, termination, the random set of visited tokens, and mixtures. Here a model is a
function from tokens to logits; nothing in this room may depend on attention.
"""
