"""How a round's samples are split over slices."""

from hypothesis import given
from hypothesis import strategies as st

from factory.allocate import SliceState, allocate, round_to_sum


def test_without_an_evaluation_every_slice_gets_the_same():
    assert allocate(12, ["a", "b", "c"], {}, 0.25) == {"a": 4, "b": 4, "c": 4}


def test_the_weak_and_frequent_slice_gets_more_and_a_perfect_one_only_the_floor():
    states = {
        "weak": SliceState(0.5, 0.0, 0.5, 1000),
        "perfect": SliceState(1.0, 0.0, 0.5, 1000),
        "rare": SliceState(0.5, 0.0, 0.1, 1000),
    }
    shares = allocate(300, list(states), states, 0.3)
    assert shares["weak"] > shares["rare"] > shares["perfect"] == 30


def test_a_slice_that_learns_more_a_token_gets_more():
    states = {"cheap": SliceState(0.5, 0.0, 0.5, 1000), "dear": SliceState(0.5, 0.0, 0.5, 10_000)}
    shares = allocate(110, list(states), states, 0.0)
    assert shares["cheap"] == 10 * shares["dear"]


@given(
    st.dictionaries(st.text(min_size=1), st.floats(0, 1), min_size=1, max_size=20),
    st.integers(0, 10_000),
    st.floats(0, 1),
)
def test_the_parts_sum_to_the_whole(accuracies, total, floor):
    states = {name: SliceState(value, 0.0, 1 / len(accuracies), 10) for name, value in accuracies.items()}
    shares = allocate(total, list(states), states, floor)
    assert sum(shares.values()) == total and min(shares.values()) >= 0
    assert set(shares) == set(accuracies)


@given(st.dictionaries(st.text(), st.floats(0.001, 1e6), min_size=1, max_size=9), st.integers(0, 1000))
def test_rounding_is_off_by_less_than_one(shares, total):
    counts = round_to_sum(shares, total)
    whole = sum(shares.values())
    assert all(abs(counts[name] - total * share / whole) < 1 + 1e-6 for name, share in shares.items())
