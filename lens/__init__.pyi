from .forward import logits as logits
from .forward import streams as streams
from .loading import load_transformer as load_transformer
from .measurement import lens as lens
from .support import support_tokens as support_tokens
from .tokenization import encode as encode
from .tokenization import token_texts as token_texts
from .transformer import Transformer as Transformer
