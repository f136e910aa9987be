"""Tokens emitted by latent embeddings, which a particle filter integrates out (theory, section 9).

This package uses `attention` and `sequence`. The model with priors is
`probattn.models.EmissionModel`.
"""
