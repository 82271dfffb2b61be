"""The values that everything else passes around: frozen, hashable by content, free of behaviour.

An identity is a prefix and a hash of content, so that making the same thing twice gives the same identity;
this makes resuming and replaying one operation. Nothing here reads files, talks to models or knows SQL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from factory.comparison import Comparison as Comparison  # noqa: PLC0414
from factory.digests import canonical, canonical_pairs, hash_text
from factory.digests import digest as digest  # noqa: PLC0414 (the name that everybody asks for here)
from factory.tokens import Token

Json = Any  # what json.loads returns
Action = Literal["keep", "rewrite", "drop"]
Split = Literal["dev", "test", "suite"]  # the recipe's own items, and tasks of a suite
# Attributes that hold what a check found out about the very answer: another answer does not take them over.
FINDINGS = frozenset({"error", "num_rows", "num_columns"})


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


OPEN_TURN = Message("user", "")  # as the last message of a request: the model writes the user's turn


class Parent(NamedTuple):
    """One reason why a sample exists: an identity and its relation to the child."""

    id: str
    relation: Literal["seed", "source", "call", "rewrite_of", "derived_from"]


@dataclass(frozen=True, slots=True)
class Source:
    """A section of a source file. `key` is stable over editions, `id` changes with the text."""

    id: str
    key: str
    path: str
    citation: str
    title: str
    text: str
    slice: str
    start_char: int | None = None  # its first character in the document's text (factory.documents)
    end_char: int | None = None  # the one after its last
    page: int | None = None  # of a PDF, from 1

    @classmethod
    def create(cls, key: str, path: str, citation: str, title: str, text: str, slice: str) -> Source:
        return cls("src_" + digest([key, citation, title, text]), key, path, citation, title, text, slice)


@dataclass(frozen=True, slots=True)
class Seed:
    """A seed prompt; `source_key` names the section it asks about, where the author knew it."""

    id: str
    key: str
    prompt: str
    slice: str
    source_key: str | None = None

    @classmethod
    def create(cls, key: str, prompt: str, slice: str, source_key: str | None = None) -> Seed:
        return cls("seed_" + digest([key, prompt, slice, source_key]), key, prompt, slice, source_key)


@dataclass(frozen=True, slots=True)
class GoldItem:
    """A checked item of dev or test, asked after `before`; items of one `source_key` are a cluster."""

    key: str
    question: str
    answer: str
    slice: str
    source_key: str | None = None
    before: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckedDraft:
    """A draft answer and what an expert made of it; `corrected` is None where it had to go."""

    key: str
    question: str
    answer: str
    corrected: str | None
    reason: str
    source_key: str
    slice: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation that may become training data. Create it with `Sample.create`."""

    id: str
    messages: tuple[Message, ...]
    parents: tuple[Parent, ...]
    operation: str
    attributes: Mapping[str, str]
    content_hash: str

    @classmethod
    def create(
        cls,
        messages: Sequence[Message],
        parents: Sequence[Parent],
        operation: str,
        attributes: Mapping[str, str],
    ) -> Sample:
        """A sample whose id is the hash of content, parents and operation (not of attributes)."""
        content = canonical_pairs(messages)  # the long part, written once for both hashes
        id = "smp_" + hash_text(f"[{content},{canonical_pairs(parents)},{canonical(operation)}]")[:20]
        return cls(id, tuple(messages), tuple(parents), operation, dict(attributes), hash_text(content)[:20])

    @property
    def question(self) -> str:
        """The last user message, or the empty string."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def answer(self) -> str:
        """The last assistant message, or the empty string."""
        return next((m.content for m in reversed(self.messages) if m.role == "assistant"), "")

    def texts(self, role: Literal["system", "user", "assistant"]) -> tuple[str, ...]:
        """The messages of a role, in order."""
        return tuple(message.content for message in self.messages if message.role == role)

    @property
    def slice(self) -> str:
        return self.attributes.get("slice", "")

    @property
    def lasting(self) -> dict[str, str]:
        """The attributes that stay true when the answer is changed."""
        return {name: value for name, value in self.attributes.items() if name not in FINDINGS}


@dataclass(frozen=True, slots=True)
class Score:
    """A measured property of a sample; `value=None`: should have been scored and failed."""

    sample_id: str
    metric: str
    value: float | None
    scorer: str
    model_id: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What one refiner did with one sample; `reason` is a stable snake_case slug."""

    sample_id: str
    refiner: str
    action: Action
    reason: str
    rewrite: Sample | None = None
    scores: tuple[Score, ...] = ()
    evidence: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a model is asked to decode. `seed` is set by the engine where it is None."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One call as it is sent; its hash is the identity of the stored answer."""

    model_id: str
    messages: tuple[Message, ...]
    schema: Json | None
    sampling: Sampling
    ordinal: int = 0
    instead_of: str = ""  # id of the same question's last call, where its answer was not as the schema asks
    tools: tuple[Json, ...] = ()  # what the model may call, in OpenAI's form
    tool_call_parser: str = ""  # what reads its calls at a server of ours
    top_logprobs: int = 0  # how many of the likeliest tokens are wanted at each place, with probabilities
    given: bool = False  # the last message is an answer; wanted are its tokens with their probabilities

    @property
    def id(self) -> str:
        sampling = [getattr(self.sampling, name) for name in ("temperature", "top_p", "max_tokens", "seed")]
        further: list[Json] = [self.instead_of] if self.instead_of else []  # where not, stored ids hold
        further += [{"tools": self.tools, "parser": self.tool_call_parser}] if self.tools else []
        wanted = {"top_logprobs": self.top_logprobs, "given": self.given}
        further += [{name: value} for name, value in wanted.items() if value]
        what = f"[{canonical(self.model_id)},{canonical_pairs(self.messages)},"  # as one list with the rest
        return "call_" + hash_text(what + canonical([self.schema, sampling, self.ordinal, *further])[1:])[:20]


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered, reasoning kept apart; `logprobs` make up `text`, None: not told."""

    text: str
    finish_reason: str = "stop"
    reasoning: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: float = 0.0
    logprobs: tuple[Token, ...] | None = None
    call_id: str = ""

    def json(self) -> Json:
        """The answer parsed as JSON; raises ValueError where it is none."""
        return json.loads(self.text)


@dataclass(frozen=True, slots=True)
class Task:
    """One thing for a generator to make; `ordinal` is unique within strategy and run.

    `attributes` are what the plan has drawn or chosen for it, as text; `beside` are further sections.
    """

    strategy: str
    round: int
    ordinal: int
    slice: str
    source: Source | None = None
    seeds: tuple[Seed, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    beside: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained LoRA adapter on disk; `digest` is the hash of its weights file.

    `curve` is what is known of its training: rows of `training_steps` without their `model_id`. `was_there`
    says that it stood in its folder before, and nothing was trained.
    """

    path: Path
    digest: str
    base: str
    num_steps: int
    loss: float
    seconds: float
    curve: tuple[Mapping[str, Json], ...] = ()
    was_there: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One evaluated item; `cluster` groups items that share a source, for paired statistics."""

    key: str
    slice: str
    cluster: str
    question: str
    expected: str
    answer: str
    score: float
    call_id: str
    before: tuple[Message, ...] = ()
    detail: str = ""  # why it scores no more, where the metric can tell
    judge_call_id: str = ""  # the call that gave the score, where a judge did


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's answers to a split; `mean` lies in [0, 1] between `low` and `high` (95 %)."""

    model_id: str
    split: Split
    metric: str
    mean: float
    low: float
    high: float
    items: tuple[ItemResult, ...]
