"""A large workspace for the audit page: as many samples as wanted, with scores, decisions, edges and calls.

Rows are made in SQL, from the number of the sample alone, and inserted through the product's own schema. Per
sample there are ten scores, some 5.6 decisions and 2.2 edges, and one call, as the quickstart has them and
more. The texts are words at random, so nothing here says anything about quality.
"""

from __future__ import annotations

from pathlib import Path

from factory.store import database

RUN = "run_big"
ROUNDS = 10
CHUNK = 100_000
WORDS = [
    "worker",
    "injury",
    "benefit",
    "week",
    "notice",
    "employer",
    "hearing",
    "claim",
    "doctor",
    "payment",
    "board",
    "wage",
    "limit",
    "report",
    "award",
    "appeal",
    "disability",
    "hand",
    "foot",
    "vision",
    "aid",
    "fund",
    "lien",
    "interest",
    "settlement",
]
METRICS = [
    "grounded",
    "form",
    "keep",
    "overall",
    "clarity",
    "usefulness",
    "ifd",
    "length",
    "toxicity",
    "novelty",
]
STEPS = ["form", "exact", "near", "contamination", "round_trip", "edit"]

ID = "'smp_' || substr(md5('s' || i), 1, 20)"
CALL = "'call_' || substr(md5('k' || i), 1, 20)"
STRATEGY = "(['grounded', 'seeded', 'evolved', 'persona'])[1 + (hash(i, 1) % 4)::INTEGER]"
SLICE = "'slice_' || lpad((hash(i, 2) % 20)::VARCHAR, 2, '0')"
TIME = "TIMESTAMPTZ '2026-01-01' + INTERVAL (i) MILLISECOND"


def words(num: int, seed: int) -> str:
    """SQL for so many words, the same for one sample and seed."""
    known = str(WORDS)
    places = (f"{known}[1 + (hash(i, {100 * seed + at}) % {len(WORDS)})::INTEGER]" for at in range(num))
    return f"concat_ws(' ', {', '.join(places)})"


def build(workspace: Path, num: int) -> int:
    """Makes the workspace; returns the bytes of its samples' questions and answers."""
    connection = database.open_for_writing(workspace, lambda: False)
    connection.execute(f"INSERT INTO runs VALUES ('{RUN}', 'big', NULL, 'd', '{{}}', '0.1.0', now())")
    for start in range(0, num, CHUNK):
        for sql in statements(num):
            connection.execute(sql, {"start": start, "stop": min(num, start + CHUNK)})
    connection.execute(
        f"INSERT INTO datasets VALUES ('dat_1', '{RUN}', {ROUNDS}, {num // 2}, '{{}}', now());"
        "INSERT INTO dataset_samples SELECT 'dat_1', id, row_number() OVER ()"
        " FROM samples WHERE hash(id) % 2 = 0"
    )
    total = "SELECT sum(strlen(question) + strlen(answer))::BIGINT FROM samples"
    ((num_bytes,),) = connection.execute(total).fetchall()
    connection.execute("CHECKPOINT")
    connection.close()
    return int(num_bytes)


def statements(num: int) -> list[str]:
    """What fills the tables with the samples from $start to $stop."""
    rows = "FROM range($start::BIGINT, $stop::BIGINT) t(i)"
    round_number = f"(1 + i * {ROUNDS} // {num})::INTEGER"
    of_run = f"'{RUN}', {round_number}"
    samples = f"""
        INSERT INTO samples
        SELECT {ID}, {of_run}, {STRATEGY},
               CASE WHEN hash(i, 4) % 4 = 0 THEN 'edit' ELSE {STRATEGY} END, {SLICE},
               question, answer, json_array(json_object('role', 'user', 'content', question),
                                            json_object('role', 'assistant', 'content', answer)),
               json_object('slice', {SLICE}, 'difficulty', hash(i, 3) % 5),
               substr(md5('c' || i), 1, 20), {TIME}
        FROM (SELECT i, {words(10, 5)} AS question, {words(24, 6)} || ' ' || i AS answer {rows})"""
    edges = f"""
        INSERT INTO edges SELECT {ID}, {CALL}, 'call' {rows}
        UNION ALL SELECT {ID}, 'src_' || (hash(i, 7) % 2000), 'source' {rows}
        UNION ALL SELECT {ID}, 'smp_' || substr(md5('s' || (i - 1)), 1, 20), 'rewrite_of' {rows}
                  WHERE hash(i, 4) % 4 = 0 AND i > 0"""
    calls = f"""
        INSERT INTO calls (id, run_id, round, stage, role, model_id, request, response, status, finish_reason,
                           attempts, prompt_tokens, completion_tokens, latency_ms, cost_dollars, created_at)
        SELECT {CALL}, {of_run}, 'generate', 'teacher', 'mdl_1', json_object('prompt', {words(20, 9)}),
               {words(24, 6)}, 'ok', 'stop', 1, 100 + hash(i, 11) % 50, 40, 500, 0.0001, {TIME} {rows}"""
    scores = [
        f"""INSERT INTO scores SELECT '{RUN}', {ID}, '{metric}', (hash(i, {20 + at}) % 10000) / 10000.0,
                '{"edit_probability" if at < 3 else "judge"}', NULL {rows}"""
        for at, metric in enumerate(METRICS)
    ]
    decisions = [
        f"""INSERT INTO decisions
            SELECT {of_run}, {ID}, {step}, '{name}',
                   CASE WHEN dropped = {step} THEN 'drop' ELSE 'keep' END,
                   CASE WHEN dropped = {step} THEN '{name}_reason' ELSE 'ok' END, '{{}}', NULL,
                   dropped = {step} OR {step} = {len(STEPS) - 1}, {TIME}
            FROM (SELECT i, (hash(i, 8) % 20)::INTEGER AS dropped {rows}) WHERE dropped >= {step}"""
        for step, name in enumerate(STEPS)
    ]
    return [
        samples,
        f"INSERT INTO round_samples SELECT {of_run}, i, {ID} {rows}",
        edges,
        calls,
        *scores,
        *decisions,
    ]
