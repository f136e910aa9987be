"""One attention map and the law of the embeddings it makes: mean, Jacobian, margins, barrier,
transform, process.

Nothing here knows of tokens, priors or fits. Theory, sections 1 to 5.
"""
