"""Tool calls: the teacher writes a user's request and the calls of given tools that fulfil it.

Request and calls come in one answer, and calls that break a tool's schema are thrown out, as in the first
check of APIGen (arXiv 2406.18518, section 3.2); parallel calls and offered tools that are not needed are
from there as well. A task is one tool to be called among others on offer. Nothing is called, so whether the
calls do what was asked is the refiners' business.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.ports import Ask
from factory.prompts import render
from factory.recipe import Strict
from factory.tool_calls import Fault, fault_of_calls, read_calls
from factory.tool_files import as_tool, read_tools
from factory.types import Completion, Json, Message, Sample, Source, Task, digest
from generators.exchange import make_sample
from generators.fields import schema_of
from generators.turns import take_turns

# Arguments are a JSON text, as in OpenAI's own format: not every constrained decoder takes a free object.
SCHEMA: Json = {
    **schema_of(["request", "calls"]),
    "properties": {
        "request": {"type": "string"},
        "calls": {"type": "array", "items": schema_of(["name", "arguments"])},
    },
}


class ToolCallsOptions(Strict):
    """The tools, and how many of them a sample has to do with."""

    tools: str = Field(
        description="JSON file with a list of functions: `name`, `description`, `parameters` (a JSON schema)."
    )
    num_offered: int = Field(4, ge=1, description="Tools that a sample offers, the one to call among them.")
    max_calls: int = Field(2, ge=1, description="Calls in an answer, at most; their number takes turns.")


class Written(NamedTuple):
    """What the teacher wrote: the request, its calls as the text of the answer, and what is wrong."""

    request: str
    answer: str
    fault: Fault | None


class ToolCalls:
    """Requests with calls, each tool in turn."""

    Options: ClassVar[type[BaseModel]] = ToolCallsOptions

    def __init__(self, options: ToolCallsOptions, domain: Domain) -> None:
        self.options = options
        self._tools = tuple(read_tools(domain.folder, options.tools))

    @property
    def slices(self) -> Collection[str]:
        """The names of the tools."""
        return [tool.slice for tool in self._tools]

    @property
    def material(self) -> Sequence[Source]:
        """The tools, as sources: lineage ends at them."""
        return self._tools

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a round, each with the tool to call and the number of calls."""
        for turn in take_turns(self._tools, allocation, round_number):
            chosen = {"num_calls": str(turn.choose(self.options.max_calls) + 1)}
            yield Task("tool_calls", round_number, turn.ordinal, turn.slice, turn.material, attributes=chosen)

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """One sample; calls that cannot be made are named malformed, with what is wrong with them."""
        if task.source is None:
            raise ValueError("a task of tool calls has its tool")
        offered = self._offered(task)
        num_calls = int(task.attributes["num_calls"])
        prompt = render(
            "generators",
            "tool_calls",
            tool=task.source.title,
            num_calls=num_calls,
            tools=[tool.text for tool in offered],
        )
        call = await ask([Message("user", prompt)], schema=SCHEMA, ordinal=task.ordinal)
        tools = json.dumps([as_tool(tool) for tool in offered], ensure_ascii=False)
        written = read_answer(call, tools)
        fault = written.fault or fault_of_choice(written, task.source.title, num_calls)
        attributes = {**task.attributes, "tools": tools}
        return [
            make_sample(
                task,
                written.request,
                written.answer,
                [call],
                source=task.source,
                malformed=fault.reason if fault else "",
                attributes={**attributes, "error": fault.error} if fault else attributes,
            )
        ]

    def _offered(self, task: Task) -> list[Source]:
        """The task's tool and others, chosen and ordered by hashes of the ordinal."""
        others = [tool for tool in self._tools if tool != task.source]
        others.sort(key=lambda tool: digest([task.ordinal, tool.id]))
        chosen = [tool for tool in (task.source, *others[: self.options.num_offered - 1]) if tool]
        return sorted(chosen, key=lambda tool: digest(["order", task.ordinal, tool.id]))


def read_answer(completion: Completion, tools: str) -> Written:
    """Request and calls of an answer; one that cannot be read keeps its text whole."""
    try:
        parsed = completion.json()
    except (ValueError, RecursionError) as error:
        reason = "truncated" if completion.finish_reason == "length" else "not_json"
        return Written("", completion.text, Fault(reason, str(error)))
    found = parsed if isinstance(parsed, dict) else {}
    request, calls = found.get("request"), found.get("calls")
    if not isinstance(request, str) or not isinstance(calls, list):
        return Written("", completion.text, Fault("missing_key", 'expected "request" and "calls"'))
    text = json.dumps([_with_arguments(call) for call in calls], ensure_ascii=False)
    return Written(request.strip(), text, fault_of_calls(text, tools))


def fault_of_choice(written: Written, tool: str, num_calls: int) -> Fault | None:
    """Why valid calls are not those that were wanted, or the request gives its tools away."""
    calls = read_calls(written.answer) or []
    names = [call["name"] for call in calls]
    if tool not in names:
        return Fault("tool_not_called", f"'{tool}' was to be called, not {', '.join(names)}")
    if len(calls) != num_calls:
        return Fault("wrong_num_calls", f"{num_calls} wanted, {len(calls)} written")
    if any(call in calls[:at] for at, call in enumerate(calls)):
        return Fault("repeated_call", "two calls are the same")
    # One that is a plain word, such as "weather", may well stand in a request.
    leaked = [name for name in names if not name.isalpha() or not name.islower()]
    if named := next((name for name in leaked if name in written.request), ""):
        return Fault("leaked_name", f"the request names '{named}'")
    return None


def _with_arguments(call: Json) -> Json:
    """The call with its arguments as what their JSON text says; as it is where that says nothing."""
    if isinstance(call, dict) and isinstance(text := call.get("arguments"), str):
        try:
            return {**call, "arguments": json.loads(text)}
        except (ValueError, RecursionError):
            return call
    return call
