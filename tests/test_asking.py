"""A refiner that is bound to the model of its role is opened as it would be without."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast

import pytest
from pydantic import BaseModel

from factory.asking import Bound
from factory.bench import Bench
from factory.ports import Ask
from factory.refine import Refining
from factory.store.store import Store
from factory.types import Decision, Sample


class Learns:
    """Keeps everything, and notes how it was opened."""

    Options: ClassVar[type[BaseModel]] = BaseModel
    uses_model: ClassVar[bool] = True

    def __init__(self) -> None:
        self.told: list[str] = []

    def open(self, accepted: Iterable[Sample]) -> None:
        self.told.append("open")

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        return [Decision(sample.id, "learns", "keep", "ok") for sample in samples]


class Replays(Learns):
    """Learns from what it dropped too."""

    def replay(self, decided: Iterable[Sample]) -> None:
        self.told.append("replay")


@pytest.mark.parametrize(("kind", "told"), [(Learns, "open"), (Replays, "replay")])
def test_a_bound_refiner_is_opened_as_without(kind: type[Learns], told: str, tmp_path: Any) -> None:
    refiner = kind()
    with Store.open(tmp_path / "w") as store:
        Refining(store, "run_a", 1, [("learns", Bound(refiner, "judge", cast(Bench, None), 1))])
    assert refiner.told == [told]
