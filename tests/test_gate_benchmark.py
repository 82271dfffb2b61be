"""The simulation decides as the gate does."""

import numpy as np

from benchmarks.gate import NUM_SLICES, Cell, PValues, draw, fallen, proven
from training.flips import ALPHA, gain_p
from training.gate import Differences, Rule, compare_slices

RULE = Rule(max_slice_drop=0.1, min_items=20, seed=0)


def items_of(sums, size):
    """Items whose clusters have these sums."""
    values = [float(np.sign(each)) * (n < abs(each)) for each in sums for n in range(size)]
    return Differences(values, [str(n // size) for n in range(len(values))])


def test_slices_are_judged_alike():
    rng, tests, cell = np.random.default_rng(0), PValues(), Cell(3, 12, 0.6)
    drawn = [draw(rng, 30, cell, gain) for gain in (-0.5, -0.2, 0.0, 0.0)]
    assert len(drawn) == NUM_SLICES
    verdicts = [
        compare_slices({str(n): items_of(each[row], 3) for n, each in enumerate(drawn)}, RULE)
        for row in range(30)
    ]
    fell = [[each.fell for each in slices] for slices in verdicts]
    assert fallen(drawn, 3, tests).tolist() == fell
    assert {True, False} <= {each for row in fell for each in row}
    for n, each in enumerate(drawn):
        assert proven(each, 3) == [slices[n].safe for slices in verdicts]


def test_gains_are_judged_alike():
    drawn = draw(np.random.default_rng(1), 40, Cell(3, 20, 0.4), 0.15)
    told = [p_value <= ALPHA for p_value in PValues().gain(drawn)]
    assert told == [gain_p(items_of(row, 3).by_cluster()[0], 5) <= ALPHA for row in drawn]
    assert {True, False} == set(told)
