"""What is fitted: corpora, the n-grams they are compared with, typos, and arrays on disk. Nothing
here knows a fit."""
