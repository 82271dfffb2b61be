"""Two models on the same items and two datasets, over real HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
import synthetic_run
from audit_http import Visitor, served

from factory.audit.compare import PAGE, ROWS, total
from factory.significance import mcnemar, wilson
from factory.store.store import Store

ITEM = {"slice": "a", "cluster": "c", "question": "q", "expected": "e", "call_id": "call_1"}


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    workspace = tmp_path_factory.mktemp("compare") / "w"
    with Store.open(workspace) as store:
        synthetic_run.fill(store)
        extra = {"id": "evl_odd", "run_id": synthetic_run.RUN, "round": 9, "model_id": "m", "split": "dev"}
        numbers = {"metric": "exact", "num_items": 2, "mean": 0.5, "low": 0, "high": 1}
        store.append("evaluations", [extra | numbers])
        items = [{**ITEM, "item_key": key, "answer": "<b>", "score": 0.5} for key in ("item-0", "item-x")]
        items[0]["judge_call_id"] = "call_&j"
        store.append("evaluation_items", [{**item, "evaluation_id": "evl_odd"} for item in items])
        samples = [f"smp_{number:03}" for number in range(ROWS + 5)]
        row = {"run_id": "r", "round": 1, "strategy": "s", "operation": "o", "slice": "<i>", "answer": "a"}
        more = {"question": "x" * 999, "messages": [], "attributes": {}, "content_hash": "h"}
        store.append("samples", [{**row, **more, "id": each} for each in samples])
        for name, taken in (("dat_a", samples[:3]), ("dat_b", samples[1:])):
            about = {"id": name, "run_id": "r", "round": 1, "num_samples": len(taken), "guards": {}}
            store.append("datasets", [about])
            rows = [{"dataset_id": name, "sample_id": each, "position": at} for at, each in enumerate(taken)]
            store.append("dataset_samples", rows)
    with served(workspace) as server:
        yield Visitor(server).enter()


def words(page: str) -> str:
    return " ".join(unescape(re.sub("<[^>]+>", " ", page)).split())


def test_totals_are_paired_and_add_up() -> None:
    slices = [
        {"num_items": 4, "first": 1.0, "second": 3.0, "num_better": 3, "num_worse": 1},
        {"num_items": 6, "first": 6.0, "second": 5.0, "num_better": 0, "num_worse": 1},
    ]
    found = total(slices)
    assert found is not None and (found.num_items, found.first, found.second) == (10, 0.7, 0.8)
    assert (found.first_interval, found.second_interval) == (wilson(0.7, 10), wilson(0.8, 10))
    assert (found.num_better, found.num_worse, found.p_value) == (3, 2, mcnemar(3, 2))
    assert total([]) is None


def test_items_of_two_models_stand_side_by_side(visitor: Visitor) -> None:
    address = "/compare?a=evl_raw&b=evl_round+2"
    page = visitor.get(address).text
    better = synthetic_run.RIGHT["round 2"] - synthetic_run.RIGHT["raw"]
    assert f"{better} 0 {mcnemar(better, 0):.3g}" in words(page)
    assert page.count('<section class="item">') == PAGE
    (more,) = re.findall(r'href="(/compare\?[^"]*after=[^"]*)"', page)
    rest = visitor.get(unescape(more)).text
    assert rest.count('<section class="item">') == synthetic_run.NUM_ITEMS - PAGE
    changed = visitor.get(f"{address}&change=better").text
    assert changed.count('<section class="item">') == better and "First: 0 30 days" in words(changed)
    in_slice = visitor.get(f"{address}&change=better&slice=fees").text
    expected = sum(at % 4 == 1 for at in range(synthetic_run.RIGHT["raw"], synthetic_run.RIGHT["round 2"]))
    assert in_slice.count('<section class="item">') == expected
    assert 'href="/things/call_round%202-' in changed or "call_round" in changed


def test_items_that_one_was_not_asked_are_told(visitor: Visitor) -> None:
    html = visitor.get("/compare?a=evl_raw&b=evl_odd").text
    page = words(html)
    assert html.count("The judgement") == html.count('<a href="/things/call_%26j">The judgement</a>') == 1
    assert "different metrics, facts and exact" in page
    assert "The first was asked 40, the second 2." in page


@pytest.mark.parametrize(
    "query", ["a=none", "b=none", "a=evl_raw&b=evl_odd&change=else", "a='; DROP TABLE runs; --"]
)
def test_what_is_not_there_cannot_be_compared(visitor: Visitor, query: str) -> None:
    assert visitor.get("/compare?" + query.replace(" ", "%20")).status == 400


def test_samples_of_two_datasets_are_paged(visitor: Visitor) -> None:
    page = visitor.get("/compare/datasets?a=dat_a&b=dat_b").text
    assert f"2 samples are in both, {ROWS + 2} only in the second, 1 only in the first." in words(page)
    assert page.count('<th scope="row"') == ROWS and "<i>" not in page
    (more,) = re.findall(r'href="(/compare/datasets\?[^"]*after=[^"]*)"', page)
    rest = visitor.get(unescape(more)).text
    assert rest.count('<th scope="row"') == 2 and "smp_053" in rest
    gone = visitor.get("/compare/datasets?a=dat_a&b=dat_b&side=gone").text
    assert gone.count('<th scope="row"') == 1 and 'href="/samples/smp_000"' in gone
    assert visitor.get("/compare/datasets?side=both").status == 400
    assert visitor.get("/compare/datasets?a=none").status == 400


def test_a_workspace_without_any_says_so(tmp_path: Path) -> None:
    with Store.open(tmp_path / "w"):
        pass
    with served(tmp_path / "w") as server:
        visitor = Visitor(server).enter()
        assert "No model has been evaluated" in visitor.get("/compare").text
        assert "No dataset has been frozen" in visitor.get("/compare/datasets").text
        assert "No run has started" in visitor.get("/review").text
