"""Text whose control characters are seen and not obeyed."""

import unicodedata

# Controls, lone surrogates, and separators of lines and paragraphs.
CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
# They change the direction of what follows, so that it looks like another text.
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def visible_symbol(symbol: str) -> str:
    """One symbol of a table: spaces as ␣, and one that has no shape by its code.

    Example:

        >>> from probattn.visible_text import visible_symbol
        >>> print(visible_symbol(" "), visible_symbol(chr(0x200D)), visible_symbol("a"))
        ␣ \\u200d a
    """
    if symbol and not symbol.strip(" "):
        return "␣" * len(symbol)
    if len(symbol) == 1 and unicodedata.category(symbol) in ("Cf", "Zs"):
        return ascii(symbol)[1:-1]
    return visible(symbol)


def visible(text: str, keep: str = "") -> str:
    """The text with its control characters as Python writes them, such as \\x1b for escape.

    They could move the cursor of a terminal, recolour it or set its title, and break a page. The
    exact text is in a report's JSON.

    Args: keep, control characters that stay.

    Example:

        >>> from probattn.visible_text import visible
        >>> print(visible("a\\x1b[31mb"))
        a\\x1b[31mb
    """
    return "".join(
        ascii(one)[1:-1]
        if one not in keep and (unicodedata.category(one) in CATEGORIES or one in DIRECTIONS)
        else one
        for one in text
    )
