"""A model that follows a script: for tests and dry runs, and it says so in its id.

A script is a function of the request; a recipe names one of `SCRIPTS`, a test passes its own. Nothing
here pretends to know anything: `echo` fills whatever shape is asked for with pieces of the prompt.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from factory.errors import EndpointError, RecipeError
from factory.types import Completion, Json, Request, digest

Script = Callable[[Request], str | Completion | Exception]

SNIPPET_WORDS: Final = 12
DEFAULT_NUMBER: Final = 1


class ScriptedModel:
    """Implements ports.Model with a script; an Exception that the script returns is raised."""

    is_ours = True  # nobody bills its calls

    def __init__(self, script: Script, name: str = "test", latency_seconds: float = 0.0) -> None:
        self.script = script
        self.name = f"scripted:{name}"
        self.latency_seconds = latency_seconds

    @property
    def id(self) -> str:
        return self.name

    async def complete(self, request: Request) -> Completion:
        """The script's answer; tokens are counted as words where the script counts none."""
        began = time.monotonic()
        await asyncio.sleep(self.latency_seconds)
        answer = self.script(request)
        if isinstance(answer, Exception):
            raise answer
        if request.given and (isinstance(answer, str) or answer.logprobs is None):
            what = "the script does not tell how likely an answer is that is given to it"
            raise EndpointError(what, kind="refused", retryable=False, where=self.name)
        if isinstance(answer, str):
            num_prompt = sum(len(turn.content.split()) for turn in request.messages)
            answer = Completion(answer, prompt_tokens=num_prompt, completion_tokens=len(answer.split()))
        return replace(answer, latency_ms=1000 * (time.monotonic() - began))

    async def close(self) -> None:
        """Nothing to close."""


def echo(request: Request) -> str:
    """A snippet of the prompt, or JSON that fits the request's schema and is made of such snippets.

    Snippets depend on the prompt, the sampling seed and the ordinal alone, so that the same request
    gets the same answer and different ones get different answers.
    """
    words = request.messages[-1].content.split() or ["nothing"]
    start = int(digest([request.sampling.seed, request.ordinal], 8), 16)
    if request.schema is None:
        return _snippet(words, start)
    value = fill(request.schema, _snippets(words, start), request.schema)
    return json.dumps(value, ensure_ascii=False)


def fill(schema: Json, texts: Iterator[str], root: Json) -> Json:
    """A value that is valid under a JSON schema, with `texts` as its strings; `root` resolves $ref.

    Knows the keywords that constrained decoders take, not patterns or formats of strings.
    """
    schema = _resolve(schema, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        needed = schema.get("properties", {})
        return {name: fill(part, texts, root) for name, part in needed.items()}
    if kind == "array":
        count = max(schema.get("minItems", 1), min(1, schema.get("maxItems", 1)))
        return [fill(schema.get("items", {}), texts, root) for _ in range(count)]
    if kind in {"integer", "number"}:
        return _number(schema)
    return {"boolean": True, "null": None}.get(kind) if kind != "string" else _string(schema, next(texts))


def _resolve(schema: Json, root: Json) -> Mapping[str, Json]:
    """The schema without references and alternatives: the first of these that there is."""
    while isinstance(schema, Mapping):
        if "$ref" in schema:
            target = root
            for part in schema["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            schema = target
        elif choices := next((schema[key] for key in ("anyOf", "oneOf") if key in schema), None):
            schema = choices[0]
        elif "allOf" in schema:
            merged = {key: value for key, value in schema.items() if key != "allOf"}
            for part in schema["allOf"]:
                merged |= _resolve(part, root)
            schema = merged
        else:
            return schema
    return {}


def _number(schema: Mapping[str, Json]) -> float | int:
    low, high = schema.get("minimum"), schema.get("maximum")
    if (above := schema.get("exclusiveMinimum")) is not None:
        low = above + 1
    if low is not None and low > DEFAULT_NUMBER:
        return low  # type: ignore[no-any-return]
    return min(DEFAULT_NUMBER, high) if high is not None else DEFAULT_NUMBER


def _string(schema: Mapping[str, Json], text: str) -> str:
    cut: str = text[: schema.get("maxLength")]
    return cut.ljust(schema.get("minLength", 0), ".")


def _snippets(words: list[str], start: int) -> Iterator[str]:
    while True:
        yield _snippet(words, start)
        start += SNIPPET_WORDS


def _snippet(words: list[str], start: int) -> str:
    begin = start % len(words)
    return " ".join(words[begin : begin + SNIPPET_WORDS])


SCRIPTS: dict[str, Script] = {"echo": echo}


def check_script(name: str, where: str = "") -> None:
    """Raises RecipeError for a script that does not exist."""
    if name not in SCRIPTS:
        raise RecipeError(f"there is no script '{name}'", where=where, hint=f"known: {', '.join(SCRIPTS)}")
