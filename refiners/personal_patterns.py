"""Where personal data stands in a text: patterns, each with a sign that is looked for first and a check.

No model is asked, so names of people are not found. Check digits are python-stdnum's, numbering plans those
of phonenumbers (Google's libphonenumber); what has the form of a card or account and fails its check is
none. Most texts bear no sign at all, and cost a few microseconds. Secrets are in `refiners.secrets`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import groupby
from typing import Literal, NamedTuple, get_args

import phonenumbers

from refiners.secrets import PASSWORD_IN_URL, find_secrets

Kind = Literal[
    "secret",
    "url_credentials",
    "email",
    "crypto_wallet",
    "iban",
    "credit_card",
    "national_id",
    "ip_address",
    "phone",
]
KINDS: tuple[Kind, ...] = get_args(Kind)  # where two overlap, the one that comes first here counts
SECRETS: frozenset[Kind] = frozenset({"secret", "url_credentials"})
Span = tuple[int, int]

EMAIL = re.compile(
    r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24}(?![\w-])", re.IGNORECASE
)
BITCOIN = re.compile(r"(?<!\w)(?:[13][1-9A-HJ-NP-Za-km-z]{25,34}|bc1[02-9ac-hj-np-z]{39,59})(?!\w)")
ETHEREUM = re.compile(r"(?<!\w)0x[0-9a-fA-F]{40}(?!\w)")
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,9}(?!\w)")
CARD = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
CARD_PREFIX = re.compile(  # of the issuers, with the lengths that they give out
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|(?:6011|65\d\d|64[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
    r"|62\d{14,17}"
)
IP4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
IP6 = re.compile(r"(?<![\w:])[23][0-9a-f]{3}:(?:[0-9a-f]{0,4}:){1,6}[0-9a-f]{0,4}(?![\w:])", re.IGNORECASE)
NO_ADDRESS = re.compile(  # four numbers with dots between them are a section or a version as well
    r"(?:§{1,2}|\b(?:sections?|sec|chapter|articles?|art|rules?|version|release|v|no|par|clause)\b\.?) ?$",
    re.IGNORECASE,
)
MIN_IP_DIGITS = 7  # 8.8.8.8 is somebody's server and nobody's person; 1.2.3.4 is a section
PHONE_SIGN = re.compile(r"\d(?:[ ()./\-\u2010-\u2015]{0,3}\d){6,}")
# Identity numbers that have a form of their own, with the module of python-stdnum that checks them.
NATIONAL = (
    (re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), "us.ssn"),
    (re.compile(r"(?<![\w-])9\d{2}-\d{2}-\d{4}(?![\w-])"), "us.itin"),
    (re.compile(r"(?<!\w)[A-Z]{6}\d{2}[A-EHLMPR-T]\d{2}[A-Z]\d{3}[A-Z](?!\w)"), "it.codicefiscale"),
    (re.compile(r"(?<![\w-])\d{8}-?[A-HJ-NP-TV-Z](?!\w)"), "es.dni"),
    (re.compile(r"(?<!\w)[XYZ]-?\d{7}-?[A-HJ-NP-TV-Z](?!\w)"), "es.nie"),
    (re.compile(r"(?<![\w.])\d{3}\.\d{3}\.\d{3}-\d{2}(?!\w)"), "br.cpf"),
    (re.compile(r"(?<![\w-])[2-9]\d{3} \d{4} \d{4}(?![\w-]| \d)"), "in_.aadhaar"),
    (re.compile(r"(?<!\w)\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y](?!\w)"), "fi.hetu"),
    (re.compile(r"(?<!\w)[12] \d{2} \d{2} \d[\dAB] \d{3} \d{3} \d{2}(?!\w)"), "fr.nir"),
    (
        re.compile(r"(?<!\w)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d{2}){3} ?[A-D](?!\w)"),
        "",
    ),  # GB: no digit
)
NATIONAL_SIGN = re.compile(r"\d{3}[-.]\d|\d{6}|\d{4} \d{4}|\d\d ?\d\d ?\d\d ?[A-D]\b|\d \d\d \d\d|[A-Z]{6}\d")


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
        if kind not in kinds:
            continue
        for start, end in _phones(text, regions) if kind == "phone" else FINDERS[kind](text):
            if all(end <= other.start or start >= other.end for other in taken):
                taken.append(Found(kind, start, end))
    return sorted(taken, key=lambda found: found.start)


def _matches(pattern: re.Pattern[str], sign: str) -> Callable[[str], Iterator[Span]]:
    def finder(text: str) -> Iterator[Span]:
        if sign in text:
            yield from (match.span() for match in pattern.finditer(text))

    return finder


def _is_valid(module: str, number: str) -> bool:
    """Whether python-stdnum's module of that name takes the number; modules are loaded when needed."""
    return bool(import_module(f"stdnum.{module}").is_valid(number))


def _wallets(text: str) -> Iterator[Span]:
    if "0x" in text:
        yield from (match.span() for match in ETHEREUM.finditer(text))
    if "bc1" in text or "1" in text or "3" in text:
        for match in BITCOIN.finditer(text):
            if match[0].startswith("bc1") or _is_valid("bitcoin", match[0]):
                yield match.span()


def _ibans(text: str) -> Iterator[Span]:
    for match in IBAN.finditer(text):
        number = match[0]  # may have taken in words of capitals that follow it
        while len(number) >= 15 and not _is_valid("iban", number):
            number = number.rpartition(" ")[0]
        if len(number) >= 15:
            yield match.start(), match.start() + len(number)


def _cards(text: str) -> Iterator[Span]:
    for match in CARD.finditer(text):
        digits = re.sub(r"[ -]", "", match[0])
        grouped = {len(group) for group in re.split(r"[ -]", match[0])[:-1]} <= {4, 5, 6}
        if grouped and CARD_PREFIX.fullmatch(digits) and len(set(digits)) > 1 and _is_valid("luhn", digits):
            yield match.span()


def _national_ids(text: str) -> Iterator[Span]:
    if NATIONAL_SIGN.search(text):
        for pattern, module in NATIONAL:
            for match in pattern.finditer(text):
                if not module or _is_valid(module, match[0]):
                    yield match.span()


def _addresses(text: str) -> Iterator[Span]:
    """Addresses that anybody can reach: those of private networks and of documents are nobody's."""
    for match in IP4.finditer(text) if text.count(".") > 2 else ():
        is_other = sum(map(str.isdigit, match[0])) < MIN_IP_DIGITS or NO_ADDRESS.search(
            text[max(0, match.start() - 16) : match.start()]
        )
        if not is_other and _is_global(match[0]):
            yield match.span()
    for match in IP6.finditer(text) if ":" in text else ():
        if _is_global(match[0]):
            yield match.span()


def _is_global(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Valid numbers, grouped as their country does; without + and marks between it is just a number."""
    if not PHONE_SIGN.search(text):
        return
    for region in regions or (None,):
        for match in phonenumbers.PhoneNumberMatcher(text, region, phonenumbers.Leniency.STRICT_GROUPING):
            groups = sum(is_digit for is_digit, _ in groupby(match.raw_string, str.isdigit))
            if match.raw_string.startswith("+") or groups > 1:
                yield match.start, match.end


FINDERS: dict[Kind, Callable[[str], Iterator[Span]]] = {
    "secret": find_secrets,
    "url_credentials": _matches(PASSWORD_IN_URL, "://"),
    "email": _matches(EMAIL, "@"),
    "crypto_wallet": _wallets,
    "iban": _ibans,
    "credit_card": _cards,
    "national_id": _national_ids,
    "ip_address": _addresses,
}
