"""How the host's text encoders read a word: the tokenizer that lies in ComfyUI, the same for every SDXL."""

from __future__ import annotations

from functools import cache

from comfy import sd1_clip

from ...b4m_core.concepts import Vocabulary


@cache
def vocabulary() -> Vocabulary:
    """CLIP's vocabulary, read once."""
    tokenizer = sd1_clip.SDTokenizer().tokenizer
    return Vocabulary(tokenizer.tokenize, tokenizer.get_vocab())
