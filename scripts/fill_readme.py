"""Writes the output of a finished quickstart into README.md, between its markers.

    .venv/bin/python scripts/fill_readme.py workspace

The table and the answers are what the commands print, so that the README shows nothing else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path("README.md")
RUN = ["factory", "run", "recipes/georgia_workers_comp", "--profile", "tiny", "--workspace"]
QUESTIONS = {
    "What did each refiner settle, and why?": """
SELECT refiner, action, reason, count(*) AS samples
FROM decisions JOIN runs ON runs.id = run_id
WHERE final AND control IS NULL GROUP BY ALL ORDER BY samples DESC""",
    "What did the refiner correct most often?": """
SELECT s.answer AS draft, r.answer AS corrected, count(*) AS times
FROM decisions d JOIN samples s ON s.id = d.sample_id JOIN samples r ON r.id = d.rewrite_id
WHERE refiner = 'edit' GROUP BY ALL ORDER BY times DESC, draft LIMIT 5""",
    "Where did the second round spend its samples, and how did the slices fare?": """
SELECT slice, count(*) FILTER (r.round = 1) AS round_1, count(*) FILTER (r.round = 2) AS round_2
FROM round_samples r JOIN samples s ON s.id = r.sample_id JOIN runs ON runs.id = r.run_id
WHERE control IS NULL GROUP BY slice ORDER BY slice""",
    "What did it cost, by stage?": """
SELECT stage, role, count(*) AS calls, sum(prompt_tokens + completion_tokens) AS tokens,
       round(avg(latency_ms)) AS mean_ms
FROM calls GROUP BY ALL ORDER BY tokens DESC""",
    "Which test questions does the last student still get wrong?": """
SELECT question, expected, answer
FROM evaluation_items i JOIN evaluations e ON e.id = i.evaluation_id JOIN runs ON runs.id = e.run_id
WHERE split = 'test' AND control IS NULL AND e.round = 2 AND score < 1 ORDER BY item_key LIMIT 5""",
}


def output_of(words: list[str]) -> str:
    """What a command of ours prints on standard output."""
    command = [f".venv/bin/{words[0]}", *words[1:]]  # the name that it calls itself by
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own words
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def answer(question: str, sql: str, workspace: str) -> str:
    """One question with its SQL and its answer, in Markdown."""
    found = output_of(["factory", "sql", sql.strip(), "--workspace", workspace])
    return f"**{question}**\n\n```sql{sql}\n```\n\n```text\n{found}\n```\n"


def fill(text: str, name: str, content: str) -> str:
    """`text` with what stands between the markers `name` replaced."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda found: found[1] + content + found[2], text, flags=re.DOTALL)


def main() -> None:
    workspace = sys.argv[1]
    table = output_of([*RUN, workspace])
    questions = "\n".join(answer(question, sql, workspace) for question, sql in QUESTIONS.items())
    text = fill(README.read_text("utf-8"), "quickstart", f"```text\n{table}\n```\n")
    README.write_text(fill(text, "questions", questions), "utf-8")


if __name__ == "__main__":
    main()
