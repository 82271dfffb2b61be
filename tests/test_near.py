"""What `near` takes for a copy and what for another fact; its compiled words; resuming changes nothing."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_refiners import create, make, no_model, reasons

from factory import cli
from factory.asking import bound_refiners, let_tell
from factory.refine import refine_round
from factory.store.rows import sample_rows
from factory.store.store import Store
from factory.types import Sample
from factory.words import words
from refiners import near_kernel, near_words
from refiners.near_index import sketch_size
from refiners.near_known import FEW, MANY
from refiners.near_words import ANSWER, FLAG_BITS, NUMBER, QUESTION, TELLING, TURN, Characters

TEXT = st.text(alphabet=st.one_of(st.sampled_from("aAbB19 .,:-–−+/'’%$?!_\nß²é"), st.characters()))


# words in machine code


@settings(max_examples=300)
@given(st.lists(TEXT, max_size=4))
def test_the_compiled_words_are_those_of_the_core(texts: list[str]) -> None:
    found = Characters().read(texts, [QUESTION] * len(texts), range(len(texts) + 1))
    for at, text in enumerate(texts):
        hashes = found.words[found.ends[at] : found.ends[at + 1]]
        alone = [Characters().read([word], [ANSWER], [0, 1]).words.tolist() for word in words(text)]
        assert [[each] for each in hashes.tolist()] == alone


def test_words_that_tell_of_a_fact() -> None:
    text = "Within 30 days Acme pays. The § 34-9-80 says so; Call 5 % MORE"
    found = Characters().read([text], [QUESTION], [0, 1])
    telling = {word for word, flag in zip(words(text), found.flags, strict=True) if flag & TELLING}
    assert telling == {"30", "days", "acme", "34-9-80", "5", "%", "more"}
    assert [word for word, flag in zip(words(text), found.flags, strict=True) if flag & NUMBER] == [
        "30",
        "34-9-80",
        "5",
    ]


def test_turns_are_told_apart() -> None:
    found = Characters().read(["a b", "c"], [QUESTION, ANSWER], [0, 2])
    assert found.words[2] == TURN
    assert (found.flags & (ANSWER | QUESTION)).tolist() == [QUESTION, QUESTION, 0, ANSWER]
    assert not (found.words & ((1 << FLAG_BITS) - 1)).any()


@given(st.floats(0.3, 1.0))
def test_a_sketch_finds_what_is_at_the_threshold(threshold: float) -> None:
    size = sketch_size(threshold)
    missed = (1 - threshold) ** size + size * threshold * (1 - threshold) ** (size - 1)
    assert missed <= 0.005 and 2 <= size < 40


# copies and other facts

BEFORE = "What must a worker of ours do if he is hurt while he repairs the roof of a customer in the evening"
AFTER = "He tells the office about it within 30 days and keeps the receipts until the claim is settled"


def both(question: str, answer: str, number: int) -> Sample:
    return make(question + "?", answer + ".", number, source_key="")


COMMON = [both("The rule of the day is that he tells the boss what the worker informs", "ok so", 90)]


@pytest.mark.parametrize(
    "changed",
    [
        (BEFORE.upper(), AFTER),
        (BEFORE.replace("worker of", "worker, of").lower(), AFTER.replace("and", ", and")),
        ("So " + BEFORE, AFTER),
        (BEFORE.replace("hurt while", "hurt at all while"), AFTER),
        (BEFORE.replace("in the evening", "in evening"), AFTER),
        (BEFORE, AFTER.replace("about it within", "within")),
        (BEFORE.replace("a worker of ours", "a wroker of ours"), AFTER),
        (BEFORE.replace("he repairs", "repairs he"), AFTER),
        (BEFORE, AFTER.replace("tells", "informs")),
    ],
)
async def test_near_drops_small_changes(changed: tuple[str, str]) -> None:
    near = create("near", threshold=0.7)
    near.open([*COMMON, both(BEFORE, AFTER, 1), both(BEFORE + " or so", AFTER, 2)])
    assert await reasons(near, [both(*changed, 3)]) == ["near_duplicate"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("30", "31"),
        ("30 days", "30 weeks"),
        ("the office", "Brown"),
        ("hurt", "poisoned"),  # words that no other sample has
    ],
)
async def test_near_keeps_another_fact_in_the_same_text(old: str, new: str) -> None:
    near = create("near", threshold=0.7)
    first = both(BEFORE, AFTER.replace("the office", "Acme") if new == "Brown" else AFTER, 1)
    second = both(BEFORE.replace(old, new), AFTER.replace(old, new), 2)
    assert await reasons(near, [first, second]) == ["ok", "ok"]


# Twice the same number, once in the template and once in what is filled in.
LAID_DOWN = (
    "In this handbook of the town park it is laid down for all visitors without any exception that after 30 "
    "days at the latest the keeper of the gate must be told in writing about {} when the tree has been seen "
    "there by {} people"
)


async def test_a_number_of_the_template_that_is_filled_in_too_counts_once() -> None:
    rng = random.Random(1)
    names = ["".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(4)) for _ in range(400)]
    near, first, second = (
        create("near"),
        *(both("Is it", LAID_DOWN.format("a pond", "30"), n) for n in (1, 2)),
    )
    for at in range(200):  # by then the template is known
        filled = LAID_DOWN.format(f"the {names[at].title()}", names[200 + at].title())
        near.open([*([first] if at == 0 else []), both("Is it", filled, at + 3)])
    assert await reasons(near, [second]) == ["near_duplicate"]


async def test_one_long_text_takes_no_room_for_each_of_a_batch() -> None:
    near = create("near")
    long = both("Is it", "alpha beta gamma delta " * 10_000, 0)
    samples = [long, *(both(f"Is it {n}", f"Short text {n}", n) for n in range(1, 128))]
    await reasons(near, samples)
    assert near._index._known.common_keys.nbytes < 2**21


FIRMS = [
    f"{a}{b}" for a in ("Ac", "Bro", "Cla", "Dun", "Fer", "Gor") for b in ("me", "wn", "ris", "ner", "lin")
]
TRADES = ["roofer", "painter", "driver", "cook", "nurse", "clerk", "welder", "porter", "mason", "fitter"]


def of_firm(name: str, number: int) -> Sample:
    return both(
        f"By when must a worker at {name} tell the office of an accident at work in the evening",
        AFTER,
        number,
    )


async def test_names_alone_make_another_sample() -> None:
    near = create("near", threshold=0.7)
    samples = [of_firm(name, number) for number, name in enumerate(FIRMS)]
    assert await reasons(near, samples) == ["ok"] * len(FIRMS)
    assert await reasons(near, [of_firm(name.upper(), 100 + at) for at, name in enumerate(FIRMS)]) == [
        "near_duplicate"
    ] * len(FIRMS)


def of_trade(trade: str, place: str, number: int) -> Sample:
    return both(
        f"What does a {trade} have to do if an accident happens to him in the {place} while he works late",
        f"A {trade} who was hurt in the {place} tells the office at once and waits for the doctor there",
        number,
    )


async def test_what_is_filled_into_a_template_tells_samples_apart_even_common_words() -> None:
    """The words of the fillings are all well known; the text around them is in many samples."""
    places = [
        "yard",
        "shop",
        "hall",
        "shed",
        "tower",
        "cellar",
        "garden",
        "lab",
        "store",
        "barn",
        "mill",
        "dock",
    ]
    near = create("near", threshold=0.5)
    known = [
        both(f"the {word} and the {word} {at}", f"{word} {at}", at)
        for at in range(2)
        for word in places + TRADES
    ]
    near.open(known)
    pairs = [(trade, place) for trade in TRADES for place in places]
    made = [of_trade(*pair, number) for number, pair in enumerate(pairs)]
    found = await reasons(near, made)
    assert found.count("near_duplicate") < 4 * FEW and set(found[2 * MANY :]) == {"ok"}
    copies = [of_trade(*pair, 1000 + at) for at, pair in enumerate(pairs) if found[at] == "ok"]
    changed = [
        both(
            copy.question.replace("have to do", "really have to do"),
            copy.answer.replace("at once", "now"),
            2000 + at,
        )
        for at, copy in enumerate(copies)
    ]
    dropped = await reasons(near, changed)
    assert dropped.count("near_duplicate") >= 0.95 * len(changed)


# resuming


def drawn(seed: int, num: int) -> list[Sample]:
    """Unrelated samples, copies and two templates, mixed."""
    draw = random.Random(seed)
    vocabulary = [f"w{chr(97 + at % 26)}{chr(97 + at // 26)}" for at in range(120)]
    made: list[Sample] = []
    for number in range(num):
        kind = draw.random()
        if kind < 0.3 and made:
            old = draw.choice(made)
            tokens = old.question.split()
            tokens[draw.randrange(len(tokens))] = draw.choice(vocabulary)
            made.append(both(" ".join(tokens), old.answer, number))
        elif kind < 0.7:
            made.append(of_trade(draw.choice(TRADES), draw.choice(vocabulary), number))
        else:
            text = draw.choices(vocabulary, k=draw.randint(3, 30))
            made.append(both(" ".join(text), " ".join(draw.choices(vocabulary, k=8)), number))
    return made


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 250), st.integers(1, 60), st.integers(0, 250))
async def test_a_run_that_was_cut_off_decides_as_one_that_was_not(
    seed: int, num: int, batch: int, cut: int
) -> None:
    samples = drawn(seed, num)

    async def decide(near: Any, some: list[Sample]) -> list[Any]:
        decisions = []
        for at in range(0, len(some), batch):
            decisions += await near.refine(some[at : at + batch], no_model)
        return decisions

    whole = await decide(create("near", threshold=0.6), samples)
    first = await decide(create("near", threshold=0.6), samples[:cut])
    assert first == whole[:cut]
    resumed = create("near", threshold=0.6)
    resumed.replay(iter(samples[:cut]))
    assert await decide(resumed, samples[cut:]) == whole[cut:]


async def test_room_is_made_for_many() -> None:
    near = create("near", threshold=0.6)
    draw = random.Random(1)
    samples = [
        both(" ".join(str(draw.randrange(10**6)) for _ in range(12)), f"{number}", number)
        for number in range(3000)
    ]
    assert set(await reasons(near, samples)) == {"ok"}
    assert set(await reasons(near, [both(s.question[:-1] + " so", s.answer[:-1], 1) for s in samples])) == {
        "near_duplicate"
    }


async def test_the_store_gives_back_what_near_learned_from_what_it_dropped(tmp_path: Path) -> None:
    """A run that is cut off again and again decides as one that is not; an index of what passed would not."""
    samples = list({sample.id: sample for sample in drawn(5, 600)}.values())
    whole = await create("near", threshold=0.6).refine(samples, no_model)
    for at in range(0, len(samples), 150):
        with Store.open(tmp_path) as store:
            for table, rows in zip(("samples", "edges"), sample_rows(samples, "run", 1), strict=True):
                if at == 0:
                    store.append(table, rows)
            steps = [("near", create("near", threshold=0.6))]
            await refine_round(store, "run", 1, steps, samples[: at + 150], no_model, batch_size=40)
    with Store.open(tmp_path) as store:
        rows = store.select("SELECT sample_id, action, evidence FROM decisions")
    found = {row["sample_id"]: (row["action"], json.loads(row["evidence"])) for row in rows}
    assert found == {each.sample_id: (each.action, each.evidence) for each in whole}
    assert {action for action, _ in found.values()} == {"keep", "drop"}


def test_where_no_code_can_be_kept_it_is_compiled_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def njit(cache: bool = False, **_options: Any) -> Any:
        def compile(function: Any) -> Any:
            if cache:
                raise RuntimeError("cannot cache function: no locator available")
            made.append(function)
            return function

        return compile

    monkeypatch.setattr(near_words.numba, "njit", njit)

    def two() -> int:
        return 2

    assert near_words.compiled(two)() == 2 and made == [two]


@pytest.fixture
def compiles_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Makes `near` as if its code had just been loaded, all of it small, and kept in a new folder."""
    real = near_words.read_all
    monkeypatch.setattr(near_words.numba.config, "CACHE_DIR", str(tmp_path / "kept"))

    def load() -> None:
        def add(one: int) -> int:
            return one + 1

        small = near_words.compiled(add)
        monkeypatch.setattr(near_words, "read_all", lambda *given: small(1) and real(*given))

    return load


def test_that_it_compiles_is_told_and_only_where_it_does(
    compiles_in: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"q{n}?", "response": "30 days"}) + "\n" for n in range(300))
    )
    for found in (1, 0):
        compiles_in()
        assert cli.main(["refine", str(path), "--steps", "near"]) == 0
        told = [line for line in capsys.readouterr().err.splitlines() if "compiling" in line]
        assert told == ["near: compiling, once on this machine; up to a minute"] * found


def test_where_nothing_can_be_kept_it_does_not_say_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    small = near_words.inner(lambda: 1)
    monkeypatch.setattr(near_words, "read_all", near_words.numba.njit(lambda *_: small()))
    refiner = create("near")
    let_tell(refiner, told.append)
    with refiner._compiling.heard():
        near_words.read_all(1)
    assert told == ["near: compiling, each time: there is no folder to keep it in; up to a minute"]


async def test_a_run_is_told_too(tmp_path: Path) -> None:
    told: list[str] = []
    near = create("near")
    bench: Any = SimpleNamespace(
        refiners=lambda: [("near", near)], progress=SimpleNamespace(note=told.append)
    )
    bound_refiners(bench, 1, account=SimpleNamespace())  # type: ignore[arg-type]
    near.tell("now")
    assert told == ["now"]


def test_kept_code_goes_by_all_files_that_it_is_made_of() -> None:
    assert {"near_kernel.py", "near_known.py", "near_words.py"} <= {path.name for path in near_words.SOURCES}
    assert near_kernel.settle.py_func.__qualname__ == f"settle_{near_words.version_of(near_words.SOURCES)}"


def test_another_content_is_another_version(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("MANY = 16")
    before = near_words.version_of([path])
    path.write_text("MANY = 17")
    assert near_words.version_of([path]) != before
