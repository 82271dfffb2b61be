"""An address without the user and password that it may hold, for everything that is told or stored."""

from __future__ import annotations

import re
from typing import Final

_PLAIN: Final = re.compile(r"(\[[^\]@]*\]|[^:@\[\]]*)(:\d*)?")  # host or [host], perhaps a port


def without_password(address: str) -> str:
    """The address as it is, or with '***' for its user and password.

    What only looks like an address, since a password holds a slash, say, is hidden up to its last '@'.
    """
    scheme, slashes, rest = address.partition("://") if "://" in address else ("", "", address)
    if _PLAIN.fullmatch(re.split(r"[/?#]", rest, maxsplit=1)[0]):
        return address
    _, at, shown = rest.rpartition("@")
    return f"{scheme}{slashes}***@{shown}" if at else address
