"""How many items a gain needs: against the exact test, and against itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from factory import power as powers
from factory.power import items_needed, power
from factory.significance import holm, non_inferiority


def exact_power(num, gain, changed):
    """Over every number of changed items: by scipy, with no window and no logarithms."""
    total, better = 0.0, (1 + gain / changed) / 2
    for count in range(num + 1):
        critical = next((k for k in range(count + 1) if binom.sf(k - 1, count, 0.5) <= 0.05), count + 1)
        total += binom.pmf(count, num, changed) * binom.sf(critical - 1, count, better)
    return total


@pytest.mark.parametrize(
    ("num", "gain", "changed"), [(10, 0.2, 0.5), (40, 0.1, 0.2), (150, 0.05, 0.05), (200, 0.1, 0.3)]
)
def test_the_power_is_that_of_the_exact_test(num, gain, changed):
    assert power(num, gain, changed) == pytest.approx(exact_power(num, gain, changed), abs=1e-9)


@pytest.mark.parametrize("gain", [0.02, 0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("ratio", [1.0, 2.0, 5.0])
def test_so_many_items_as_are_needed_show_the_gain_in_about_four_of_five_cases(gain, ratio):
    changed = min(1.0, gain * ratio)
    assert 0.79 < power(items_needed(gain, changed), gain, changed) < 0.86


def test_many_items_are_counted_by_the_normal_distribution_with_no_seam(monkeypatch):
    exact = power(1900, 0.03, 0.2)
    monkeypatch.setattr(powers, "MAX_EXACT", 0)
    assert power(1900, 0.03, 0.2) == pytest.approx(exact, abs=0.01)


def test_a_known_sample_size():
    """Connor's formula for a gain of 10 points of 30 % changed, plus the correction for continuity."""
    assert items_needed(0.1, 0.3) == pytest.approx(181 + 1 / 0.05, abs=2)


@given(st.floats(0.01, 0.9), st.floats(0.0, 1.0), st.floats(1.0, 10.0))
def test_more_is_needed_for_less_and_for_clusters(gain, changed, effect):
    needed = items_needed(gain, changed)
    assert 1 <= needed <= items_needed(gain, changed, target=0.9)
    assert needed <= items_needed(gain / 2, changed)
    assert needed <= items_needed(gain, changed, design_effect=effect) + 1
    assert 0 <= power(needed, gain, changed, design_effect=effect) <= 1


def test_no_items_show_nothing():
    assert power(0, 0.1, 0.5) == 0.0


def test_holm_multiplies_by_what_is_left_and_never_turns_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.8, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_p_values_and_bonferroni(p_values):
    for adjusted, p_value in zip(holm(p_values), p_values, strict=True):
        assert p_value <= adjusted <= min(1.0, len(p_values) * p_value) or adjusted == pytest.approx(p_value)


@pytest.mark.parametrize(("margin", "changed"), [(0.1, 0.1), (0.1, 0.3), (0.2, 0.3), (0.05, 0.1)])
@pytest.mark.parametrize("num", [10, 30, 100])
def test_a_fall_by_the_margin_is_seldom_ruled_out(num, margin, changed):
    """Summed over every outcome of a fall by exactly the margin: 5 % but for the grain of few items."""
    lost, share = (changed + margin) / 2, 0.0
    for count in range(num + 1):
        for won in range(num - count + 1):
            if non_inferiority(won, count, num, margin) <= 0.05:
                rest = binom.pmf(won, num - count, (changed - lost) / (1 - lost))
                share += binom.pmf(count, num, lost) * rest
    assert share < 0.06


def test_nothing_is_ruled_out_of_nothing():
    assert non_inferiority(0, 0, 0, 0.1) == non_inferiority(0, 0, 40, 0.0) == 1.0
    assert non_inferiority(0, 0, 100, 0.1) < 0.01 < 0.5 < non_inferiority(0, 20, 100, 0.1)
