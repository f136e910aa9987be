"""Tokens emitted by latent embeddings, which a particle filter integrates out. Theory, section 9.

It stands on `attention` and on `sequence`; the model with priors is
`probattn.models.EmissionModel`."""
