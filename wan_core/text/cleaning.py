"""Prompt cleaning, as the released tokenizer does it before it looks at a prompt."""

from __future__ import annotations

import html
import re

from ..errors import WanError


def clean_prompt(text: str) -> str:
    """Mend mojibake, undo HTML entities (twice: prompts are often escaped twice) and collapse whitespace.

    ftfy also straightens curly quotes and turns full-width forms into ASCII, the commas of the released
    Chinese negative prompt among them. Source: wan/modules/tokenizers.py, "whitespace" cleaning. Raises
    WanError when ftfy is not installed: without it such prompts would give other tokens than the released.
    """
    try:
        import ftfy
    except ImportError as error:
        raise WanError("ftfy: package not installed, needed to clean prompts; pip install ftfy") from error
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()
