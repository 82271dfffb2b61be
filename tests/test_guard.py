"""The guards: what they measure, and when they stop a round."""

import pytest

from factory.errors import GuardTripped
from factory.guard import check, distinct2, gzip_ratio, measure, warning
from factory.recipe import GuardSpec

VARIED = [f"question {i} about subject {i * 7 % 101} and case {i * 13 % 97}" for i in range(200)]
COLLAPSED = ["how long may a claim wait before it is filed"] * 200


def test_repetition_lowers_distinct2_and_raises_the_gzip_ratio():
    assert distinct2(COLLAPSED) < 0.1 < distinct2(VARIED)
    assert gzip_ratio(COLLAPSED) > 2 * gzip_ratio(VARIED)
    assert distinct2([]) == gzip_ratio([]) == 0.0


def test_distinct2_counts_bigrams():
    assert distinct2(["a b a b"]) == pytest.approx(2 / 3)


def test_a_round_like_the_first_passes():
    first = measure(VARIED)
    check(GuardSpec(), 200, first, first)


@pytest.mark.parametrize(
    ("texts", "samples", "where"), [(COLLAPSED, 200, "distinct2"), (VARIED, 0, "min_samples")]
)
def test_a_tripped_guard_stops_with_its_evidence(texts, samples, where):
    with pytest.raises(GuardTripped, match=r"\d") as caught:
        check(GuardSpec(), samples, measure(texts), measure(VARIED))
    assert where in str(caught.value) and caught.value.exit_code == 1


def test_the_gzip_ratio_alone_can_trip():
    now, first = {"distinct2": 0.5, "gzip": 5.0}, {"distinct2": 0.5, "gzip": 4.0}
    with pytest.raises(GuardTripped, match=r"1\.25"):
        check(GuardSpec(), 10, now, first)


def test_half_of_the_fall_that_stops_is_told():
    before, now = {"distinct2": 0.5}, {"distinct2": 0.47}
    assert "6.0%" in warning(GuardSpec(), now, before, "round 1")
    assert "round 1" in warning(GuardSpec(), now, before, "round 1")
    assert warning(GuardSpec(), {"distinct2": 0.48}, before, "round 1") == ""
    assert warning(GuardSpec(max_distinct2_drop=0.2), now, before, "round 1") == ""
