"""HTML from templates: every text that is filled in is escaped, and shown without control characters.

Templates are sandboxed and name no value that is not given. Where a page goes, to a file or to a browser, is
not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factory.printable import printable

if TYPE_CHECKING:
    from jinja2 import BaseLoader
    from jinja2.sandbox import SandboxedEnvironment


def environment(loader: BaseLoader | None = None) -> SandboxedEnvironment:
    """A Jinja environment for pages."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(
        loader=loader,
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: Any) -> Any:
    """Every text that a template prints, but what Jinja itself has escaped already."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
