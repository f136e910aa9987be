"""One attention map and the law of the embedding paths that it defines.

From the mean over its Jacobian, margins and barrier to the transform and the process. Nothing here
knows of tokens, priors or fits. Theory, sections 1 to 5.
"""
