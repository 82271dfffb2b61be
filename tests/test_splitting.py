"""Long conversations in parts that fit: nothing is lost, nothing is learned twice, no exchange is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_qlora import base, chat, no_progress, tokenizer, trainer, write_dataset  # noqa: F401 (fixtures)
from trained_here import Here

from factory.errors import TrainingRefused

pytestmark = pytest.mark.train
LIMIT = {"max_length": 64}
SYSTEM = {"role": "system", "content": "Be brief."}
texts = st.lists(st.sampled_from(["notice", "claim wage", "burial doctor board"]), min_size=1, max_size=4)


def parts_of(turns, tokenizer, max_length):  # noqa: F811
    from training.splitting import split_long

    return [
        each["messages"] for each in split_long([{"messages": turns, "tools": None}], tokenizer, max_length)
    ]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=8), st.booleans(), st.integers(10, 90))
def test_parts_hold_every_exchange_once_and_as_many_as_fit(tokenizer, exchanges, has_system, max_length):  # noqa: F811
    from training.tokens import length_of

    opening = [SYSTEM] if has_system else []
    turns = [turn for asked, said in exchanges for turn in chat(" ".join(asked), " ".join(said))]
    parts = parts_of([*opening, *turns], tokenizer, max_length)
    assert [turn for part in parts for turn in part[len(opening) :]] == turns
    assert all(part[: len(opening)] == opening for part in parts)
    for number, part in enumerate(parts):
        num_turns = len(part) - len(opening)
        assert num_turns % 2 == 0
        if num_turns > 2:
            assert length_of({"messages": part}, tokenizer) <= max_length
        if number + 1 < len(parts):  # the next exchange had no room any more
            more = [*part, *parts[number + 1][len(opening) : len(opening) + 2]]
            assert length_of({"messages": more}, tokenizer) > max_length


def test_what_a_user_says_in_two_turns_stays_with_its_answer(tokenizer):  # noqa: F811
    asked, said = chat("notice claim wage", "burial doctor board")
    assert parts_of([asked, asked, said] * 2, tokenizer, 20) == [[asked, asked, said]] * 2
    assert parts_of([], tokenizer, 20) == [[]]  # which is refused as one that is not split


def test_a_long_conversation_is_trained_on_in_parts_and_a_long_exchange_is_refused(tmp_path, base):  # noqa: F811
    from training.lengths import read_lengths

    turns = [turn for n in range(12) for turn in chat(f"notice {n}?", f"{n} days of notice")]
    dataset = write_dataset(tmp_path, [turns, chat("claim?", "1 year")])
    whole = read_lengths(dataset, str(base), LIMIT)
    parts = read_lengths(dataset, str(base), {**LIMIT, "split_long": True})
    assert whole.refusal.startswith(f"{dataset}:1: 1 of 2 samples are longer") and not parts.refusal
    assert (whole.num_samples, whole.num_refused, parts.num_refused) == (1, 1, 0)
    assert parts.num_samples > 2
    assert parts.num_learned_tokens > whole.num_learned_tokens
    options = {"split_long": True, "max_steps": 1}
    trainer(tmp_path, Here, **options).train(dataset, str(base), tmp_path / "a", no_progress)
    assert f'"num_samples": {parts.num_samples}' in (tmp_path / "a" / "training.json").read_text()
    write_dataset(tmp_path, [chat("claim " * 80, "1 year")])
    with pytest.raises(TrainingRefused, match="1 of 1 samples are longer than max_length=64") as caught:
        trainer(tmp_path, Here, **options).train(dataset, str(base), tmp_path / "b", no_progress)
    assert (
        caught.value.where == f"{dataset}:1"
        and "split_long cuts between exchanges alone" in caught.value.hint
    )
    assert "or cut" not in caught.value.hint
    assert read_lengths(dataset, str(base), {**LIMIT, "split_long": True}).refusal == str(caught.value)
