"""Foreign text made harmless for a terminal: what a model wrote can neither move the cursor nor lie.

Control characters, escape sequences, bidirectional overrides and lone surrogates are shown as
visible signs. Line feeds and tabs stay. Markup (rich, HTML) is the printer's concern.
"""

from __future__ import annotations

import re

_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """The text with every control character replaced: C0 by its control picture, others as `<U+202E>`."""
    return _HARMFUL.sub(_sign, text)


def printable_line(text: str, width: int = 80) -> str:
    """The text on one line of at most `width` characters, ending in '…' where it was cut."""
    line = printable(" ".join(text[: 8 * width].split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"
