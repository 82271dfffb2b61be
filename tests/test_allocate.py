"""How a round's samples are split over slices."""

from hypothesis import given
from hypothesis import strategies as st

from factory.allocate import SliceState, allocate, divide, round_to_sum


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


@st.composite
def tables(draw):
    """An allocation, weights of strategies, and the slices that each serves."""
    names = [f"strategy-{n}" for n in range(draw(st.integers(1, 6)))]
    slices = [f"slice-{n}" for n in range(draw(st.integers(1, 12)))]
    allocation = {slice: draw(st.integers(0, 9)) for slice in slices}
    weights = {name: draw(st.floats(0.01, 100)) for name in names}
    served = {name: draw(st.sets(st.sampled_from(slices))) for name in names}
    return allocation, weights, served


@given(tables())
def test_both_margins_are_as_exact_as_integers_allow(table):
    allocation, weights, served = table
    shares = divide(allocation, weights, served)
    assert set(shares) == set(weights)
    ideal = dict.fromkeys(weights, 0.0)
    for slice, num in allocation.items():
        able = [name for name in weights if slice in served[name]]
        assert sum(share.get(slice, 0) for share in shares.values()) == (num if able else 0)
        for name in able:
            exact = num * weights[name] / sum(weights[each] for each in able)
            ideal[name] += exact
            assert abs(shares[name].get(slice, 0) - exact) < 1 + 1e-6
    for name, share in shares.items():
        assert set(share) <= served[name] & set(allocation)
        assert abs(sum(share.values()) - ideal[name]) < 1 + 1e-6


def test_a_strategy_of_small_weight_has_its_share_of_a_small_round():
    slices = {f"slice-{n}": 1 for n in range(8)}
    shares = divide(slices, {"grounded": 3, "seeded": 1}, dict.fromkeys(("grounded", "seeded"), slices))
    assert {name: sum(share.values()) for name, share in shares.items()} == {"grounded": 6, "seeded": 2}


def test_a_slice_gives_its_whole_share_to_those_who_can_serve_it():
    served = {"grounded": {"law"}, "seeded": {"law", "talk"}}
    shares = divide({"law": 4, "talk": 4}, {"grounded": 1, "seeded": 1}, served)
    assert shares == {"grounded": {"law": 2}, "seeded": {"law": 2, "talk": 4}}
    assert divide({"none": 3}, {"grounded": 1}, {"grounded": set()}) == {"grounded": {}}
