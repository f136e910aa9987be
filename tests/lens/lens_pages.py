"""A tiny measured text, and tokens that a page could stumble over."""

import numpy as np
from references import pair

from probattn.lens import lens, load_transformer

STRANGE = [
    "<b>",
    "&amp",
    "\\n",
    "\\xe2",
    "\u05e9\u05dc\u05d5\u05dd",
    "\U0001f642",
    ' "quoted"',
    "$x_1$",
    "</script>",
    "{{ 1 }}",
    " ",
    "\u4e2d",
]


def measured(length=12, **options):
    """The model qwen3 at some of its tokens."""
    ids = (np.arange(length) + 3) % 48
    return lens(load_transformer(pair("qwen3")), ids, **options)


def with_tokens(found, tokens):
    """The same numbers at tokens with other texts."""
    return found.assign_coords(token=("position", np.array(tokens, object)))
