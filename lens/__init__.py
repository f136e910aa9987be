"""Pretrained decoder-only transformers: their weights as JAX arrays, and a plain forward pass.

    from probattn.lens import encode, load_transformer, logits
    model = load_transformer("folder")
    logits(model, encode(model, "Some text."))  # of the next token after each token, (t, v)

A model comes from a folder of config.json and safetensors, from a GGUF file, or from a
configuration and a state dict in memory. Nothing in what is loaded executes. Files need the extra:
`pip install "probattn[lens]"`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
