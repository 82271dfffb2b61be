"""An adapter counts as unseeing only where it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.learned import FILE, is_unseen, save


def test_what_was_learned_is_known_beside_the_adapter(tmp_path: Path) -> None:
    save(["b", "a", "b"], tmp_path)
    assert is_unseen(["c"], tmp_path)
    assert not is_unseen(["c", "a"], tmp_path)


def test_a_bare_model_has_learned_nothing() -> None:
    assert is_unseen(["a"], None)


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"sections": 3}'])
def test_an_adapter_that_does_not_say_is_not_taken_at_its_word(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / FILE).write_text(text)
    assert not is_unseen(["a"], tmp_path)
