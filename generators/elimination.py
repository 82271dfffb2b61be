"""When an evolution of a prompt has failed: the elimination rules of Evol-Instruct, by words alone.

The rules are those of WizardLM (arXiv 2304.12244, section 3): nothing new was gained, the answer is a
refusal or has no content, the instruction's own words leaked into the prompt. A prompt that is itself a
refusal is one more. No model is asked. Refusals and words without content are known in English only.
"""

from __future__ import annotations

import re

from factory.nearest import words

# Scripts that put no space between words: a character counts as a word there.
UNSPACED = re.compile(r"([\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])")
SHORT_REFUSAL_WORDS = 80  # the paper's limit: a longer answer that says sorry is an answer
LEAKED_WORDS = 6  # in a row, from the instruction
REFUSAL = re.compile(
    r"^\W*(?:(?:i am|i'm|we are|we're)?\s*(?:very |so |really )?sorry\b"
    r"|i apologi[sz]e\b|as an ai\b|unfortunately,? i\b"
    r"|i (?:cannot|can't|can not|won't|will not|am unable to|am not able to|'m unable to)"
    r" (?:rewrite|create|evolve|complete|comply|help|assist|provide|answer|generate|do that|fulfil))",
    re.IGNORECASE,
)
NAMED_PROMPT = re.compile(r"\b(?:given|rewritten|created|evolved|original|new)[ _]prompts?\b", re.IGNORECASE)
# fmt: off
STOP_WORDS = frozenset(
    {
        "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "has", "have", "i",
        "if", "in", "is", "it", "its", "not", "of", "on", "or", "so", "that", "the", "their",
        "then", "there", "these", "they", "this", "to", "was", "we", "were", "will", "with", "you",
        "your",
    }
)
# fmt: on


def fault_of_evolution(evolved: str, parent: str, instruction: str, min_new_words: int) -> str:
    """Why `evolved` is no evolution of `parent`: refused, leaked, copied, or '' where it is one.

    `instruction` is what the model was told, without the prompt.
    """
    if REFUSAL.match(evolved.replace("’", "'")):
        return "refused"
    if NAMED_PROMPT.search(evolved) and not NAMED_PROMPT.search(parent):
        return "leaked"
    if (_runs(evolved) & _runs(instruction)) - _runs(parent):
        return "leaked"
    return "copied" if len(_vocabulary(evolved) - _vocabulary(parent)) < min_new_words else ""


def fault_of_answer(answer: str) -> str:
    """Why an answer shows that its prompt asked too much: answer_refused, answer_empty, or ''."""
    found = words(answer)
    if all(word in STOP_WORDS for word in found):
        return "answer_empty"
    says_sorry = "sorry" in found or REFUSAL.match(answer.replace("’", "'"))
    return "answer_refused" if says_sorry and len(found) < SHORT_REFUSAL_WORDS else ""


def _vocabulary(text: str) -> set[str]:
    return set(words(UNSPACED.sub(r" \1 ", text)))


def _runs(text: str) -> set[tuple[str, ...]]:
    """Every LEAKED_WORDS words in a row."""
    found = words(text)
    return {tuple(found[at : at + LEAKED_WORDS]) for at in range(len(found) - LEAKED_WORDS + 1)}
