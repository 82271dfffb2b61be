"""The box for SQL under attack, over HTTP, in the process that `factory audit` is."""

from __future__ import annotations

import hashlib
import html
import http.client
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

import audit_workspace
import psutil
import pytest

from factory.store.questions import questions

SECONDS = 1.0
LAUNCH = f"""
import sys
from factory.audit import sql_box
sql_box.LIMITS = sql_box.LIMITS._replace(seconds={SECONDS})
from factory.cli import app
app(["audit", sys.argv[1], "--json"])
"""
MARK = "the-secret-of-the-file"
HOSTILE = "'); DROP TABLE samples; --<b>&\""


class Page:
    """The page of a server in a process of its own, and what is asked of it."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.log = (
            workspace.parent / "page.log"
        )  # a pipe that nobody reads would stop the page once it is full
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, str(workspace)], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        address = ""
        while '"url"' not in address:
            address = self.process.stdout.readline()
            assert address, self.log.read_text()
        self.url = urlsplit(re.search(r'http://[^"]*', address)[0])
        answer = self.get(f"/?{self.url.query}", {})
        self.cookie = {"Cookie": answer.getheader("Set-Cookie").split(";")[0]}

    def get(self, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=60)
        connection.request("GET", path, headers=self.cookie if headers is None else headers)
        return connection.getresponse()

    def ask(self, sql: str) -> tuple[int, str]:
        """Status, and the text of the page's answer or refusal."""
        answer = self.get("/sql?query=" + quote(sql))
        page = html.unescape(re.sub(r"<textarea.*?</textarea>", "", answer.read().decode(), flags=re.DOTALL))
        return answer.status, page.split('id="schema"')[0]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "secret.csv").write_text(f"a\n{MARK}\n")
    audit_workspace.make(folder / "w")
    found = Page(folder / "w")
    yield found
    assert found.process.poll() is None, "the page has died"
    found.process.terminate()
    found.process.wait(20)


def files(folder: Path) -> dict[str, str]:
    """What lies around, but the database's own log of changes."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.parent.rglob("*")
        if path.is_file() and path.suffix not in (".wal", ".sock")
    }


WRITES = [
    "DELETE FROM samples",
    "INSERT INTO verdicts SELECT * FROM verdicts",
    "UPDATE samples SET answer = ''",
    "DROP TABLE samples",
    "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP TABLE x AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "ALTER TABLE samples ADD COLUMN x INT",
    "TRUNCATE samples",
    "WITH d AS (DELETE FROM samples RETURNING id) SELECT * FROM d",
    "WITH d AS (INSERT INTO runs SELECT * FROM runs RETURNING id) FROM d",
    "EXPLAIN ANALYZE DELETE FROM samples",
    "SELECT 1; DELETE FROM samples",
    "BEGIN; DROP TABLE samples; COMMIT",
    "MERGE INTO samples USING runs ON true WHEN MATCHED THEN DELETE",
    "CHECKPOINT",
    "VACUUM",
    "SELECT * FROM checkpoint()",
    "FROM force_checkpoint()",
    "SELECT nextval('x')",
    "PREPARE p AS DELETE FROM samples",
    "EXECUTE p",
    "FROM query('DELETE FROM samples')",
    "FROM json_execute_serialized_sql('{}')",
]
FILES = [
    "COPY samples TO '{folder}/out.csv'",
    "COPY (SELECT 1) TO '{folder}/out.parquet' (FORMAT parquet)",
    "EXPORT DATABASE '{folder}/out'",
    "IMPORT DATABASE '{folder}'",
    "ATTACH '{folder}/other.db'",
    "ATTACH ':memory:' AS m",
    "DETACH factory",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{folder}/x.so'",
    "FROM '{folder}/secret.csv'",
    'SELECT * FROM "{folder}/secret.csv"',
    "FROM read_csv('{folder}/secret.csv')",
    "FROM read_csv_auto('{folder}/secret.csv')",
    "FROM read_text('{folder}/secret.csv')",
    "FROM read_blob('{folder}/secret.csv')",
    "FROM read_json('{folder}/secret.csv')",
    "FROM read_parquet('{folder}/x')",
    "FROM parquet_scan('{folder}/x')",
    "FROM sniff_csv('{folder}/secret.csv')",
    "FROM glob('{folder}/*')",
    "FROM read_duckdb('{folder}/w/factory.duckdb')",
    "FROM 'https://example.com/x.csv'",
    "FROM read_csv('s3://bucket/x')",
    "FROM read_text('/proc/self/environ')",
    "SELECT (SELECT content FROM read_text('{folder}/secret.csv'))",
    "SELECT 1 WHERE EXISTS (FROM read_text('{folder}/secret.csv'))",
    "WITH a AS (FROM read_text('{folder}/secret.csv')) FROM a",
    "FROM query_table('{folder}/secret.csv')",
    "SELECT getenv('HOME')",
    "FROM arrow_scan(1::UBIGINT, 1::UBIGINT, 1::UBIGINT)",
    "FROM pandas_scan(1::UBIGINT)",
    "FROM python_map_function(1)",
    "FROM seq_scan('samples')",
]
SETTINGS = [
    "SET memory_limit = '100GB'",
    "SET GLOBAL enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA memory_limit = '1GB'",
    "PRAGMA database_list",
    "CALL enable_logging()",
    "FROM enable_logging()",
    "FROM enable_profiling()",
    "FROM disable_logging()",
    "SELECT write_log('x')",
    "SELECT current_setting('temp_directory')",
    "FROM duckdb_settings()",
    "FROM duckdb_secrets()",
    "FROM which_secret('s3://x', 's3')",
    "FROM duckdb_databases()",
    "FROM duckdb_databases",
    "FROM pragma_database_list",
    "FROM pragma_database_list()",
    "FROM duckdb_temporary_files()",
    "FROM duckdb_extensions()",
    "FROM duckdb_logs",
    "FROM pg_catalog.pg_settings",
    "FROM information_schema.schemata",
    "FROM system.main.duckdb_databases",
    "SELECT setseed(0.5)",
    "CREATE SECRET s (TYPE s3)",
]
HUGE = [
    "SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE hash(a, b) % 7 = 3",
    "WITH RECURSIVE a(s) AS (SELECT 1 UNION ALL SELECT s + 1 FROM a) SELECT count(*) FROM a",
    "WITH RECURSIVE a(s) AS (SELECT 'xxxxxxxx' UNION ALL SELECT s || s FROM a) SELECT max(length(s)) FROM a",
    "SELECT list(i) FROM range(1000000000000) t(i)",
    "SELECT string_agg(i::VARCHAR) FROM range(1000000000000) t(i)",
    "SELECT i, count(*) FROM range(1000000000000) t(i) GROUP BY i ORDER BY 2 DESC, 1",
    "SELECT * FROM range(1000000000000) t(i) ORDER BY hash(i)",
    "SELECT median(i) FROM range(1000000000000) t(i)",
    "SELECT repeat('x', 2000000000)",
    "SELECT len(range(1000000000000))",
    "SELECT lpad('x', 2000000000, 'y')",
    "SELECT printf('%2000000000d', 1)",
    "SELECT format('{:>2000000000}', 'a')",
    "SELECT list_resize([1], 2000000000)",
    "SELECT levenshtein(string_agg(answer), string_agg(question)) FROM samples",
    "SELECT sleep_ms(600000)",
    "SELECT pg_sleep(600)",
    "SELECT list_reduce(generate_series(1, 60), lambda x, y: x || x)",
    "SELECT sum(length(regexp_extract(answer || answer, '((a*)*)*$'))) FROM samples, range(100000)",
    "SELECT regexp_matches(answer, '(x+x+)+y') FROM samples, range(100000) ORDER BY 1",
    "SELECT regexp_replace(answer, 'x', answer, 'g') FROM samples",
    "SELECT length(replace(answer, 'x', answer)) FROM samples",
    # Doubled in one go, without recursion: nothing that DuckDB counts.
    "WITH a AS (SELECT answer AS s FROM samples), b AS (SELECT s||s||s||s||s||s||s||s AS s FROM a), "
    "c AS (SELECT s||s||s||s||s||s||s||s AS s FROM b), d AS (SELECT s||s||s||s||s||s||s||s AS s FROM c) "
    "SELECT max(length(s || 'x')) FROM d",
    "SELECT list_transform(string_split(answer, 'x'), lambda x: list_transform(string_split(answer, 'x'), "
    "lambda y: y || x)) FROM samples",
    "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "SELECT " + "+".join(["1"] * 4000),
    "SELECT 1 " + "UNION ALL SELECT 1 " * 500,
    "SELECT '" + "x" * 20_000 + "'",
    "SELECT 'a\0b'",
    "SELECT '\x1b[2J'",
]


def check_alive(page: Page) -> None:
    status, text = page.ask("SELECT count(*) AS n, 7 * 6 AS m FROM samples")
    assert status == 200 and ">241<" in text and ">42<" in text, text[-500:]


@pytest.mark.parametrize("sql", [*WRITES, *FILES, *SETTINGS])
def test_what_is_no_question_is_refused(page: Page, sql: str) -> None:
    folder = page.workspace.parent
    before = files(page.workspace)
    status, text = page.ask(sql.replace("{folder}", str(folder)))
    assert status == 400 and 'role="alert"' in text, text[-800:]
    assert MARK not in text and "HOME=" not in text
    assert files(page.workspace) == before
    check_alive(page)


@pytest.mark.parametrize("sql", HUGE, ids=range(len(HUGE)))
def test_what_would_take_all_is_stopped_and_the_page_goes_on(page: Page, sql: str) -> None:
    status, text = page.ask(sql)
    assert status in (200, 400), text[-300:]
    assert len(text) < 5_000_000
    check_alive(page)
    assert page.get("/samples").status == 200


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT INTERVAL '99999999 years'",
        "SELECT " + "+".join(["1"] * 900),
        "SELECT " + "abs(" * 450 + "1" + ")" * 450,
        "SELECT * FROM pragma_database_list, (WITH pragma_database_list AS (SELECT 1) SELECT 1)",
    ],
    ids=range(4),
)
def test_what_cannot_be_read_is_told_and_no_fault_of_the_server(page: Page, sql: str) -> None:
    status, text = page.ask(sql)
    assert status == 400 and 'role="alert"' in text, text[-300:]


def test_a_page_number_of_any_length_is_taken(page: Page) -> None:
    assert page.get("/sql?query=SELECT+1&page=000001" + "0" * 5000).status == 200


def test_many_at_once_leave_the_page_alone(page: Page) -> None:
    heavy = HUGE[:8] * 2
    with ThreadPoolExecutor(len(heavy)) as threads:
        under_way = [threads.submit(page.ask, sql) for sql in heavy]
        looked = [page.get("/samples?fate=kept") for _ in range(5)]
        answers = [each.result() for each in under_way]
    assert [status for status, _ in answers] == [400] * len(heavy), answers
    failed = [each.read().decode().split("<h1>")[-1] for each in looked if each.status != 200]
    assert not failed, failed
    check_alive(page)
    assert psutil.Process(page.process.pid).memory_info().rss < 6 * 2**30


def test_questions_are_answered_and_browsed(page: Page) -> None:
    status, text = page.ask("SELECT sample_id, count(*) AS n FROM decisions GROUP BY 1 ORDER BY 1")
    assert (
        status == 200 and 'href="/samples/smp_' in text and "Show as samples" in text and 'rel="next"' in text
    )
    shown = page.get("/sql?as=samples&query=" + quote("FROM samples ORDER BY id LIMIT 3")).read().decode()
    assert shown.count("<article>") == 3
    for sql in ("FROM funnel", "FROM lineage LIMIT 3", "WITH a AS (SELECT 1 AS x) SELECT x FROM A",
                "DESCRIBE samples", "FROM range(3)", "SELECT unnest([1, 2])", "FROM main.samples LIMIT 1",
                "SUMMARIZE decisions", "SHOW TABLES", "SELECT replace(answer, 'a', 'b') FROM samples LIMIT 1",
                "SELECT * FROM samples WHERE answer ILIKE '%eye%' LIMIT 5 -- a remark"):  # fmt: skip
        status, text = page.ask(sql)
        assert status == 200, (sql, text[-300:])
    assert page.ask("SELECT id FROM samples, range(100)")[1].count("first 2,000") == 1
    assert page.ask("SELECT '<b>x</b>' AS \"<i>\"")[1].count("<b>x</b>") == 1  # unescaped by `ask` alone


def test_ready_questions_are_offered_and_asked_with_their_parameters(page: Page) -> None:
    offered = re.findall(r'href="(/sql\?query=--[^"]*)"', page.get("/sql").read().decode())
    assert len(offered) == len(questions()) >= 12
    for link, question in zip(offered, questions(), strict=True):
        answer = page.get(html.unescape(link))
        text = answer.read().decode()
        needed = [each.name for each in question.parameters if each.required]
        assert answer.status == 200, (question.name, text)
        assert list(re.findall(r'<input id="p.(\w+)"[^>]* required', text)) == needed
        assert ("This question needs" in text) == bool(needed)
        values = "".join(f"&p.{name}=1" for name in needed)
        answer = page.get(html.unescape(link) + values)
        text = answer.read().decode()
        assert answer.status == 200 and 'id="answer"' in text, (question.name, text)


def test_values_of_parameters_are_bound_and_kept_from_page_to_page(page: Page) -> None:
    sql = quote("SELECT $x AS x, $y AS y, i FROM range(150) t(i)")
    text = page.get(f"/sql?query={sql}&p.x={quote(HOSTILE)}").read().decode()
    assert (
        html.unescape(text).count(HOSTILE) >= 100
        and HOSTILE not in text
        and '<td class="text cell">NULL' in text
    )
    (more,) = re.findall(r'rel="next" href="([^"]*)"', text)
    text = page.get(html.unescape(more)).read().decode()
    assert "Rows 101 to 150" in text and html.unescape(text).count(HOSTILE) >= 50


def test_nothing_is_answered_without_the_token_or_from_elsewhere(page: Page) -> None:
    path = "/sql?query=SELECT+1"
    assert page.get(path, {}).status == 403
    assert page.get(path, page.cookie | {"Origin": "http://evil.example"}).status == 403
    assert page.get(path, page.cookie | {"Host": "evil.example"}).status == 403
    assert page.get(path).status == 200
    assert threading.active_count() < 100
