"""A recipe is everything a run depends on: domain, seeds, sources, gold, models, steps, sizes.

It is YAML on disk and a frozen, strict pydantic model in memory. A profile is a second YAML
file laid over it (mappings merge, everything else replaces), so that one domain runs on a laptop
and on a cluster. Paths are relative to the recipe's folder. `digest()` names the whole: two runs with
the same digest ask the same questions. Servers are in `factory.servers`. Files are read in `factory.load`;
what one key alone cannot tell (a server that is not there, a rank too high) is checked in
`factory.consistency`.
"""

from __future__ import annotations

import re
from math import ceil
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from factory.embedding.options import DESCRIPTION, EmbedderSpec
from factory.servers import Server
from factory.strict import Strict as Strict  # noqa: PLC0414 (options of steps, a package's own too, are Strict)
from factory.types import Sampling, digest

SLUG = r"^[a-z0-9][a-z0-9_-]*$"
Slug = Annotated[str, Field(pattern=SLUG)]
Role = Literal["teacher", "refiner", "judge", "student"]
MAX_SAMPLES_PER_ROUND = 1_000_000  # tasks are numbered within a round, and no two rounds may share a number
DEFAULT_SAMPLES_PER_ROUND = 256


class DomainSpec(Strict):
    """What the data is about and how answers are written."""

    title: str = Field(description="What the domain is called, for people and dataset cards.")
    description: str = Field("", description="One or two sentences for dataset cards and reports.")
    answer_style: str = Field("", description="A sentence added to prompts that says how an answer looks.")
    citation_pattern: str = Field(
        "", description="Regular expression of one citation, for example '§ \\d+-\\d+-\\d+'."
    )

    @field_validator("citation_pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return pattern


class SourcesSpec(Strict):
    """Documents: Markdown and HTML are cut at headings into sections, text and PDF by length."""

    paths: list[str] = Field(default_factory=list, description="Files or globs, relative to the recipe.")
    section_heading: int = Field(3, ge=1, le=6, description="Heading level that opens a section.")
    slice_heading: int = Field(2, ge=1, le=6, description="Heading level that names the slice.")
    section_chars: int = Field(
        4000, ge=200, description="Characters of a section at most; a longer one becomes several."
    )

    @model_validator(mode="after")
    def _slices_hold_sections(self) -> SourcesSpec:
        if self.slice_heading >= self.section_heading:
            raise ValueError("slice_heading must be a smaller number than section_heading")
        return self


class GoldSpec(Strict):
    """Checked examples. `dev` steers the loop, `test` is only reported, `refiner` trains the refiner."""

    dev: str = Field(description="JSONL of checked questions and answers that steer the loop.")
    test: str = Field(description="JSONL of checked questions and answers that are only reported.")
    refiner: str | None = Field(None, description="JSONL of drafts with what an expert made of them.")


class Price(Strict):
    """Dollars per million tokens."""

    prompt: float = Field(0.0, ge=0, description="For a million tokens of prompt.")
    completion: float = Field(0.0, ge=0, description="For a million tokens of answer.")


class SamplingSpec(Strict):
    """How a role decodes."""

    temperature: float = Field(0.0, ge=0, le=2, description="0 takes the most likely token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Probability mass that is sampled from.")
    max_tokens: int = Field(256, ge=1, description="Of an answer, at most.")

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.max_tokens)


class ModelSpec(Strict):
    """Which server answers for a role, with which adapter, at which price."""

    server: str = Field(description="A key of `servers`.")
    model: str | None = Field(
        None, description="Model name at an endpoint; a vLLM server's own model otherwise."
    )
    adapter: str | None = Field(None, description="Folder of a LoRA adapter, relative to the recipe.")
    sampling: SamplingSpec = Field(SamplingSpec(), description="How the role decodes.")
    concurrency: int = Field(
        64,
        ge=1,
        description="Calls in flight at each replica of the server, or calls of a batch, at most.",
    )
    timeout_seconds: float = Field(600.0, gt=0, description="For one call.")
    max_retries: int = Field(5, ge=0, description="Of one call, after its first attempt.")
    price: Price = Field(Price(), description="For the budget and the report.")


class StepSpec(Strict):
    """A strategy or refiner by its registered name; the other keys are its own options."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    name: str = Field(description="As registered; the other keys are its own options.")

    def options(self) -> dict[str, Any]:
        """The keys that belong to the step itself."""
        return dict(self.model_extra or {})


class StrategySpec(StepSpec):
    """A generation strategy with its share of the samples."""

    weight: float = Field(1.0, gt=0, description="Share of the round, against the other strategies' weights.")


class TrainingSpec(StepSpec):
    """A trainer by name with its options, and the base it starts from."""

    name: str = Field("qlora", description="Registered name of the trainer.")
    base: str = Field(description="Folder (relative to the recipe) or hub name that training starts from.")


class EvaluationSpec(StepSpec):
    """The evaluator by name with its options."""

    name: str = Field("answers", description="Registered name of the evaluator.")


class SelectionSpec(Strict):
    """Accepts more than is wanted and takes the best of it: quality × difficulty, few that say the same."""

    name: Literal["diverse"] = Field(
        description="`diverse`: one after another the sample with the largest quality × difficulty × (1 − "
        "cosine to the nearest one taken).",
    )
    candidates: float = Field(
        2.0, gt=1, le=100, description="Accepted samples to choose from, for each one that is wanted."
    )
    embedder: EmbedderSpec = Field("bundled", description=DESCRIPTION)

    def num_candidates(self, num_wanted: int) -> int:
        """Accepted samples to choose so many from."""
        return ceil(round(num_wanted * self.candidates, 6))  # 10 × 1.1 is 11


class LoopSpec(Strict):
    """How many rounds, how much in each, and which controls run beside."""

    rounds: int = Field(2, ge=1, description="How many times round: generate, refine, train, evaluate.")
    samples_per_round: int | None = Field(
        None,
        ge=1,
        le=MAX_SAMPLES_PER_ROUND,
        description="Samples that the teacher is asked for in a round, however many of them are accepted; "
        f"{DEFAULT_SAMPLES_PER_ROUND} where `accepted` is not given either.",
    )
    accepted: int | None = Field(
        None,
        ge=1,
        le=MAX_SAMPLES_PER_ROUND,
        description="Accepted samples that a round must have: the teacher is asked until there are exactly "
        "so many, or the budget ends. In place of `samples_per_round`.",
    )
    selection: SelectionSpec | None = Field(
        None, description="Of more samples than `accepted` the best are taken; null: the first ones."
    )
    slice_floor: float = Field(
        0.25, ge=0, le=1, description="Share of a round that is spread evenly over slices."
    )
    controls: dict[Slug, list[str]] = Field(
        default_factory=dict,
        description="Name of a control run → the refiners it keeps; each trains on round 1's calls.",
    )
    while_training: Literal["auto", "keep", "sleep", "stop"] = Field(
        "auto", description="What a server of ours does while a model trains on the same device."
    )
    max_failure_share: float = Field(0.2, gt=0, le=1, description="Share of failed tasks that stops a stage.")

    @model_validator(mode="after")
    def _one_size(self) -> LoopSpec:
        if self.accepted is not None and self.samples_per_round is not None:
            raise ValueError(
                "give samples_per_round or accepted, not both; null takes back what another file gives"
            )
        if self.selection is not None and self.accepted is None:
            raise ValueError("selection needs accepted: it chooses so many of more samples")
        if self.num_candidates(self.accepted or 0) > MAX_SAMPLES_PER_ROUND:
            raise ValueError(f"accepted × selection.candidates is more than {MAX_SAMPLES_PER_ROUND:,}")
        return self

    @property
    def num_tasks(self) -> int:
        """Tasks of a round that has no target."""
        return self.samples_per_round or DEFAULT_SAMPLES_PER_ROUND

    def num_candidates(self, num_wanted: int) -> int:
        """Accepted samples that a round asks for where so many are wanted."""
        return self.selection.num_candidates(num_wanted) if self.selection else num_wanted


class GuardSpec(Strict):
    """Limits that stop a round before training; see docs/recipe.md for the measures."""

    min_samples: int = Field(1, ge=1, description="Accepted samples that training needs.")
    max_distinct2_drop: float = Field(
        0.10,
        gt=0,
        le=1,
        description="Fall of the share of distinct word pairs from round 1 to a round's own samples, "
        "as many of each slice; half of it is told.",
    )
    max_gzip_ratio: float = Field(1.1, gt=0, description="Compression ratio as a multiple of round 1's.")


class BudgetSpec(Strict):
    """Hard limits over the whole run; null is no limit.

    An attempt that was cut off, or that got no answer though the endpoint may have worked on it, counts with
    the most that it can have cost, but not at a server of ours (kinds vllm and scripted), which nobody bills.
    The report's spend is what the endpoint reported; status and report name the rest beside it. What a killed
    process (kill -9, a power cut) had in flight is not counted: its calls may be billed, and no row says so.
    """

    calls: int | None = Field(None, ge=1, description="To models, evaluation included.")
    tokens: int | None = Field(None, ge=1, description="Of prompts and answers together.")
    dollars: float | None = Field(None, gt=0, description="By the prices of `models`.")
    minutes: float | None = Field(None, gt=0, description="Of wall-clock time.")


NOT_IN_RUN_LOOP = {"rounds", "controls", "while_training", "max_failure_share"}
NOT_IN_RUN_SERVER = ("replicas", "further_base_urls", "run_as", "batch")
NOT_IN_RUN_MODEL = ("concurrency", "timeout_seconds", "max_retries", "price")


class Recipe(Strict):
    """See docs/recipe.md, which lists every key."""

    name: Slug = Field(description="Lower-case letters, digits, - and _.")
    domain: DomainSpec = Field(description="What the data is about.")
    sources: SourcesSpec = Field(SourcesSpec(), description="Documents that the samples rest on.")
    seeds: str | None = Field(None, description="JSONL of seed prompts.")
    gold: GoldSpec = Field(description="Checked examples.")
    servers: dict[Slug, Server] = Field(description="Name → what answers: vLLM, an endpoint or a script.")
    models: dict[Role, ModelSpec] = Field(description="Role → the model that plays it; `teacher` is needed.")
    strategies: list[StrategySpec] = Field(min_length=1, description="How samples are made, with weights.")
    refiners: list[StepSpec] = Field(
        default_factory=list, description="What judges and mends samples, in this order; cheap before dear."
    )
    training: dict[Literal["student", "refiner"], TrainingSpec] = Field(
        default_factory=dict, description="Role → how it is trained; without it a run ends after refining."
    )
    evaluation: EvaluationSpec = Field(EvaluationSpec(), description="How answers are scored.")
    loop: LoopSpec = Field(LoopSpec(), description="Rounds and their sizes.")
    guard: GuardSpec = Field(GuardSpec(), description="What stops a round before it trains.")
    budget: BudgetSpec = Field(BudgetSpec(), description="What the whole run may cost.")
    seed: int = Field(0, ge=0, lt=2**32, description="Random seed of sampling and training.")

    def digest(self) -> str:
        """Twenty hexadecimal digits that change with any value of the recipe."""
        return digest(self.model_dump(mode="json"))

    def run_digest(self) -> str:
        """The same without what changes no sample: more rounds or budget continue the same run."""
        found = self.model_dump(mode="json", exclude={"budget": True, "loop": NOT_IN_RUN_LOOP})
        for parts, keys in ((found["servers"], NOT_IN_RUN_SERVER), (found["models"], NOT_IN_RUN_MODEL)):
            for part in parts.values():
                for key in keys:
                    part.pop(key, None)
                if part.get("tool_call_parser", "") is None:  # a run without tools is named as ever
                    del part["tool_call_parser"]
        if found["loop"]["selection"] is None:  # and one without selection
            del found["loop"]["selection"]
        return digest(found)
