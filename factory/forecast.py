"""What a run would ask for: calls, tokens and dollars of each stage, counted before anything is asked.

With a fixed number of tasks it is an upper bound: every answer as long as it may be, every sample through
every refiner that uses a model. With a target of accepted samples the number of tasks is not known; then it
is the same bound for as many as it takes if a certain share is accepted (`waves.ASSUMED_YIELD`), which is an
assumption and no limit. The limits are the budget's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

from factory.asking import judging_role, role_of
from factory.domain import Domain
from factory.ports import RefineCost, TaskCost
from factory.recipe import Role
from factory.registry import create, create_with_inner, find
from factory.types import GoldItem
from factory.waves import num_tasks_for

CHARACTERS_PER_TOKEN = 3  # on the safe side: English has about four
PROMPT_OVERHEAD_TOKENS = 200  # instructions, chat template, examples
COUNTS = ("calls", "tokens", "dollars")

_Costs = Sequence[Sequence[tuple[float, TaskCost]]]


@dataclass(frozen=True)
class _Work:
    """Calls of one stage to one role, and how many of the teacher's answers stand in their prompts.

    `prompt` is the tokens of one prompt on average, where that is known.
    """

    stage: str
    role: Role
    num_calls: int
    num_quoted: int = 0
    prompt: float | None = None


def forecast(domain: Domain) -> list[dict[str, Any]]:
    """Calls, tokens and dollars of each stage over all rounds, and their sum as the last row."""
    return _rows(domain, [*_work(domain, domain.recipe.loop.rounds), *_evaluating(domain)])


def forecast_round(domain: Domain) -> dict[str, Any]:
    """Calls, tokens and dollars of one round's samples: generation and refinement together."""
    return {key: value for key, value in _rows(domain, _work(domain, 1))[-1].items() if key in COUNTS}


def cost_of_task(domain: Domain) -> dict[str, float]:
    """Calls, tokens and dollars that a task and the refining of its samples come to at most, on average."""
    return {
        key: value for key, value in _rows(domain, _work(domain, 1, num_tasks=1))[-1].items() if key in COUNTS
    }


def _rows(domain: Domain, works: Sequence[_Work]) -> list[dict[str, Any]]:
    rows = []
    longest = max((len(source.text) for source in domain.sources), default=0)
    num_sections = max((getattr(each, "num_sections", 1) for each in _strategies(domain)), default=1)
    prompt = num_sections * longest // CHARACTERS_PER_TOKEN + PROMPT_OVERHEAD_TOKENS
    quoted = domain.recipe.models["teacher"].sampling.max_tokens
    for work in works:
        model = domain.recipe.models[work.role]
        tokens = (
            ceil(work.num_calls * (prompt if work.prompt is None else work.prompt))
            + work.num_quoted * quoted,
            work.num_calls * model.sampling.max_tokens,
        )
        dollars = (tokens[0] * model.price.prompt + tokens[1] * model.price.completion) / 1e6
        rows.append(
            {
                "stage": work.stage,
                "role": work.role,
                "calls": work.num_calls,
                "tokens": sum(tokens),
                "dollars": dollars,
            }
        )
    total: dict[str, Any] = {"stage": "all", "role": "all"}
    for key in COUNTS:
        total[key] = sum(row[key] for row in rows)
    return [*rows, total]


def _work(domain: Domain, num_rounds: int, num_tasks: int | None = None) -> list[_Work]:
    recipe, costs = domain.recipe, _costs(domain)
    if num_tasks is None:
        num_tasks = recipe.loop.num_tasks
        if recipe.loop.accepted is not None:
            num_accepted = recipe.loop.num_candidates(recipe.loop.accepted)
            num_tasks = num_tasks_for(num_accepted, -_most(costs, lambda cost: -cost.num_samples))
    num_calls = _shared(domain) + num_rounds * ceil(num_tasks * _most(costs, lambda cost: cost.num_calls))
    # A prompt may hold all that was answered before in its task.
    num_before = _most(costs, lambda cost: cost.num_calls * (cost.num_calls - 1) // 2)
    work = [_Work("generate", "teacher", num_calls, num_rounds * ceil(num_tasks * num_before))]
    return [*work, *_refining(domain, num_rounds, num_tasks, costs)]


def _refining(domain: Domain, num_rounds: int, num_tasks: int, costs: _Costs) -> Iterator[_Work]:
    """What each refiner that uses a model asks about every sample, or about the share that it draws."""
    num_samples = ceil(num_tasks * _most(costs, lambda cost: cost.num_samples))
    num_answers = ceil(num_tasks * _most(costs, lambda cost: cost.num_answers))
    for spec in domain.recipe.refiners:
        refiner = find("refiners", spec.name)
        role = role_of(refiner)
        if role is None:
            continue
        asked = getattr(create("refiners", spec, domain), "cost", RefineCost())
        if asked.num_calls is None:
            num_calls = asked.num_each * _drawn(num_answers, asked.share)
            num_quoted = asked.num_each * ceil(
                num_tasks * _most(costs, lambda cost: cost.num_answers * cost.num_calls)
            )
        else:  # the whole sample is in the prompt, and perhaps a second answer
            num_calls = _drawn(num_samples, asked.share) * asked.num_calls
            num_quoted = num_calls * ceil(
                _most(costs, lambda cost: ceil(cost.num_answers / cost.num_samples)) + 1
            )
        yield _Work("refine", role, num_rounds * num_calls, num_rounds * num_quoted)


def _drawn(num: int, share: float) -> int:
    """How many of `num` are drawn, each by a lot of its own: no more than this but once in 700 times."""
    return min(num, ceil(num * share + 3 * sqrt(num * share * (1 - share))))


def _evaluating(domain: Domain) -> Iterator[_Work]:
    """All items, asked of the base and of every student, with what the evaluator asks them with.

    And, where a second model scores the answers, each of these.
    """
    recipe, items = domain.recipe, (*domain.dev, *domain.test)
    if "student" not in recipe.training or not items:
        return
    num_students = 1 + recipe.loop.rounds + len(recipe.loop.controls)
    num_calls = num_students * len(items)
    prompt = _mean_prompt(items, getattr(domain.evaluator, "num_characters", None))
    yield _Work("evaluate", "student", num_calls, prompt=prompt)
    if role := judging_role(recipe):
        prompt = _mean_prompt(items, getattr(domain.evaluator, "num_judged_characters", None))
        answer = recipe.models["student"].sampling.max_tokens
        yield _Work("evaluate", role, num_calls, prompt=None if prompt is None else prompt + answer)


def _mean_prompt(items: Sequence[GoldItem], count: Callable[[GoldItem], int] | None) -> float | None:
    """Tokens of a prompt about an item, on average, by its characters; None where nobody counts them."""
    if count is None:
        return None
    return sum(map(count, items)) / len(items) / CHARACTERS_PER_TOKEN + PROMPT_OVERHEAD_TOKENS


def _shared(domain: Domain) -> int:
    """Calls that tasks share, such as those that grow topics: made once in all rounds."""
    return sum(getattr(strategy, "num_shared_calls", 0) for strategy in _strategies(domain))


def _strategies(domain: Domain) -> list[object]:
    """Every strategy of the recipe, and those that they wrap."""
    specs = domain.recipe.strategies
    return [each for spec in specs for each in create_with_inner("generators", spec, domain)]


def _costs(domain: Domain) -> list[list[tuple[float, TaskCost]]]:
    """For each slice the weight and the cost of every strategy that serves it."""
    made = [(spec.weight, create("generators", spec, domain)) for spec in domain.recipe.strategies]
    served = [(set(each.slices), weight, getattr(each, "cost", TaskCost())) for weight, each in made]
    slices = set[str]().union(*(slices for slices, _, _ in served))
    return [[(weight, cost) for names, weight, cost in served if slice in names] for slice in sorted(slices)]


def _most(costs: _Costs, count: Callable[[TaskCost], int]) -> float:
    """A count for a task on average, in the slice that takes most of it."""
    means = [sum(w * count(cost) for w, cost in slice) / sum(w for w, _ in slice) for slice in costs]
    return max(means, default=0.0)
