"""Where a dataset took only some of the samples that passed, every page says the same of the others."""

from __future__ import annotations

import html
import re
from pathlib import Path

import audit_workspace

from factory.audit.access import Access
from factory.audit.figures import read_funnel, read_slices
from factory.audit.filters import Filters
from factory.audit.options import read_options
from factory.audit.queues import next_at_random
from factory.audit.samples import read_page
from factory.store.queries import status
from factory.store.store import Store

KEPT = """
    SELECT DISTINCT sample_id FROM decisions
    WHERE run_id = 'run_a' AND final AND action = 'keep' AND round = 1"""


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]+>", "", page)).split())


def test_pages_and_figures_agree_about_what_a_selection_left_out(tmp_path: Path) -> None:
    audit_workspace.make(tmp_path)
    with Store.open(tmp_path) as store:
        kept = sorted(row["sample_id"] for row in store.select(KEPT))
        dataset = {"id": "dat_3", "run_id": "run_a", "round": 1, "num_samples": 3, "guards": {}}
        store.append("datasets", [dataset])
        rows = [
            {
                "dataset_id": "dat_3",
                "sample_id": each,
                "chosen": each in kept[:3],
                "reason": "chosen" if each in kept[:3] else "outscored",
                "evidence": {},
            }
            for each in kept
        ]
        store.append("selections", rows)
        (view,) = store.select(
            "SELECT sum(num_final)::BIGINT AS n FROM funnel WHERE run_id = 'run_a' AND action = 'keep'"
        )
        (spent,) = store.select("SELECT count(*) AS n FROM accepted WHERE run_id = 'run_a'")
    assert len(kept) > 4
    with Access(tmp_path) as access:
        client, options = audit_workspace.browse(access), read_options(access)
        funnel = read_funnel(access, "run_a")
        run = next(each for each in status(access) if each.run_id == "run_a")
        listed = read_page(access, Filters(run="run_a", fate="kept", sort="oldest"), options)
        assert view["n"] == spent["n"] == funnel.num_kept == sum(number for _, number in run.accepted)
        assert len(listed.rows) == min(50, funnel.num_kept)
        left_out = read_page(access, Filters(run="run_a", step="selection", did="drop"), options)
        assert {row["id"] for row in left_out.rows} <= set(kept[3:]) and len(left_out.rows) == min(
            50, len(kept) - 3
        )
        assert all(
            each["reason"] == "outscored"
            for row in left_out.rows
            for each in row["fates"]
            if each["run_id"] == "run_a"
        )
        assert "selection" in options.steps and "outscored" in options.reasons
        _, slices = read_slices(access, "run_a")
        assert sum(number for each in slices for number in each.accepted.values()) == funnel.num_kept
        page = text_of(client.get(f"/samples/{kept[3]}").text)
        assert "dropped by selection: outscored in run_a" in page
        asked = next_at_random(access, "run_a", "Ada")[0]
        assert asked is not None
        assert asked.sample_id not in kept[3:]
        page = text_of(client.get("/review", params={"sample": kept[3], "run": "run_a"}).text)
        assert "selectiondrop, final outscored" in page
