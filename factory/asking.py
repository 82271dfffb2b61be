"""Which models the refiners of a recipe and its evaluation ask, and how each comes by the `ask` of its role.

A refiner names its role in an attribute `role`, `refiner` where it names none. Bound to a run, it gets the
role's own `ask`, made when it first has samples: a server that nobody asks is never started. The model's id
is written into the scores that the refiner leaves without one, since it does not know it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from factory.address import without_password
from factory.errors import FactoryError
from factory.ports import Ask, Refiner
from factory.recipe import Recipe, Role
from factory.registry import find, options_of
from factory.servers import EndpointServer, VllmServer
from factory.types import Completion, Decision, Sample

if TYPE_CHECKING:
    from factory.bench import Bench
    from factory.embedding.account import Account
    from factory.refine import Steps


Decide = Callable[..., Awaitable[list[Decision]]]  # `refine` and `compare`


def role_of(refiner: Refiner | type[Refiner]) -> Role | None:
    """The role whose model a refiner asks; None where it asks none."""
    role: Role = getattr(refiner, "role", "refiner")
    return role if refiner.uses_model else None


def roles_asked(recipe: Recipe) -> list[Role]:
    """The roles whose models the refiners of a recipe ask, each once, in their order."""
    roles = [role_of(find("refiners", spec.name)) for spec in recipe.refiners]
    return list(dict.fromkeys(role for role in roles if role))


def judging_role(recipe: Recipe) -> Role | None:
    """The role whose model scores a student's answers; None where the evaluator asks the student alone."""
    role: Role | None = getattr(options_of("evaluators", recipe.evaluation), "role", None)
    return role


def roles_evaluating(recipe: Recipe) -> list[Role]:
    """The roles whose models an evaluation asks: the student, and who scores its answers."""
    role = judging_role(recipe)
    return ["student", role] if role else ["student"]


def who_answers(recipe: Recipe, role: Role) -> list[str | None]:
    """What a recipe says of the model of a role: two roles of which it says the same are one model."""
    spec = recipe.models[role]
    server = recipe.servers[spec.server]
    if isinstance(server, EndpointServer):
        base = [without_password(server.base_url).rstrip("/"), spec.model]
    else:
        base = [str(Path(server.model)) if isinstance(server, VllmServer) else server.script]
    return [*base, str(Path(spec.adapter)) if spec.adapter else None]


def bound_refiners(bench: Bench, number: int, account: Account | None = None) -> Steps:
    """The refiners of a run's round by name, in order; those that use a model ask their own.

    What their embedders are asked is kept and counted for the run, in one account: a text that two steps want
    is paid once. `account` is that of further steps.
    """
    from factory.embedding.account import Account

    account = account or Account.of(bench, number)
    found: list[tuple[str, Refiner]] = []
    for name, refiner in bench.refiners():
        if (embedder := getattr(refiner, "embedder", None)) is not None:
            embedder.bind(account)
        let_tell(refiner, bench.progress.note)
        role = role_of(refiner)
        found.append((name, Bound(refiner, role, bench, number) if role else refiner))
    return found


def let_tell(refiner: Refiner, tell: Callable[[str], None]) -> None:
    """Gives a refiner that has something to say while it works the place where it is read."""
    if hasattr(refiner, "tell"):
        refiner.tell = tell


@dataclass(slots=True)
class Bound:
    """A refiner that brings its own `ask`, whatever it is handed."""

    Options: ClassVar[type[BaseModel]] = BaseModel
    uses_model: ClassVar[bool] = True

    refiner: Refiner
    role: Role
    bench: Bench
    number: int
    _found: tuple[Ask, str] | None = None

    def open(self, accepted: Iterable[Sample]) -> None:
        """As the refiner itself."""
        self.refiner.open(accepted)

    @property
    def replay(self) -> Callable[[Iterable[Sample]], None] | None:
        """The refiner's own, where it has one."""
        found: Callable[[Iterable[Sample]], None] | None = getattr(self.refiner, "replay", None)
        return found

    @property
    def compare(self) -> Decide | None:
        """The refiner's own with the model of its role, where it has one."""
        found: Decide | None = getattr(self.refiner, "compare", None)
        return None if found is None else partial(self._decide, found)

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """As the refiner itself, with the model of its role."""
        return await self._decide(self.refiner.refine, samples, ask)

    async def _decide(self, decide: Decide, *given: object) -> list[Decision]:
        """What `decide` makes of what is given it, of which the last is an `ask` that is not the role's."""
        if self._found is None:
            self._found = await self.bench.ask(self.role, "refine", self.number)
        own, model_id = self._found
        return [_signed(decision, model_id) for decision in await decide(*given[:-1], own)]


def _signed(decision: Decision, model_id: str) -> Decision:
    scores = [each if each.model_id else replace(each, model_id=model_id) for each in decision.scores]
    return replace(decision, scores=tuple(scores)) if scores else decision


async def no_model(*_arguments: object, **_options: object) -> Completion:
    """What refiners that use no model get for asking."""
    raise FactoryError("a refiner asked a model though it does not say that it uses one")
