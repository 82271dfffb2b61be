"""Text as the words that comparisons see: case, width, spacing and punctuation do not count.

A number stays whole with its sign and inner marks (1,000 · 34-9-80 · 2/3), and symbols such as $ or %
stay, since they change what is said. Nothing is stemmed or left out as too common.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Set
from typing import Any

_TOKEN = re.compile(r"(?:(?<!\S)[-−+])?\d+(?:[.,:/⁄–-]\d+)*|[^\W\d_]+|\S")
_APOSTROPHES = str.maketrans("", "", "'’ʼ`")


def words(text: str) -> list[str]:
    """The words of `text` in order, NFKC-normalised and case-folded."""
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES)
    return [token for token in _TOKEN.findall(plain) if len(token) > 1 or _counts(token)]


def _counts(character: str) -> bool:
    return character == "%" or not unicodedata.category(character).startswith(("P", "C"))


def jaccard(left: Set[Any], right: Set[Any]) -> float:
    """Size of the intersection over size of the union, in [0, 1]; 1 for two empty sets."""
    shared = len(left & right)
    union = len(left) + len(right) - shared
    return shared / union if union else 1.0
