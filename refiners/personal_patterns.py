"""Where personal data and secrets stand in a text: patterns, each with its check, no model.

Check digits are python-stdnum's, telephone numbers the phonenumbers library's (Google's numbering plans),
keys of services detect-secrets' (Yelp's). A sign that each of them needs is looked for first, since most
texts have none. What has the form and fails its check is nothing: a rule's number is no card.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import phonenumbers
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from stdnum import bitcoin, iban, luhn
from stdnum.us import ssn

Kind = Literal[
    "secret", "url_with_password", "email", "credit_card", "iban", "us_ssn", "crypto_wallet", "ip", "phone"
]
KINDS: tuple[Kind, ...] = get_args(Kind)  # of two that overlap the earlier in this list counts
MIN_PHONE_DIGITS = 7
MIN_KEY = 16  # characters
NO_KEYS = frozenset({"IPPublicDetector", "BasicAuthDetector", "KeywordDetector", "PrivateKeyDetector"})

EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}", re.ASCII)
PASSWORD_IN_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]+:[^\s/@]+@[^\s]+", re.IGNORECASE)
CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
BITCOIN = re.compile(r"\b(?:bc1[a-z0-9]{25,62}|[13][1-9A-HJ-NP-Za-km-z]{25,34})\b")
ETHEREUM = re.compile(r"\b0x[0-9a-fA-F]{40}\b")
IP4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")
IP6 = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){3,7}[0-9a-fA-F]{0,4}(?![\w:])")
LONG_RUN = re.compile(r"[\w+/=-]{16}", re.ASCII)
DIALLED = re.compile(r"[+(\d][\d\s()./\u2010-\u2015-]{5,}\d")
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)


class Found(NamedTuple):
    """Something of a kind, from character `start` to before `end`."""

    kind: Kind
    start: int
    end: int


def find(text: str, kinds: Sequence[Kind] = KINDS, regions: Sequence[str] = ()) -> list[Found]:
    """What stands in `text`, in order, none overlapping another.

    `regions` (ISO 3166, such as US) are those whose telephone numbers are known without a + and their code.
    """
    taken: list[Found] = []
    for kind in KINDS:
        if kind in kinds:
            spans = _phones(text, regions) if kind == "phone" else FINDERS[kind](text)
            for start, end in spans:
                if all(end <= other.start or start >= other.end for other in taken):
                    taken.append(Found(kind, start, end))
    return sorted(taken, key=lambda found: found.start)


def _matching(
    pattern: re.Pattern[str], sign: re.Pattern[str] | str, is_valid: Callable[[str], bool] | None = None
) -> Callable[[str], Iterator[tuple[int, int]]]:
    """A finder of what a pattern matches and a check admits, in texts that have the sign."""

    def finder(text: str) -> Iterator[tuple[int, int]]:
        if sign in text if isinstance(sign, str) else sign.search(text):
            for match in pattern.finditer(text):
                if is_valid is None or is_valid(match[0]):
                    yield match.span()

    return finder


def _is_card(text: str) -> bool:
    digits = re.sub(r"[ -]", "", text)
    return digits[0] in "23456" and len(set(digits)) > 1 and bool(luhn.is_valid(digits))


def _is_iban(text: str) -> bool:
    return bool(iban.is_valid(text))


def _is_ssn(text: str) -> bool:
    return bool(ssn.is_valid(text))


def _is_wallet(text: str) -> bool:
    return bool(ETHEREUM.fullmatch(text)) or bool(bitcoin.is_valid(text))


def _is_address(text: str) -> bool:
    """Whether it is an address of somebody's machine: not loopback, not one for documents or a mask."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_reserved or address.is_multicast)


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    for match in PRIVATE_KEY.finditer(text) if "PRIVATE KEY" in text else ():
        yield match.span()
    for pattern in _key_patterns() if LONG_RUN.search(text) else ():
        for match in pattern.finditer(text):
            # Some patterns have the key as a group, and what tells that it is one around it.
            group = match.lastindex or 0
            whole = group and len(match[group] or "") >= MIN_KEY
            yield match.span(group if whole else 0)


@cache
def _key_patterns() -> tuple[re.Pattern[str], ...]:
    """The forms of keys that detect-secrets knows; none of its guesses by entropy or by a word before it."""
    kinds: dict[str, Any] = get_mapping_from_secret_type_to_class()
    plugins = [kind() for _, kind in sorted(kinds.items()) if kind.__name__ not in NO_KEYS]
    return tuple(pattern for plugin in plugins for pattern in getattr(plugin, "denylist", ()))


def _phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    if not any(sum(map(str.isdigit, run[0])) >= MIN_PHONE_DIGITS for run in DIALLED.finditer(text)):
        return
    for region in regions or (None,):
        for match in phonenumbers.PhoneNumberMatcher(text, region, phonenumbers.Leniency.STRICT_GROUPING):
            yield match.start, match.end


FINDERS: dict[Kind, Callable[[str], Iterator[tuple[int, int]]]] = {
    "secret": _secrets,
    "url_with_password": _matching(PASSWORD_IN_URL, "://"),
    "email": _matching(EMAIL, "@"),
    "credit_card": _matching(CARD, re.compile(r"\d{4}"), _is_card),
    "iban": _matching(IBAN, re.compile(r"[A-Z]{2}\d{2}"), _is_iban),
    "us_ssn": _matching(SSN, "-", _is_ssn),
    "crypto_wallet": _matching(
        re.compile(f"{BITCOIN.pattern}|{ETHEREUM.pattern}"),
        re.compile(r"\b(?:bc1|0x|[13])\w{24}"),
        _is_wallet,
    ),
    "ip": _matching(re.compile(f"{IP4.pattern}|{IP6.pattern}"), re.compile(r"\d\.\d|:\w*:"), _is_address),
}
