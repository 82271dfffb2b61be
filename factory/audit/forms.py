"""What a page's form sent, and who sent it: fields within limits, and a reviewer's name from a cookie.

Forms are plain ones, so that pages work without scripts; the door has checked their origin. Their texts are
put back as they were stored: a browser sends line ends of its own, and the signs that stand for characters
that a page does not show.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from starlette.requests import Request
from starlette.responses import Response

from factory.errors import InputError
from factory.printable import printable

MAX_BYTES: Final = 8 * 2**20
MAX_FIELDS: Final = 50
REVIEWER: Final = "factory_reviewer"
YEAR_SECONDS: Final = 365 * 24 * 3600
MAX_NAME: Final = 100
SIGN: Final = re.compile("<U\\+([0-9A-F]{4,5})>|[\u2400-\u241f\u2421]")

Fields = dict[str, str]


def posted(handle: Callable[[Request, Fields], Response]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for POST from a function that takes the form's fields; it runs in a thread.

    A form that is too long or is none raises InputError, which is a page.
    """

    async def endpoint(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BYTES:
                raise InputError(f"a form has {MAX_BYTES:,} bytes at most")
        response: Response = await request.app.state.threads.call(handle, request, read_fields(bytes(body)))
        return response

    return endpoint


def read_fields(body: bytes) -> Fields:
    """The fields of an urlencoded form, the last of each name; raises InputError for anything else."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise InputError("the form cannot be read") from error
    return {name: value.replace("\r\n", "\n") for name, value in pairs}


def reviewer_of(request: Request) -> str:
    """The name that was given, or nothing."""
    return check_name(unquote(request.cookies.get(REVIEWER, "")))


def check_name(name: str) -> str:
    """A name on one line without signs that are not shown, or nothing."""
    shown = " ".join(name.split())
    return shown if len(shown) <= MAX_NAME and printable(shown) == shown else ""


def remember(response: Response, name: str) -> Response:
    """The answer with the reviewer's name in a cookie that no script reads."""
    response.set_cookie(REVIEWER, quote(name), max_age=YEAR_SECONDS, httponly=True, samesite="strict")
    return response


def unsigned(text: str, original: str) -> str:
    """The text with signs such as <U+200F> as the characters they stand for, where the original has those."""

    def turn(match: re.Match[str]) -> str:
        sign = match[0]
        code = int(match[1], 16) if match[1] else 0x7F if sign == "\u2421" else ord(sign) - 0x2400
        is_theirs = code <= 0x10FFFF and chr(code) in original and sign not in original
        return chr(code) if is_theirs else sign

    return SIGN.sub(turn, text)
