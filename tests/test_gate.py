"""The statistics of promotion against known values and their own laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import FactoryError
from factory.types import Evaluation, ItemResult
from training.gate import bootstrap_low, compare

scores = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def evaluation(values, *, slices=None, clusters=None, keys=None):
    items = tuple(
        ItemResult(
            key=keys[n] if keys else f"item-{n}",
            slice=slices[n] if slices else "one",
            cluster=clusters[n] if clusters else f"source-{n}",
            question="?",
            expected="",
            answer="",
            score=float(value),
            call_id="",
        )
        for n, value in enumerate(values)
    )
    return Evaluation("model", "dev", "facts", 0.0, 0.0, 1.0, items)


def gate(old, new, **groups):
    old, new = evaluation(old, **groups), evaluation(new, **groups)
    return compare(old, new, max_slice_drop=0.1, min_items=20, seed=7)


def test_the_bootstrap_finds_the_exact_bound_where_it_is_known():
    """Of 50 lone items 13 got better: a resample's number of gains is binomial, its 5 % quantile is 8."""
    differences = [1.0] * 13 + [0.0] * 37
    low = bootstrap_low(differences, [str(n) for n in range(50)], seed=0)
    assert low == pytest.approx(8 / 50)
    assert bootstrap_low(differences, [str(n) for n in range(50)], seed=0) == low


def test_items_of_one_source_count_as_one_piece_of_evidence():
    """Ten gains from one source may be absent from a resample altogether; from ten sources they may not."""
    differences = [1.0] * 10 + [0.0] * 40
    clustered = ["same"] * 10 + [str(n) for n in range(40)]
    assert bootstrap_low(differences, clustered, seed=0) == 0.0


@given(scores)
def test_a_comparison_reversed_is_its_opposite(pairs):
    old, new = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    there, back = gate(old, new), gate(new, old)
    assert there.gain == pytest.approx(-back.gain)
    assert (there.num_better, there.num_worse) == (back.num_worse, back.num_better)
    assert there.p_value == back.p_value
    assert there.gain_low <= there.gain + 1e-12
    assert not (there.promote and back.promote)


@given(scores, st.randoms())
def test_the_order_of_items_does_not_matter(pairs, random):
    keys = [f"item-{n}" for n in range(len(pairs))]
    old = evaluation([pair[0] for pair in pairs], keys=keys, clusters=keys)
    order = list(range(len(pairs)))
    random.shuffle(order)
    new = evaluation([pair[1] for pair in pairs], keys=keys, clusters=keys)
    mixed = [keys[n] for n in order]
    shuffled = evaluation([pairs[n][1] for n in order], keys=mixed, clusters=mixed)
    options = {"max_slice_drop": 0.1, "min_items": 20, "seed": 3}
    assert compare(old, new, **options) == compare(old, shuffled, **options)


def test_a_clear_gain_is_promoted():
    verdict = gate([0] * 20 + [1] * 20, [1] * 18 + [0] * 2 + [1] * 20)
    assert verdict.promote and verdict.reason == "gain"
    assert (verdict.num_better, verdict.num_worse) == (18, 0)
    assert verdict.gain == 0.45 and 0.25 < verdict.gain_low < 0.4 and verdict.p_value < 1e-4


def test_identical_scores_are_no_gain():
    verdict = gate([0, 1] * 20, [0, 1] * 20)
    assert not verdict.promote and verdict.reason == "no_gain"
    assert (verdict.gain, verdict.gain_low, verdict.p_value) == (0.0, 0.0, 1.0)


def test_a_gain_within_chance_is_no_gain():
    verdict = gate([0] * 3 + [1] * 2 + [0] * 35, [1] * 3 + [0] * 2 + [0] * 35)
    assert verdict.gain > 0 and verdict.gain_low <= 0 and verdict.reason == "no_gain"


def test_few_items_never_promote():
    assert gate([0] * 19, [1] * 19).reason == "too_few_items"
    assert gate([0] * 20, [1] * 20).reason == "gain"
    assert gate([], []).reason == "too_few_items"


def test_a_slice_that_falls_stops_the_promotion():
    slices = ["wages"] * 30 + ["death"] * 10
    old = [0] * 30 + [1] * 10
    verdict = gate(old, [1] * 30 + [0, 0] + [1] * 8, slices=slices)
    assert (verdict.reason, verdict.worst_slice) == ("slice_fell", "death")
    assert verdict.worst_slice_gain == pytest.approx(-0.2) and not verdict.promote
    one_lost = gate(old[:38], [1] * 30 + [0] + [1] * 7, slices=slices)  # one of eight: 12 %, and no evidence
    assert one_lost.worst_slice_gain == -0.125 and one_lost.promote


def test_different_items_are_not_compared():
    with pytest.raises(FactoryError, match="different items"):
        options = {"max_slice_drop": 0.1, "min_items": 20, "seed": 0}
        compare(evaluation([1, 0]), evaluation([1, 0], keys=["item-0", "other"]), **options)


def test_many_clusters_are_resampled_in_bounded_memory(monkeypatch):
    import training.gate

    differences = list(np.random.default_rng(0).choice([0.0, 1.0], size=100))
    clusters = [str(n) for n in range(100)]
    at_once = bootstrap_low(differences, clusters, seed=5)
    monkeypatch.setattr(training.gate, "CHUNK", 1000)
    assert bootstrap_low(differences, clusters, seed=5) == at_once
