"""The arithmetic of waves, played with lots: it comes to its targets, ends, and asks for little too much."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.waves import GIVE_UP_AFTER, Plan, Waves, cells_of, num_tasks_for, shrink


def play(targets, weights, yields, *, num_at_once=2, seed=0, plans=None):
    """Waves with tasks that are accepted by lot; returns the waves and the number of tasks."""
    lots = random.Random(seed)
    waves = Waves.create(targets, weights, dict.fromkeys(weights, targets), dict.fromkeys(weights, 1))
    under_way: list[Plan] = []
    num_tasks = 0
    while True:
        plan = waves.next_plan()
        if plan:
            waves.launch(plan)
            under_way.append(plan)
            num_tasks += sum(cells_of(plan).values())
            if plans is not None:
                plans.append(plan)
        if not under_way:
            return waves, num_tasks
        if not plan or len(under_way) == num_at_once:
            done = under_way.pop(0)
            cells = cells_of(done)
            accepted = {
                cell: sum(lots.random() < yields[cell] for _ in range(num)) for cell, num in cells.items()
            }
            waves.settle(done, cells, accepted)


@settings(deadline=None, max_examples=60)
@given(
    targets=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 300), min_size=1),
    good=st.lists(st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.9, 1.0]), min_size=12, max_size=12),
    num_at_once=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_it_ends_with_nothing_missing_or_with_nothing_left_to_ask(targets, good, num_at_once, seed):
    weights = {"g": 3.0, "s": 1.0}
    yields = {(name, of): good.pop() for name in weights for of in targets}
    waves, _ = play(targets, weights, yields, num_at_once=num_at_once, seed=seed)
    for slice in waves.missing():
        cells = [tally for (_, of), tally in waves.tallies.items() if of == slice]
        assert all(tally.given_up and tally.num_dry >= GIVE_UP_AFTER for tally in cells)
    for cell, value in yields.items():
        if value == 1.0:
            assert cell[1] not in waves.missing()


def test_few_tasks_too_many_are_asked_for():
    for size, good, most in ((100, 0.95, 1.1), (1000, 0.5, 1.06), (1000, 0.1, 1.1), (20_000, 0.5, 1.02)):
        targets = {f"slice-{n}": size // 4 for n in range(4)}
        yields = {("g", slice): good for slice in targets}
        _, num_tasks = play(targets, {"g": 1.0}, yields, seed=size)
        assert num_tasks < most * size / good


def test_where_all_is_accepted_nothing_is_asked_too_much():
    for num in (1, 7, 100, 5000):
        _, num_tasks = play({"a": num, "b": num}, {"g": 1.0}, {("g", "a"): 1.0, ("g", "b"): 1.0})
        assert num_tasks == 2 * num


def test_the_first_wave_is_a_trial_and_half_of_what_is_missing():
    waves = Waves.create({"a": 40, "b": 4000}, {"g": 1.0}, {"g": "ab"}, {"g": 1})
    assert waves.next_plan() == {"g": {"a": 20, "b": GIVE_UP_AFTER}}


def test_a_strategy_that_makes_several_samples_is_asked_for_fewer_tasks():
    waves = Waves.create({"a": 8}, {"p": 1.0}, {"p": "a"}, {"p": 2})
    assert waves.next_plan() == {"p": {"a": 4}}


def test_weights_are_shares_of_what_is_accepted():
    targets, weights = {"a": 2000}, {"g": 3.0, "s": 1.0}
    waves, _ = play(targets, weights, {("g", "a"): 0.9, ("s", "a"): 0.2})
    share = waves.tallies["s", "a"].num_accepted / 2000
    assert 0.2 < share < 0.3


def test_one_that_gives_nothing_costs_few_tasks_and_the_others_take_over():
    waves, _ = play({"a": 500}, {"g": 1.0, "dead": 1.0}, {("g", "a"): 0.5, ("dead", "a"): 0.0})
    assert waves.missing() == {} and waves.given_up() == [("dead", "a")]
    assert waves.tallies["dead", "a"].num_tasks <= 2 * GIVE_UP_AFTER  # two waves before the first is decided


def test_a_plan_that_runs_out_is_given_up():
    waves = Waves.create({"a": 8}, {"g": 1.0}, {"g": "a"}, {"g": 1})
    plan = waves.next_plan()
    waves.launch(plan)
    waves.settle(plan, {("g", "a"): 3}, {("g", "a"): 3})
    assert waves.given_up() == [("g", "a")] and waves.next_plan() == {} and waves.missing() == {"a": 5}


def test_what_is_under_way_is_counted_on():
    waves = Waves.create({"a": 8}, {"g": 1.0}, {"g": "a"}, {"g": 1})
    waves.launch(waves.next_plan())
    assert waves.next_plan() == {}


@given(
    st.dictionaries(
        st.sampled_from("gst"), st.dictionaries(st.text(min_size=1), st.integers(1, 50), min_size=1)
    ),
    st.floats(0, 400),
)
def test_a_plan_shrinks_to_what_is_affordable(plan, most):
    smaller = cells_of(shrink(plan, most))
    whole = cells_of(plan)
    assert sum(smaller.values()) == min(sum(whole.values()), int(most))
    assert all(num <= whole[cell] for cell, num in smaller.items())


def test_the_forecast_assumes_that_half_is_accepted():
    assert num_tasks_for(100, 1) == 200 and num_tasks_for(101, 2) == 101
