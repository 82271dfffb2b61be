"""The interval of a share and the paired test, against known values and scipy's."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from factory.significance import mcnemar, wilson


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts):
    successes, num = counts
    expected = binomtest(successes, num).proportion_ci(method="wilson")
    assert wilson(successes / num, num) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_of_known_values_and_of_nothing():
    assert wilson(0.9, 100) == pytest.approx(
        (0.8256, 0.9448), abs=1e-4
    )  # 81/263 and 15/148 stand in Newcombe 1998
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0.0, 0) == (0.0, 1.0)


def test_mcnemar_of_known_values():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(6, 0) == pytest.approx(2 * 0.5**6)
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(22 / 1024)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_scipys(num_better, num_worse):
    num_pairs = num_better + num_worse
    expected = binomtest(num_better, num_pairs).pvalue if num_pairs else 1.0
    assert mcnemar(num_better, num_worse) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_very_many_pairs():
    assert mcnemar(20_000, 20_000) == 1.0
    assert mcnemar(20_000, 0) == 0.0  # less than a float can hold


def test_neither_the_command_line_nor_a_report_imports_a_numerical_library():
    script = "import sys, factory.cli, factory.report\n"
    script += "assert not {'scipy', 'numpy'} & set(sys.modules), 'numpy or scipy'"
    subprocess.run([sys.executable, "-c", script], check=True)
