"""The pages over a real small workspace: right results for every filter, harmless text, no wrong address."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import audit_workspace
import pytest
from audit_workspace import HOSTILE_ID, RUNS, STEPS, WORDS, Made
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from factory.audit import samples as samples_page
from factory.audit.access import Access
from factory.audit.differences import differences, shorten
from factory.audit.filters import Filters
from factory.audit.options import read_options
from factory.audit.samples import read_page
from factory.errors import InputError
from factory.store.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Made, Access, TestClient]]:
    workspace = tmp_path_factory.mktemp("audit")
    rows = audit_workspace.make(workspace)
    with Access(workspace) as access, pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples_page, "PROBED", 80)  # so that both ways are taken
        yield rows, access, audit_workspace.browse(access)


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "run": st.sampled_from([*RUNS, "run_none"]),
        "round": st.sampled_from(["1", "2", "3", "7"]),
        "strategy": st.sampled_from(["grounded", "seeded", "none"]),
        "operation": st.sampled_from(["edit", "grounded"]),
        "slice": st.sampled_from(["a", "b b", "c&d"]),
        "fate": st.sampled_from(["kept", "dropped", "superseded", "undecided"]),
        "step": st.sampled_from(STEPS),
        "did": st.sampled_from(["keep", "drop", "rewrite"]),
        "reason": st.sampled_from(["ok", "near_fault", "restated"]),
        "score": st.sampled_from(["keep@edit", "overall@judge", "overall"]),
        "at_least": st.sampled_from(["0", "0.4", "3"]),
        "at_most": st.sampled_from(["0.8", "4"]),
        "below": st.sampled_from(["0.6", "2"]),
        "key": st.sampled_from(["manner", "level/x~y", "none"]),
        "value": st.sampled_from(["it's", "1"]),
        "dataset": st.sampled_from(["dat_1", "dat_2", "dat_3"]),
        "text": st.lists(st.sampled_from([*WORDS, "NOTICE", "größe"]), max_size=2).map(" ".join),
        "sort": st.sampled_from(["newest", "oldest", "high", "low"]),
    },
)


def expected(made: Made, given: dict[str, str]) -> tuple[list[str], dict[str, float]]:
    """The ids that the filters mean, in order, by plain Python; and the values by which they are ordered."""

    def of_run(row: dict[str, Any]) -> bool:
        return not given.get("run") or row["run_id"] == given["run"]

    def matches(row: dict[str, Any]) -> bool:
        bounds = (
            ("at_least", lambda a, b: a >= b),
            ("at_most", lambda a, b: a <= b),
            ("below", lambda a, b: a < b),
        )
        metric, _, scorer = given["score"].partition("@")
        if row["metric"] != metric or (scorer and row["scorer"] != scorer) or not of_run(row):
            return False
        value = row["value"]
        return all(
            value is not None and holds(value, float(given[name])) for name, holds in bounds if name in given
        )

    found = []
    for sample in made.samples:
        decisions = [row for row in made.decisions if row["sample_id"] == sample["id"]]
        own = [row for row in decisions if of_run(row)]
        scores = [row for row in made.scores if row["sample_id"] == sample["id"]]
        finals = {row["action"] for row in own if row["final"]}
        fates = {"kept": "keep", "dropped": "drop", "superseded": "rewrite"}
        fate = given.get("fate")
        text = f"{sample['question']}\n{sample['answer']}".lower()
        value = sample["attributes"].get(given.get("key"))
        decided = [("step", "refiner"), ("did", "action"), ("reason", "reason")]
        wanted = [(column, given[name]) for name, column in decided if name in given]
        if (
            all(
                str(sample[name]) == given[name]
                for name in ("round", "strategy", "operation", "slice")
                if name in given
            )
            and (not given.get("run") or given["run"] == "run_a" or bool(own))
            and (fate is None or (not finals if fate == "undecided" else fates[fate] in finals))
            and (not wanted or any(all(row[column] == each for column, each in wanted) for row in own))
            and ("score" not in given or any(matches(row) for row in scores))
            and (
                "key" not in given
                or (str(value) == given["value"] if "value" in given else value is not None)
            )
            and ("dataset" not in given or sample["id"] in made.members.get(given["dataset"], set()))
            and all(word.lower() in text for word in given.get("text", "").split())
        ):
            found.append(sample["id"])
    if given.get("sort", "newest") in ("high", "low"):
        metric, _, scorer = given["score"].partition("@")
        values: dict[str, float] = {}
        for row in made.scores:
            is_meant = row["metric"] == metric and (not scorer or row["scorer"] == scorer) and of_run(row)
            if is_meant and row["value"] is not None:
                values[row["sample_id"]] = max(row["value"], values.get(row["sample_id"], row["value"]))
        falls = given["sort"] == "high"
        ordered = sorted(
            (each for each in found if each in values), key=lambda each: values[each], reverse=falls
        )
        return ordered, values
    return found if given.get("sort") == "oldest" else found[::-1], {}


@settings(max_examples=120, deadline=None)
@example(given={"run": "run_a", "sort": "high", "score": "keep@edit"}, is_indexed=False)
@example(given={"fate": "undecided", "score": "overall", "step": "form"}, is_indexed=True)
@given(given=FILTERS, is_indexed=st.booleans())
def test_every_filter_finds_what_it_says_on_pages_in_order(
    made: Any, given: dict[str, str], is_indexed: bool
) -> None:
    rows, access, _ = made
    if not given.get("text"):
        given.pop("text", None)
    if ("value" in given and "key" not in given) or (
        "score" not in given and {"at_least", "at_most", "below"} & {*given}
    ):
        with pytest.raises(InputError):
            Filters.parse(given)
        return
    if given.get("sort") in ("high", "low") and "score" not in given:
        with pytest.raises(InputError):
            Filters.parse(given)
        return
    filters, options = Filters.parse(given), read_options(access)
    indexed = frozenset({"decisions", "scores", "dataset_samples"} if is_indexed else ())
    options = replace(options, indexed=indexed)  # first samples are looked up before whole tables, or not
    want, values = expected(rows, given)
    found: list[str] = []
    page = read_page(access, filters, options)
    pages = [page]
    while page.after:
        found += [row["id"] for row in page.rows]
        page = read_page(access, filters, options, after=page.after)
        pages.append(page)
    found += [row["id"] for row in page.rows]
    found = [each for each in found if each != HOSTILE_ID]
    if values:  # those of one value stand in any order, but each once
        assert sorted(found) == sorted(want)
        assert [values[each] for each in found] == [values[each] for each in want]
    else:
        assert found == want
    if page.num_found is not None:
        assert page.num_found - len(found) in (0, 1)  # the hostile one
    for earlier, later in zip(pages[-2::-1], pages[:0:-1], strict=True):
        assert later.before
        back = read_page(access, filters, options, before=later.before)
        assert [row["id"] for row in back.rows] == [row["id"] for row in earlier.rows]


def test_a_page_says_what_became_of_its_samples(made: Any) -> None:
    _, _, browser = made
    text = browser.get("/samples", params={"fate": "dropped", "run": "run_a", "step": "near"}).text
    assert text.count("<article>") == min(samples_page.PAGE, text.count("dropped</span> by "))
    assert 'aria-label="Leave out fate dropped"' in text


@pytest.mark.parametrize(
    "query",
    [
        "round=x", "round=99999999999", "fate=burnt", "did=eat", "sort=up", "sort=high", "at_least=1",
        "score=keep%40edit&at_least=nan", "score=keep%40edit&at_most=1e999", "value=1", "after=x",
        "after=1~y", "before=%00", "text=" + "a+" * 11, "slice=" + "a" * 501, "round=" + "9" * 400,
        "sort=low&score=keep&after=x~1",
    ],
)  # fmt: skip
def test_filters_that_mean_nothing_are_told(made: Any, query: str) -> None:
    answer = made[2].get(f"/samples?{query}")
    assert answer.status_code == 400 and "did not work" in answer.text


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE samples; --", "%", "_", "\\", "\x00", '"', "{{ 7*7 }}", "<b>"]
)
def test_values_are_data(made: Any, text: str) -> None:
    rows, access, browser = made
    for name in ("text", "slice", "strategy", "reason", "dataset", "key", "run", "score"):
        answer = browser.get("/samples", params={name: text})
        assert answer.status_code == 200, (name, answer.text[-300:])
        assert "<b>" not in answer.text and ">49<" not in answer.text
    assert len(rows.samples) + 1 == access.select("SELECT count(*) AS n FROM samples")[0]["n"]


@pytest.mark.parametrize(
    "path",
    [
        "/samples/nope",
        "/samples/nope/text",
        "/things/nope",
        "/things/nope/text",
        "/nowhere",
        "/samples/%00",
        "/?x=1&run=",
    ],
)
def test_what_is_not_there_is_told(made: Any, path: str) -> None:
    assert made[2].get(path).status_code == (200 if path.startswith("/?") else 404)


def test_a_hostile_sample_is_shown_harmlessly(made: Any) -> None:
    from urllib.parse import quote

    browser = made[2]
    address = "/samples/" + quote(HOSTILE_ID, safe="")
    shown = browser.get("/samples").text
    assert "&lt;script&gt;" in shown
    for text in (shown, browser.get(address).text, browser.get("/samples", params={"text": "gnp"}).text):
        assert "<script>alert" not in text and "<img" not in text and "onerror=alert(2)&gt;" in text
        assert not set("\x1b\u202e\u202c\x00") & set(text)
        assert "{{ 7*7 }}" in text and len(text) < 300_000
    page = browser.get(address).text
    assert "more characters" in page and f'href="{address}/text"' in page
    whole = browser.get(address + "/text")
    assert whole.headers["content-type"].startswith("text/plain")
    assert whole.headers["content-disposition"].startswith("attachment; filename*=UTF-8''smp_")
    assert "/" not in whole.headers["content-disposition"].split("''")[1]
    assert "x" * 2_000_000 in whole.text and "\x1b" not in whole.text


def test_a_sample_tells_all_that_is_known(tmp_path: Path) -> None:
    from example_store import fill

    with Store.open(tmp_path) as store:
        example = fill(store)
        better, good = example.better, example.good
        store.append(
            "verdicts", [{"sample_id": good.id, "reviewer": "Ada", "action": "drop", "reason": "off_topic"}]
        )
    with Access(tmp_path) as access:
        browser = audit_workspace.browse(access)
        page = browser.get(f"/samples/{better.id}").text
        text = html.unescape(re.sub(r"<[^>]*>", "", page))
        assert "removed: 60" in text and "added: 30" in text  # what the edit changed, in words
        assert "Within 30 days." in text and "§ 34-9-80" in text  # answer and source
        assert "10 + 5 tokens, 250 ms" in text and "answer of call_3" in text
        assert "dataset of round 1" in text and "trained student student-1" in text
        assert f'href="/samples/{good.id}"' in page and f"/things/{example.source.id}" in page
        before = html.unescape(re.sub(r"<[^>]*>", "", browser.get(f"/samples/{good.id}").text))
        assert "superseded by edit: wrong quantity" in before and "Became: assistant" in before
        assert "off topic by Ada" in before and "correctnessfailededit" in before
        for thing in (example.source.id, example.seed.id, "call_1", "dat_1", "mdl_student", "evl_1"):
            answer = browser.get(f"/things/{thing}")
            assert answer.status_code == 200 and "Lineage" in answer.text
            assert browser.get(f"/things/{thing}/text").headers["content-type"].startswith("text/plain")
        there = browser.get(f"/things/{good.id}")
        assert there.status_code == 303 and there.headers["location"] == f"/samples/{good.id}"


def test_the_overview_counts_and_links_to_the_samples_behind(made: Any) -> None:
    rows, access, browser = made
    page = browser.get("/").text
    for address in {html.unescape(each) for each in re.findall(r'href="(/samples\?[^"]*)"', page)}:
        answer = browser.get(address)
        assert answer.status_code == 200, address
    dropped = [row for row in rows.decisions if row["run_id"] == "run_a" and row["action"] == "drop"]
    assert f"{len(dropped)} dropped</a>" in page
    for name, number in numbers_of_bins(page):
        filters = Filters.parse(dict(pair.split("=", 1) for pair in name))
        assert count(access, filters) == number
    raw = browser.get("/?run=run_a_raw")
    assert raw.status_code == 200 and browser.get("/?run=run_none").status_code == 400


def numbers_of_bins(page: str) -> list[tuple[list[str], int]]:
    from urllib.parse import unquote_plus

    found = re.findall(r'<a href="/samples\?([^"]*)" aria-label="[^"]*: ([\d,]+) samples">', page)
    assert len(found) == 30  # three scores, ten bins each
    return [
        ([unquote_plus(pair) for pair in html.unescape(query).split("&")], int(number))
        for query, number in found
    ]


def count(access: Access, filters: Filters) -> int:
    options, page = read_options(access), None
    total = 0
    while page is None or page.after:
        page = read_page(access, filters, options, after=page.after or "" if page else "")
        total += len(page.rows)
    return total


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_a_page_for_which_no_memory_is_left_says_so(
    made: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    client = made[2]
    with monkeypatch.context() as patch:
        patch.setattr(samples_page, "read_page", fail)
        answer = client.get("/samples")
    assert answer.status_code == 503
    assert "ask again" in answer.text
    assert client.get("/samples").status_code == 200


def test_an_empty_workspace_has_pages_too(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    with Access(tmp_path) as access:
        browser = audit_workspace.browse(access)
        for path in ("/", "/samples", "/sql", "/samples?text=a&fate=kept"):
            assert browser.get(path).status_code == 200


TEXTS = st.text(st.sampled_from("ab 1,\n"), max_size=60)


@given(TEXTS, TEXTS)
def test_differences_give_both_texts(old: str, new: str) -> None:
    pieces = differences(old, new)
    assert "".join(piece.text for piece in pieces if piece.kind != "new") == old
    assert "".join(piece.text for piece in pieces if piece.kind != "gone") == new
    assert (old == new) == all(piece.kind == "same" for piece in pieces)
    assert shorten(pieces, 1000) == pieces


def test_differences_of_long_texts_are_cut() -> None:
    old, new = "same " * 50_000 + "old " * 20_000, "same " * 50_000 + "new " * 20_000 + "end"
    pieces = shorten(differences(old, new), 2000)
    assert sum(len(piece.text) for piece in pieces) < 40_000
    assert {piece.kind for piece in pieces} == {"same", "gone", "new", "skipped"}
