"""The words of many texts at once, in machine code: those of `factory.words`, as hashes of 28 bits.

The low four bits of a word say what it is: part of an answer or of a question, a word that tells of a fact
(a number, what follows a number, a name inside a sentence). Numba compiles this at first use and keeps the
code beside the file, or in the user's cache, under a name that every change of these files changes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numba import uint64
from numba.core import event

from factory.digests import hash_text

Array = Any  # of NumPy, one dimension
Function = TypeVar("Function", bound=Callable[..., Any])

# What a character is. NUMBER_PARTS join the parts of an identifier or a ratio, which no unit follows.
SPACE, LETTER, DIGIT, COUNTS, JOINS, SIGN, APOSTROPHE, UPPER, ENDS, NUMBER_PARTS = (
    1 << bit for bit in range(10)
)
READ = 1 << 15  # what it is was looked up
# What a word is: where it stands, whether it tells of a fact, and whether it belongs to a template.
ANSWER, QUESTION, TELLING, TEMPLATE, NUMBER = 1, 2, 4, 8, 16
FLAG_BITS = 4
TURN = np.uint32(0xFFFFFFF0)  # stands between turns
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


SOURCES = sorted(Path(__file__).parent.glob("near_*.py"))  # of which the machine code is made


def version_of(paths: Iterable[Path]) -> str:
    """Eight hexadecimal digits of what some files hold."""
    return hash_text("".join(path.read_text("utf-8") for path in paths))[:8]


def compiled(function: Function) -> Function:
    """`function` as machine code that Python can call, without bounds checks; kept where there is a place.

    Numba itself looks for changes in the file of this function alone, and not in those of what it calls.
    """
    function.__qualname__ = f"{function.__name__}_{version_of(SOURCES)}"
    try:
        return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # neither this folder nor a home can be written to
        return cast(Function, numba.njit(nogil=True, error_model="numpy")(function))


def inner(function: Function) -> Function:
    """`function` as machine code for compiled code alone, which takes less time to make."""
    made = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    return cast(Function, made)


class Compiling(event.Listener):  # type: ignore[misc]
    """Tells, once, that code is being compiled; numba is silent about what it finds kept."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell: Callable[[str], None] | None = tell

    def heard(self) -> AbstractContextManager[Any]:
        """While this lasts, it is told."""
        return cast(AbstractContextManager[Any], event.install_listener("numba:compile", self))

    def on_start(self, event: Any) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            is_kept = event.data["dispatcher"].stats.cache_path is not None
            once = "once on this machine" if is_kept else "each time: there is no folder to keep it in"
            tell(f"compiling, {once}; up to a minute")

    def on_end(self, event: Any) -> None:
        """Nothing."""


class Texts(NamedTuple):
    """The turns of a batch; `ends` begin with 0, so that the n-th lies between the n-th and the next."""

    codes: Array  # uint32, code points
    ends: Array  # int64, of each turn
    roles: Array  # uint8, of each turn: ANSWER or QUESTION
    sample_ends: Array  # int64, of each sample, in turns


class Tokens(NamedTuple):
    """The words of a batch in order, TURN between two turns."""

    words: Array  # uint32, the low bits free
    flags: Array  # uint8
    ends: Array  # int64, of each sample


class Characters:
    """What each character is, looked up when it is first met."""

    def __init__(self) -> None:
        self.kinds = np.zeros(0x110000, np.uint16)
        self.folds = np.zeros(0x110000, np.uint32)
        self._learn(range(128))

    def read(self, texts: Sequence[str], roles: Sequence[int], sample_ends: Sequence[int]) -> Tokens:
        """The words of turns, each with its role; the n-th sample's turns end before `sample_ends[n + 1]`."""
        if not all(map(str.isascii, texts)):
            texts = [text if text.isascii() else plain(text) for text in texts]
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
        self._learn(np.unique(codes[self.kinds[codes] == 0]))
        ends = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=ends[1:])
        given = Texts(codes, ends, np.array(roles, np.uint8), np.array(sample_ends, np.int64))
        return read_all(given, self.kinds, self.folds)

    def _learn(self, codes: Iterable[int]) -> None:
        for code in map(int, codes):
            folded = chr(code).casefold()
            self.folds[code] = ord(folded) if len(folded) == 1 else code
            self.kinds[code] = _kind(chr(int(self.folds[code]))) | READ
            if chr(code).isupper() or chr(code).istitle():
                self.kinds[code] |= UPPER


def plain(text: str) -> str:
    """NFKC; case-folded too where that changes the length, as of ß."""
    text = unicodedata.normalize("NFKC", text)
    folded = text.casefold()
    return text if len(folded) == len(text) else folded


def _kind(character: str) -> int:
    """What `factory.words` sees in a character that is case-folded."""
    if character in "'’ʼ`":
        return APOSTROPHE
    if character.isspace():
        return SPACE
    category = unicodedata.category(character)
    if category == "Nd":
        return DIGIT
    if character.isalnum():
        return LETTER
    kind = COUNTS if character == "%" or category[0] not in "PC" else 0
    kind |= JOINS if character in ".,:/⁄–-" else 0
    kind |= NUMBER_PARTS if character in ":/⁄–-" else 0
    kind |= SIGN if character in "-−+" else 0
    return kind | (ENDS if character in ".?!:;" else 0)


@inner
def mix(value: Any) -> Any:
    """A 64-bit hash (the finaliser of splitmix64, Steele et al. 2014)."""
    value = uint64(value)
    value = (value ^ (value >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> uint64(27))) * uint64(0x94D049BB133111EB)
    return value ^ (value >> uint64(31))


@inner
def scan(text: Array, kinds: Array, folds: Array, role: int, out: Array, flags: Array, at: int) -> int:
    """Writes the words of a turn to `out` and `flags` from `at` on; returns the end."""
    num = 0
    kind, fold = np.empty(text.size + 1, np.uint16), np.empty(text.size, np.uint32)
    for code in text:
        if not kinds[code] & APOSTROPHE:
            kind[num], fold[num] = kinds[code], folds[code]
            num += 1
    kind[num] = 0
    begins, unit, i = True, False, 0
    while i < num:
        start, found = i, role
        signed = kind[i] & SIGN and kind[i + 1] & DIGIT and (i == 0 or kind[i - 1] & SPACE)
        if signed or kind[i] & DIGIT:
            found, follows = role | NUMBER | TELLING, True
            i += 1
            while kind[i] & DIGIT or (kind[i] & JOINS and kind[i - 1] & DIGIT and kind[i + 1] & DIGIT):
                follows = follows and not kind[i] & NUMBER_PARTS
                i += 1
        elif kind[i] & LETTER:
            found, follows = role | (TELLING if unit or (kind[i] & UPPER and not begins) else 0), False
            while kind[i] & LETTER:
                i += 1
        else:
            i += 1
            begins = begins or kind[start] & ENDS != 0
            if not kind[start] & COUNTS:
                unit = unit and kind[start] & SPACE != 0
                continue
            found, follows = role | (TELLING if unit else 0), False
        value = uint64(i - start)
        for j in range(start, i):
            value = mix(value + GOLDEN * (uint64(fold[j]) + uint64(1)))
        out[at], flags[at] = np.uint32((value >> uint64(36)) << uint64(FLAG_BITS)), found
        begins, unit = False, follows
        at += 1
    return at


@compiled
def read_all(texts: Texts, kinds: Array, folds: Array) -> Tokens:
    """The words of all turns of each sample."""
    room = texts.codes.size + texts.roles.size + 1
    words, flags = np.empty(room, np.uint32), np.empty(room, np.uint8)
    ends, num = np.zeros(texts.sample_ends.size, np.int64), 0
    for sample in range(ends.size - 1):
        for turn in range(texts.sample_ends[sample], texts.sample_ends[sample + 1]):
            if turn > texts.sample_ends[sample]:
                words[num], flags[num] = TURN, 0
                num += 1
            codes = texts.codes[texts.ends[turn] : texts.ends[turn + 1]]
            num = scan(codes, kinds, folds, texts.roles[turn], words, flags, num)
        ends[sample + 1] = num
    return Tokens(words[:num], flags[:num], ends)
