"""What is fitted: corpora, n-gram baselines, typos, and arrays on disk.

Nothing here knows what a fit is.
"""
