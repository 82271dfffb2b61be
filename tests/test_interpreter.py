"""The interpreter is left as it was found, however stages overlap."""

import gc
import sys
import weakref
from contextlib import ExitStack, suppress

from factory.interpreter import NUM_YOUNG, SWITCH_SECONDS, tuned_for_calls


class Knot:
    def __init__(self) -> None:
        self.itself = self


def settings() -> tuple[object, ...]:
    return gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()


def test_the_interpreter_is_left_as_it_was_found():
    before = settings()
    with tuned_for_calls():
        assert (gc.get_threshold()[0], sys.getswitchinterval()) == (NUM_YOUNG, SWITCH_SECONDS)
        assert gc.get_freeze_count() > 0
        with tuned_for_calls():
            assert gc.get_threshold()[0] == NUM_YOUNG
        assert (gc.get_threshold()[0], sys.getswitchinterval()) == (NUM_YOUNG, SWITCH_SECONDS)
    assert settings() == before


def test_two_that_overlap_without_nesting_leave_it_too():
    before = settings()
    first, second = ExitStack(), ExitStack()
    first.enter_context(tuned_for_calls())
    second.enter_context(tuned_for_calls())
    first.close()
    assert gc.get_threshold()[0] == NUM_YOUNG
    second.close()
    assert settings() == before


def test_cycles_made_meanwhile_are_still_freed():
    with tuned_for_calls():
        ghost = weakref.ref(Knot())
        for _ in range(2 * NUM_YOUNG):
            Knot()
        assert ghost() is None


def test_an_error_leaves_it_too():
    before = settings()
    with suppress(ValueError), tuned_for_calls():
        raise ValueError
    assert settings() == before
