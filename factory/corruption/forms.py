"""Answers that were cut off, and answers with something in them that belongs to no answer.

What is said stays right as far as it goes; how it is written is at fault. A cut answer always shows that it
was cut: it ends without the mark that the whole one ends with, or within a word or a bracket.
"""

from __future__ import annotations

import json
import re
from random import Random

from factory.corruption.case import Case, replaced

_CLOSING = ".!?)]\"”'"


def truncated(case: Case, rng: Random) -> str | None:
    """The beginning of the answer."""
    answer = case.answer.strip()
    places = [match.end() for match in re.finditer(r"[^\W_]+|\(\S?|\S", answer)]
    places = [at for at in places if at < len(answer)]
    ends = answer[-1:] in _CLOSING
    if not ends:  # after a word it would not show
        places = [at for at in places if answer[:at].count("(") > answer[:at].count(")")]
        for match in re.finditer(r"[^\W_]{4,}", answer):
            places += range(match.start() + 2, match.end() - 1)
    made = [answer[:at].rstrip() for at in places]
    made = [text for text in made if text and not (ends and text[-1] in ".!?")]
    return rng.choice(made) if made else None


def broken_form(case: Case, rng: Random) -> str | None:
    """The answer with what a model or a program left in it: labels, markup, escapes, lost spaces."""
    answer = case.answer
    words = [match.span() for match in re.finditer(r"\w+", answer) if match[0].isalpha()]
    quoted = json.dumps(answer, ensure_ascii=False)
    made = [
        f"Answer: {answer}",
        f'{{"answer": {quoted}',
        f"```\n{answer}\n```",
        f"<p>{answer}</p>",
        f"{answer}<|im_end|>",
        f"{answer}\\n",
        f"{quoted},",
    ]
    if words:
        start, end = rng.choice(words)
        made.append(replaced(answer, start, end, f"{answer[start:end]} {answer[start:end]}"))
    spaces = [match.start() for match in re.finditer(r"(?<=\w) (?=\w)", answer)]
    if spaces:
        at = rng.choice(spaces)
        made.append(replaced(answer, at, at + 1, ""))
    return rng.choice(made)
