"""Each audit page in a real headless Chromium over a real workspace: shown, decided on, live, harmless."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic_run
from audit_browser import NARROW, WIDE, Browser, launched, watched
from audit_http import served

from factory.audit.server import AuditServer
from factory.store.queries import read
from factory.store.rows import decision_rows, sample_rows
from factory.store.store import Store
from factory.types import Decision, Message, Sample, Score

pytestmark = pytest.mark.browser

# Every page, by an address and a text that it shows over the workspace below.
PAGES = {
    "/": "Runs",
    "/samples": "Filters",
    "/samples?fate=kept&sort=oldest": "Chosen",
    "/samples?slice=nowhere": "0 samples",
    "/sql": "SELECT",
    "/review": "Your verdict",
    "/review?queue=random": "An estimate is there once",
    "/review?queue=disputed": "Nothing is left",
    "/compare": "McNemar",
    "/compare?change=worse": "No item is left",
    "/compare/datasets": "are in both",
}
HOSTILE = (
    "<script>window.hacked = 1; alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>"
    "<style>body { display: none }</style></pre></textarea><iframe src='https://example.com/'></iframe>"
    "<a href='javascript:alert(4)'>x</a>{{ 7 * 7 }}\x1b]0;title\x07\x1b[2J\u202eright to left\u200f\u2066"
)
WRITER = """
import sys, time
from pathlib import Path
from factory.store.store import Store
with Store.open(Path(sys.argv[1])) as store:
    for number in range(1, 200):
        row = {"run_id": "run_abc123", "round": 3, "sample_id": f"smp_{number}", "step": 0, "refiner": "form"}
        more = {"action": "keep", "reason": "ok", "evidence": {}, "rewrite_id": None, "final": True}
        store.append("decisions", [row | more])
        store.flush()
        time.sleep(0.1)
        if Path(sys.argv[2]).exists():
            break
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def fill(workspace: Path) -> None:
    with Store.open(workspace) as store:
        synthetic_run.fill(store)
        sql = "SELECT sample_id FROM decisions WHERE refiner = 'edit' AND action = 'keep' ORDER BY sample_id"
        for number, row in enumerate(store.select(sql)):
            score = {"run_id": synthetic_run.RUN, **row, "metric": "keep", "scorer": "edit_probability"}
            store.append("scores", [{**score, "value": 0.5 + number / 100}])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditServer]:
    """Over a workspace that no test changes."""
    workspace = tmp_path_factory.mktemp("shown") / "w"
    fill(workspace)
    with served(workspace) as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[AuditServer]:
    """Over a workspace of the test's own."""
    fill(tmp_path / "w")
    with served(tmp_path / "w") as server:
        yield server


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_every_page_opens_is_accessible_and_fits(
    browser: Browser, server: AuditServer, scheme: str, width: int
) -> None:
    with watched(browser, server, scheme, width) as visit:
        visit.go("/review")
        visit.page.get_by_label("Your name").fill("Ada")
        visit.page.get_by_role("button", name="Begin").click()
        for path, text in PAGES.items():
            page = visit.go(path)
            assert text in page.content(), path
            assert visit.violations() == [], path
            assert visit.too_wide() == [], path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_a_sample_its_neighbourhood_and_an_answer_in_sql_open_and_fit(
    browser: Browser, server: AuditServer, scheme: str, width: int
) -> None:
    sql = "SELECT child, parent FROM edges WHERE relation = 'source' ORDER BY ALL LIMIT 1"
    ((sample, source),) = read(server.workspace, sql).rows
    with watched(browser, server, scheme, width) as visit:
        for path in (f"/samples/{sample}", f"/things/{source}", "/sql?query=FROM+funnel"):
            page = visit.go(path)
            assert page.locator("h1").count() == 1, path
            assert visit.violations() == [], path
            assert visit.too_wide() == [], path


def test_the_keyboard_alone_decides_undoes_and_edits(browser: Browser, own_server: AuditServer) -> None:
    def told() -> tuple[tuple[str, ...], ...]:
        sql = "SELECT reviewer, action, reason FROM verdicts ORDER BY created_at, rowid"
        return read(own_server.workspace, sql).rows

    with watched(browser, own_server) as visit:
        page = visit.go("/review")
        page.get_by_label("Your name").fill("Ada")
        page.keyboard.press("Enter")
        page.wait_for_selector("#verdict")
        page.wait_for_load_state("load")  # with its script
        first = page.locator("#verdict input[name=about]").input_value()
        page.keyboard.press("3")
        reason = page.locator("input[name=reason]:checked").input_value()
        with page.expect_navigation():
            page.keyboard.press("d")
        assert page.locator("#verdict input[name=about]").input_value() != first
        assert told() == (("Ada", "drop", reason),)
        with page.expect_navigation():
            page.keyboard.press("u")
        assert page.locator("#verdict input[name=about]").input_value() == first
        assert told()[1:] == (("Ada", "withdrawn", "undo"),)
        page.keyboard.press("e")
        page.keyboard.press("Control+a")
        page.keyboard.type("kept dry, undone now")  # letters that are keys elsewhere
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("[role=alert]")
        assert "choose or write a reason" in page.locator("[role=alert]").inner_text()
        assert page.locator("#corrected").input_value() == "kept dry, undone now"
        page.keyboard.press("o")
        page.keyboard.type("Wrong number")
        page.keyboard.press("Enter")  # decides nothing
        page.locator("#corrected").focus()
        with page.expect_navigation():
            page.keyboard.press("Control+Enter")
        assert told()[2:] == (("Ada", "edit", "wrong_number"),)
        visit.faults = [each for each in visit.faults if "422" not in each]  # the page that said what lacks


def test_single_keys_can_be_switched_off_and_stay_off(browser: Browser, own_server: AuditServer) -> None:
    with watched(browser, own_server) as visit:
        page = visit.go("/review")
        page.get_by_label("Your name").fill("Ada")
        page.get_by_role("button", name="Begin").click()
        page.get_by_label("Single keys act").uncheck()
        page = visit.go("/review")
        assert not page.get_by_label("Single keys act").is_checked()
        page.keyboard.press("k")
        page.keyboard.press("Control+k")
        page.wait_for_timeout(300)
        assert read(own_server.workspace, "SELECT count(*) FROM verdicts").rows == ((0,),)
        page.get_by_label("Single keys act").check()
        with page.expect_navigation():
            page.keyboard.press("k")
        assert read(own_server.workspace, "SELECT action FROM verdicts").rows == (("keep",),)


def test_verdicts_work_without_scripts(browser: Browser, own_server: AuditServer) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(own_server.url)
    page.goto(f"http://127.0.0.1:{own_server.port}/review")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("button", name="Keep").click()
    page.get_by_role("button", name="Undo").click()
    page.get_by_label("another").fill("useless")
    page.get_by_role("button", name="Drop").click()
    context.close()
    told = read(own_server.workspace, "SELECT action, reason FROM verdicts ORDER BY created_at").rows
    assert told == (("keep", "ok"), ("withdrawn", "undo"), ("drop", "useless"))


def test_figures_move_while_a_run_in_another_process_writes(
    browser: Browser, own_server: AuditServer, tmp_path: Path
) -> None:
    with watched(browser, own_server) as visit:
        page = visit.page
        page.evaluate("window.same = true")
        before = page.locator("#runs").inner_text()
        words = [sys.executable, "-c", WRITER, str(own_server.workspace), str(tmp_path / "end")]
        with subprocess.Popen(words) as writer:
            try:
                page.wait_for_function(
                    "before => document.getElementById('runs').innerText !== before",
                    arg=before,
                    timeout=30_000,
                )
                middle = page.locator("#runs").inner_text()
                page.wait_for_function(
                    "before => document.getElementById('runs').innerText !== before",
                    arg=middle,
                    timeout=30_000,
                )
            finally:
                (tmp_path / "end").touch()
                assert writer.wait(30) == 0
        assert page.evaluate("window.same") is True  # it was never loaded again


def test_a_hostile_sample_does_nothing(browser: Browser, own_server: AuditServer) -> None:
    messages = [Message("user", HOSTILE), Message("assistant", HOSTILE + "x" * 2_000_000)]
    big = Sample.create(messages, [], HOSTILE, {"slice": HOSTILE, "strategy": HOSTILE})
    small = Sample.create([*messages[:1], Message("assistant", HOSTILE)], [], "seeded", {"slice": "s"})
    with Store.open(own_server.workspace) as store:
        for table, rows in zip(
            ("samples", "edges"), sample_rows([big, small], synthetic_run.RUN, 1), strict=True
        ):
            store.append(table, rows)
        for sample in (big, small):
            score = Score(sample.id, HOSTILE, 0.5, HOSTILE)
            decision = Decision(sample.id, HOSTILE, "drop", HOSTILE, None, (score,), {"found": HOSTILE})
            decisions, scores = decision_rows([decision], synthetic_run.RUN, 1, 9, {sample.id})
            store.append("decisions", decisions)
            store.append("scores", scores)
            told = {"sample_id": sample.id, "reviewer": HOSTILE, "action": "keep", "reason": HOSTILE}
            store.append("verdicts", [told])
    with watched(browser, own_server) as visit:
        page = visit.go("/review")
        page.get_by_label("Your name").fill("Ada <b>")
        page.get_by_role("button", name="Begin").click()
        for sample in (big, small):
            page = visit.go(f"/review?sample={sample.id}")
            assert page.evaluate("window.hacked") is None
            assert page.locator("iframe, svg[onload], img").count() == 0
            assert "<U+202E>right to left<U+200F>" in page.locator("main").inner_text()
            assert "49" not in page.locator("h1").inner_text() and page.locator("#main").is_visible()
            assert len(page.content()) < 400_000
            assert visit.violations() == []
        visit.go("/review?queue=disputed")
        page = visit.go(f"/review?sample={small.id}")
        page.locator("#corrected").press("End")
        page.locator("#corrected").fill(page.locator("#corrected").input_value() + " mended")
        page.get_by_label("another").fill("mended")
        page.get_by_role("button", name="Save this answer").click()
        with page.expect_download() as saved:
            page.evaluate(f"location.href = '/review/text/answer?id={big.id}'")
        assert saved.value.suggested_filename == "answer.txt"
        assert Path(saved.value.path()).stat().st_size > 2_000_000
    corrected = "SELECT corrected FROM verdicts WHERE reviewer = 'Ada <b>'"
    ((mended,),) = read(own_server.workspace, corrected).rows
    assert (
        mended.startswith(HOSTILE[:200])
        and "\u202eright to left\u200f" in mended
        and mended.endswith(" mended")
    )
