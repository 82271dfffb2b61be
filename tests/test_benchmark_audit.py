"""The large workspace of benchmarks/audit.py, small: every page that is timed opens on it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from urllib.parse import urlencode

import audit_workspace

from benchmarks.audit import FILTERS, chosen
from benchmarks.audit_workspace import METRICS, build
from factory.audit.access import Access


def test_what_is_timed_is_there(tmp_path: Path) -> None:
    num_bytes = build(tmp_path / "w", 300)
    with Access(tmp_path / "w") as access:
        counts = access.select(
            "SELECT (SELECT count(*) FROM samples) AS s, (SELECT count(*) FROM scores) AS c"
        )
        assert counts == [{"s": 300, "c": 300 * len(METRICS)}]
        assert num_bytes > 300 * 100
        sample = access.select(
            "SELECT child AS id, parent AS call FROM edges WHERE relation = 'call' LIMIT 1"
        )[0]
        rng = Random(1)
        lists = ["/samples?" + urlencode(chosen(one, rng) | chosen(other, rng)) for one, other in FILTERS]
        browser = audit_workspace.browse(access)
        for path in ("/", *lists, f"/samples/{sample['id']}", f"/things/{sample['call']}"):
            assert browser.get(path).status_code == 200, path
