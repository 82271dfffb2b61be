"""The statistics of promotion against known values and their own laws."""

import itertools
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from factory.comparison import describe_comparison, read_comparison
from factory.errors import FactoryError
from factory.power import items_needed
from factory.types import Evaluation, ItemResult
from training.flips import ALPHA, gain_low, gain_p
from training.gate import Rule, compare

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


RULE = Rule(max_slice_drop=0.1, min_items=20, seed=7)


def gate(old, new, rule=RULE, **groups):
    return compare(evaluation(old, **groups), evaluation(new, **groups), rule)


def test_lone_items_are_judged_by_the_exact_mcnemar_test():
    """One-sided, over all numbers that get better and worse."""
    for better in range(12):
        for worse in range(12 - better):
            expected = binom.sf(better - 1, better + worse, 0.5) if better else 1.0
            assert gain_p([1.0] * better + [-1.0] * worse + [0.0] * 5, 0) == pytest.approx(expected)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=10))
def test_the_test_is_the_share_of_all_signs(sums):
    """Counted out, sign by sign; drawn signs come near it."""
    signs = itertools.product((1, -1), repeat=len(sums))
    flipped = [sum(sign * value for sign, value in zip(each, sums, strict=True)) for each in signs]
    expected = sum(value >= sum(sums) for value in flipped) / len(flipped)
    assert gain_p(sums, 0) == pytest.approx(expected)
    assert gain_p([value / 7 for value in sums], 0) == pytest.approx(expected, abs=0.025)


def test_a_whole_cluster_is_one_piece_of_evidence():
    """Ten gains from one source are as likely ten losses; from ten sources they are not."""
    assert gain_p([10.0] + [0.0] * 40, 0) == 0.5
    assert gain_p([1.0] * 10 + [0.0] * 40, 0) == 2**-10
    assert gain_p([9.0, 9.0, 9.0, 9.0], 0) > ALPHA >= gain_p([1.0] * 5, 0)


def test_scores_between_0_and_1_never_give_a_p_value_of_nothing():
    assert 0 < gain_p([0.25] * 60, 3) == gain_p([0.25] * 60, 3) < 0.001


def test_the_lower_bound_is_what_all_subsets_of_clusters_give():
    """Counted out over the 2^8 subsets: the least mean that 5 % of them do not reach."""
    sums, sizes = [3, 2, 4, -1, 2, 5, 0, 1], [5, 4, 6, 3, 3, 5, 2, 4]
    means = []
    for chosen in itertools.product((0, 1), repeat=8):
        size = np.dot(chosen, sizes)
        means.append(np.dot(chosen, sums) / size if size else -1.0)
    expected = np.quantile(means, [0.03, 0.07], method="lower")
    assert expected[0] <= gain_low(sums, sizes, gain_p(sums, 0), 0) <= expected[1]


@given(scores, st.integers(1, 4), st.sampled_from([1.0, 0.37]))
def test_the_lower_bound_is_above_0_exactly_where_the_test_says_so(pairs, size, scale):
    old, new = [pair[0] * scale for pair in pairs], [pair[1] * scale for pair in pairs]
    found = gate(old, new, clusters=[str(n // size) for n in range(len(pairs))])
    assert (found.gain_low > 0) is (found.p_gain <= ALPHA)
    assert -1 <= found.gain_low <= found.gain + 1e-12
    assert found.reason == "too_few_items" or found.promote is (found.p_gain <= ALPHA)  # one slice only


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
    assert compare(old, new, RULE) == compare(old, shuffled, RULE)


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
    few = gate([0] * 24, [1] * 24, clusters=[str(n % 4) for n in range(24)])
    assert few.reason == "too_few_items" and few.p_gain == 1 / 16
    assert "items of 4 sources, of 5 at least" in describe_comparison(few)


def two_slices(lost, num=20):
    """Sixty gains in one slice, some losses in the other."""
    slices = ["wages"] * 60 + ["death"] * num
    return [0] * 60 + [1] * num, [1] * 60 + [0] * lost + [1] * (num - lost), slices


def test_a_slice_that_falls_beyond_chance_stops_the_promotion():
    old, new, slices = two_slices(6)
    verdict = gate(old, new, slices=slices)
    assert (verdict.reason, verdict.worst_slice, verdict.promote) == ("slice_fell", "death", False)
    assert verdict.worst_slice_gain == pytest.approx(-0.3)
    death, wages = verdict.slices
    assert (death.p_fell, death.fell) == (pytest.approx(2 / 64), True)  # 1 / 64, twice for two slices
    assert wages.p_fell == 1.0 and not wages.fell and wages.safe
    assert describe_comparison(verdict) == (
        "death fell by 30 points over 20 items (p = 0.031 by Holm over 2 slices)"
    )


def test_a_fall_within_chance_or_margin_does_not():
    old, new, slices = two_slices(5)  # 1 / 32 alone, 1 / 16 by Holm
    verdict = gate(old, new, slices=slices)
    assert verdict.promote
    assert describe_comparison(verdict).endswith(
        "; death is down 25 points over 20 items, which may be chance"
    )
    old, new, slices = two_slices(9, num=100)  # certain, but less than ten points
    verdict = gate(old, new, slices=slices)
    assert verdict.promote and verdict.slices[0].p_fell < 0.01


def test_a_slice_may_have_a_margin_of_its_own():
    old, new, slices = two_slices(9, num=100)
    strict = replace(RULE, slice_drops={"death": 0.05})
    assert gate(old, new, strict, slices=slices).reason == "slice_fell"
    old, new, slices = two_slices(6)
    lenient = replace(RULE, slice_drops={"death": 0.3})
    assert gate(old, new, lenient, slices=slices).reason == "gain"


def test_slices_may_have_to_be_proven():
    old, new, slices = two_slices(0)
    proving = replace(RULE, prove_slices=True)
    verdict = gate(old, new, proving, slices=slices)
    assert verdict.reason == "slice_unproven" and not verdict.promote
    needed = verdict.slices[0].items_needed
    assert describe_comparison(verdict) == (
        f"death may have fallen by 10 points: 20 items, about {needed} are needed to rule it out"
    )
    old, new, slices = two_slices(0, num=needed)
    assert gate(old, new, proving, slices=slices).promote


def test_a_cluster_proves_no_more_of_a_slice_than_one_item():
    old, new, slices = two_slices(0, num=60)
    clusters = [str(n) for n in range(60)] + [f"death-{n // 6}" for n in range(60)]
    death, _ = gate(old, new, slices=slices, clusters=clusters).slices
    lone, _ = gate(*two_slices(0, num=10)[:2], slices=two_slices(0, num=10)[2]).slices
    assert death.p_safe == pytest.approx(lone.p_safe) and not death.safe


def test_it_says_how_many_items_would_show_the_gain():
    verdict = gate([0] * 3 + [1] * 2 + [0] * 35, [1] * 3 + [0] * 2 + [0] * 35)
    assert verdict.gain_sought == 0.05  # more than was seen
    assert verdict.items_needed == items_needed(0.05, 6 / 42)
    assert f"a gain of 5 points would need {verdict.items_needed:,}" in describe_comparison(verdict)
    few = gate([0] * 19, [1] + [0] * 18)
    assert describe_comparison(few).startswith("19 of 20 items; a gain of 5.3 points would need ")
    sought = gate([0] * 40, [0] * 40, replace(RULE, gain_sought=0.2))
    assert sought.gain_sought == 0.2 and sought.items_needed < verdict.items_needed


def test_items_that_vary_together_need_to_be_more():
    old, new = [0] * 60 + [1] * 60, [0] * 54 + [1] * 6 + [1] * 54 + [0] * 6
    lone = gate(old, new)
    together = gate(old, new, clusters=[str(n // 6) for n in range(120)])
    assert (lone.num_clusters, together.num_clusters) == (120, 20)
    assert together.items_needed > 4 * lone.items_needed and together.power < lone.power


def test_a_comparison_is_read_back_as_it_was_stored():
    old, new, slices = two_slices(6)
    verdict = gate(old, new, slices=slices)
    assert read_comparison(json.loads(json.dumps(asdict(verdict)))) == verdict


def test_a_comparison_of_the_percentile_bootstrap_is_still_read():
    stored = {"gain": 0.02, "gain_low": -0.05, "p_value": 0.7, "num_better": 4, "num_worse": 3}
    stored |= {"worst_slice": "fees", "worst_slice_gain": -0.1, "promote": False, "reason": "no_gain"}
    found = read_comparison(stored)
    assert (found.reason, found.num_items, found.slices) == ("no_gain", None, ())
    assert describe_comparison(found) == "gain +2.0 points on dev, lower bound -5.0, p = 0.7"
    for reason in ("too_few_items", "slice_fell", "slice_unproven", "gain"):
        assert isinstance(describe_comparison(replace(found, reason=reason)), str)


def test_different_items_are_not_compared():
    with pytest.raises(FactoryError, match="different items"):
        compare(evaluation([1, 0]), evaluation([1, 0], keys=["item-0", "other"]), RULE)


def test_many_clusters_are_drawn_in_bounded_memory(monkeypatch):
    import training.flips

    sums = list(np.random.default_rng(0).choice([0.0, 0.5, 0.75], size=100))
    at_once = gain_low(sums, [1] * 100, gain_p(sums, 5), 5)
    monkeypatch.setattr(training.flips, "CHUNK", 1000)
    in_parts = gain_low(sums, [1] * 100, gain_p(sums, 5), 5)
    assert in_parts == pytest.approx(at_once, abs=0.02)
