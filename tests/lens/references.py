"""Tiny random models of each family, with the logits that transformers computed for them.

`reference/make_reference.py` makes them."""

import json
from pathlib import Path

from safetensors.numpy import load_file

REFERENCE = Path(__file__).parent / "reference"
MODELS = sorted(path.parent.name for path in REFERENCE.glob("*/config.json"))


def expected(name):
    """Token ids (t,), and the logits after each (t, v)."""
    found = load_file(REFERENCE / name / "expected.safetensors")
    return found["tokens"], found["logits"]


def pair(name):
    """The fields of config.json and the tensors by name, both to be changed at will."""
    fields = json.loads((REFERENCE / name / "config.json").read_text())
    return fields, load_file(REFERENCE / name / "model.safetensors")
