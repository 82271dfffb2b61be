"""Reliability, its error, and the map that corrects it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.calibration import (
    NEAREST,
    Bin,
    Calibration,
    Point,
    expected_error,
    fit,
    load,
    measure,
    reliability_curve,
    save,
)
from factory.errors import RecipeError

POINTS = st.lists(
    st.builds(Point, st.floats(0, 1), st.booleans(), st.sampled_from("abcdef")), min_size=1, max_size=80
)


def draw(num: int, seed: int, sharpness: float = 1.0) -> list[Point]:
    """Points whose true probability is p, but which say p ** sharpness / (p ** s + (1 - p) ** s)."""
    chance = random.Random(seed)
    points = []
    for number in range(num):
        p = chance.random()
        said = p**sharpness / (p**sharpness + (1 - p) ** sharpness)
        points.append(Point(said, chance.random() < p, f"section {number % 40}"))
    return points


def test_the_curve_by_hand() -> None:
    points = [Point(0.1, False), Point(0.3, True), Point(0.7, True), Point(0.9, True)]
    bins = reliability_curve(points, num_bins=2)
    assert bins == [Bin(pytest.approx(0.2), 0.5, 2), Bin(pytest.approx(0.8), 1.0, 2)]
    assert expected_error(bins) == pytest.approx((2 * 0.3 + 2 * 0.2) / 4)


@given(st.dictionaries(st.integers(0, 8), st.integers(1, 4), min_size=1))
def test_probabilities_that_come_true_have_no_error(counts: dict[int, int]) -> None:
    """Of 8n points at k/8, kn are true; they come in the worst order."""
    points = [Point(k / 8, at < k * n) for k, n in counts.items() for at in range(8 * n)]
    assert expected_error(reliability_curve(points, num_bins=100)) == pytest.approx(0, abs=1e-12)


@given(POINTS, st.integers(1, 20))
def test_every_point_is_in_one_bin_and_equal_ones_are_together(points: list[Point], num_bins: int) -> None:
    bins = reliability_curve(points, num_bins)
    assert sum(each.num for each in bins) == len(points)
    assert len(bins) <= num_bins
    assert [each.probability for each in bins] == sorted(each.probability for each in bins)
    assert 0 <= expected_error(bins) <= 1
    assert len({point.probability for point in points}) >= len(bins)


@given(POINTS, st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_the_map_rises_and_stays_between_0_and_1(points: list[Point], probabilities: list[float]) -> None:
    calibration = fit(points)
    found = [calibration.apply(p) for p in sorted(probabilities)]
    assert found == sorted(found)
    assert all(0 <= p <= 1 for p in found)
    assert calibration.slope >= 0


def test_what_is_too_sure_is_made_true() -> None:
    found = measure(draw(4000, seed=1, sharpness=3.0))
    assert found is not None
    assert found.before > 0.1
    assert found.after < 0.03
    assert found.calibration.slope == pytest.approx(1 / 3, abs=0.05)
    assert found.calibration.intercept == pytest.approx(0, abs=0.15)


def test_what_is_true_is_left_as_it_is() -> None:
    calibration = fit(draw(4000, seed=2))
    assert all(calibration.apply(p) == pytest.approx(p, abs=0.03) for p in (0.05, 0.3, 0.5, 0.8, 0.97))


def test_an_order_that_is_wrong_is_not_turned_round() -> None:
    turned = [point._replace(probability=1 - point.probability) for point in draw(400, seed=3)]
    calibration = fit(turned)
    share = sum(point.is_true for point in turned) / len(turned)
    assert calibration.slope == 0
    assert calibration.apply(0.9) == calibration.apply(0.1) == pytest.approx(share, abs=0.01)


def test_perfect_separation_does_not_become_certainty() -> None:
    points = [Point(float(n < 10), n < 10, f"s{n}") for n in range(20)]
    calibration = fit(points)
    assert calibration.apply(1.0) == pytest.approx(11 / 12, abs=0.01)
    assert calibration.apply(0.0) == pytest.approx(1 / 12, abs=0.01)
    assert calibration.apply(1.0) == calibration.apply(1 - NEAREST)


def test_the_error_after_is_measured_on_what_was_not_fitted() -> None:
    """Were it fitted on all, a coin would look as if it were known."""
    coins = [Point(p, q, f"s{n}") for n, (p, q, _) in enumerate(draw(60, seed=4))]
    found = measure(coins)
    assert found is not None
    assert found.num == sum(each.num for each in found.bins_after) == 60
    assert found.after != pytest.approx(
        expected_error(
            reliability_curve([p._replace(probability=found.calibration.apply(p.probability)) for p in coins])
        )
    )


@pytest.mark.parametrize(
    "points",
    [
        [],
        [Point(0.5, n % 2 == 0, f"s{n}") for n in range(19)],
        [Point(0.5, True, f"s{n}") for n in range(50)],
        [Point(0.5, n % 2 == 0, "one section") for n in range(50)],
    ],
)
def test_too_little_to_tell(points: list[Point]) -> None:
    assert measure(points) is None


def test_it_is_kept_beside_an_adapter(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    path = save(Calibration(0.5, -1.25), tmp_path)
    assert load(tmp_path) == Calibration(0.5, -1.25)
    for wrong in ("{}", "[]", "no JSON", json.dumps({"slope": -1, "intercept": 0})):
        path.write_text(wrong)
        with pytest.raises(RecipeError, match="no calibration"):
            load(tmp_path)
