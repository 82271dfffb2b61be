"""Choosing: exactly so many, the better first, and few that say the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory import selection
from factory.candidates import difficulties, qualities
from factory.selection import NOBODY, choose, split

DIRECTIONS = np.eye(4, dtype=np.float32)
ONES = st.sampled_from([0, 1, 2])
CANDIDATES = st.lists(st.tuples(st.floats(0.1, 25), st.tuples(ONES, ONES, ONES, ONES)), max_size=25)


def unit(rows):
    found = np.asarray(rows, dtype=np.float32).reshape(-1, 4)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.where(lengths > 0, lengths, 1)


def chosen(found):
    return {index for index, each in enumerate(found) if each.chosen}


@given(CANDIDATES, st.integers(0, 40), st.sampled_from([2, 5, 1000]))
def test_exactly_so_many_are_chosen_and_every_other_has_its_reason(candidates, num, most):
    rows = unit([row for _, row in candidates])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "MOST", most)
        found = choose([score for score, _ in candidates], rows, num)
        assert found == choose([score for score, _ in candidates], rows, num)
    assert len(found) == len(candidates) and len(chosen(found)) == min(num, len(candidates))
    for index, each in enumerate(found):
        assert each.reason in ({"chosen"} if each.chosen else {"near_chosen", "outscored"})
        if each.reason == "near_chosen":
            assert found[each.near].chosen and each.near != index
            assert each.cosine == pytest.approx(float(rows[index] @ rows[each.near]), abs=1e-3)


@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(0, 10), st.integers(0, 30))
def test_each_pick_is_the_best_of_what_is_left(seed, num_candidates, num_before, num):
    """Compared with the definition, written out."""
    random = np.random.default_rng(seed)
    scores = random.uniform(1, 25, num_candidates)
    rows = unit(random.standard_normal((num_candidates + num_before, 4)))
    taken = list(range(num_candidates, len(rows)))
    left = set(range(num_candidates))

    def worth(index):
        return scores[index] * (1 - max((max(0, rows[index] @ rows[other]) for other in taken), default=0))

    for _ in range(min(num, num_candidates)):
        taken.append(max(left, key=worth))
        left.remove(taken[-1])
    assert chosen(choose(list(scores), rows, num)) == set(taken[num_before:])


def test_a_copy_of_a_better_one_yields_to_a_worse_one_that_says_something_else():
    found = choose([5.0, 4.9, 2.0], DIRECTIONS[[0, 0, 1]], 2)
    assert [each.chosen for each in found] == [True, False, True]
    assert (found[1].reason, found[1].near) == ("near_chosen", 0) and found[1].cosine > 0.99


def test_without_likeness_the_best_are_chosen():
    found = choose([1.0, 4.0, 2.0, 3.0], DIRECTIONS, 2)
    assert [each.reason for each in found] == ["outscored", "chosen", "outscored", "chosen"]
    assert found[0].near == NOBODY


def test_of_nothing_but_copies_the_best_are_chosen():
    found = choose([1.0, 4.0, 2.0, 3.0], DIRECTIONS[[0, 0, 0, 0]], 3)
    assert chosen(found) == {1, 2, 3}


def test_what_earlier_rounds_hold_counts_as_chosen():
    rows = DIRECTIONS[[0, 1, 0]]  # the last one is a member
    assert chosen(choose([5.0, 2.0], rows, 1)) == {1}
    assert chosen(choose([5.0, 2.0], rows[:2], 1)) == {0}


def planted(num, num_clusters, seed=0):
    """Rows in clusters, with scores by which whole clusters lead."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((num_clusters, 64))
    rows = centres[np.arange(num) % num_clusters] + 0.1 * random.standard_normal((num, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    return [10 + random.random() - index % num_clusters / 2 for index in range(num)], rows


def test_ten_of_a_hundred_in_ten_clusters_are_one_of_each():
    scores, rows = planted(100, 10)
    by_score = sorted(range(100), key=lambda index: -scores[index])[:10]
    assert len({index % 10 for index in by_score}) == 2
    assert sorted(index % 10 for index in chosen(choose(scores, rows, 10))) == list(range(10))


def test_many_are_chosen_from_in_parts_and_still_from_every_cluster(monkeypatch):
    scores, rows = planted(800, 10)
    monkeypatch.setattr(selection, "MOST", 64)
    assert max(map(len, split(rows))) <= 64 and sorted(np.concatenate(split(rows))) == list(range(800))
    found = choose(scores, rows, 40)
    assert len(chosen(found)) == 40 and {index % 10 for index in chosen(found)} == set(range(10))


def test_a_part_that_is_better_gives_more(monkeypatch):
    """Parts are of one size; what is taken of each follows from what it holds."""
    monkeypatch.setattr(selection, "MOST", 32)
    random = np.random.default_rng(1)
    rows = random.standard_normal((256, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    best = set(split(rows)[3].tolist())
    found = choose([20.0 if index in best else 1.0 for index in range(256)], rows, 32)
    assert chosen(found) == best


def test_an_unknown_quality_is_the_mean_of_those_known():
    assert qualities([5.0, None, 2.0]).tolist() == [5.0, 3.5, 2.0]
    assert qualities([None, None]).tolist() == [3.0, 3.0]


def test_difficulty_is_a_rank_from_1_to_5_and_of_equals_the_mean():
    assert difficulties([None] * 5, [10, 50, 30, 20, 40]).tolist() == [1, 5, 3, 2, 4]
    assert difficulties([None] * 3, [7, 7, 7]).tolist() == [3, 3, 3]
    assert difficulties([0.1, 0.9, None], [1, 2, 3]).tolist() == [1, 5, 5]
    assert difficulties([float("inf")], [9]).tolist() == [3]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_a_longer_answer_is_no_less_difficult(lengths):
    found = difficulties([None] * len(lengths), lengths)
    assert found.min() >= 1 and found.max() <= 5
    for left, right in zip(np.argsort(lengths), np.argsort(lengths)[1:], strict=False):
        assert (found[left] < found[right]) == (lengths[left] < lengths[right])
