"""The law of token sequences that a causal model makes: sampling, marginals, survival, the random
set, mixtures.

What attention computes is not known here: a model is a function from tokens to logits. Theory,
sections 6 to 8."""
