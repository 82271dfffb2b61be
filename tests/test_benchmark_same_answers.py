"""The benchmark of equal answers finds where two part, and says by how little."""

import math
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_answers_part_at_their_first_difference_and_agree_before_it() -> None:
    from benchmarks.same_answers import Token, compare

    first = [Token(5, -0.1, 6, -2.0), Token(7, -0.69, 8, -0.70), Token(9, -0.2, 1, -3.0)]
    second = [Token(5, -0.2, 6, -1.9), Token(8, -0.69, 7, -0.71), Token(9, -0.2, 1, -3.0)]
    partings, differences = compare([first, first], [second, first])
    assert [(each.prompt, each.position) for each in partings] == [(0, 1)]
    assert partings[0].first.lead == pytest.approx(0.01) and partings[0].second.id == 8
    assert differences == pytest.approx([0.1, 0.0, 0.0, 0.0])


def test_an_answer_that_is_the_beginning_of_another_is_a_fault_of_the_measurement() -> None:
    from benchmarks.same_answers import Token, compare

    whole = [Token(5, -0.1, 6, -2.0), Token(7, math.log(0.9), 8, -3.0)]
    with pytest.raises(SystemExit, match="prompt 0"):
        compare([whole], [whole[:1]])
