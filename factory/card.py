"""The card of an exported dataset: what it holds, how it was made, by which models, and its limits.

Front matter is written by a YAML library, the text by a template whose every value is escaped for
Markdown. The licence is the user's to choose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.accuracy import Selects
from factory.export_files import Written
from factory.findings import find_run
from factory.funnel import read_steps, read_yields
from factory.printable import printable

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

LINEAGE = """\
WITH RECURSIVE up(id, relation, depth) AS (
    SELECT '{sample_id}', 'itself', 0
    UNION ALL
    SELECT e.parent, e.relation, up.depth + 1 FROM up JOIN edges e ON e.child = up.id
)
SELECT up.depth, up.relation, up.id, c.role, c.model_id, o.citation
FROM up LEFT JOIN calls c ON c.id = up.id AND c.status = 'ok' LEFT JOIN sources o ON o.id = up.id
ORDER BY up.depth, up.relation, up.id"""

MODELS = """
    WITH RECURSIVE up(id) AS (
        SELECT sample_id FROM dataset_samples WHERE dataset_id = ?
        UNION SELECT e.parent FROM up JOIN edges e ON e.child = up.id
    )
    SELECT c.role, c.model_id, any_value(m.name) AS name, count(DISTINCT c.id) AS num_calls
    FROM calls c LEFT JOIN models m ON m.id = c.model_id
    WHERE c.status = 'ok' AND c.role <> 'student'
      AND (c.id IN (SELECT id FROM up) OR (c.run_id = ? AND c.round <= ?))
    GROUP BY c.role, c.model_id ORDER BY c.role DESC, c.model_id
"""


def render_card(store: Selects, dataset: Mapping[str, Any], written: Written) -> str:
    """README.md of a dataset, given its row and files: YAML front matter that names them, then Markdown."""
    import yaml

    run = find_run(store, dataset["run_id"])
    domain = (run["config"] or {}).get("domain", {})
    title = printable(domain.get("title", run["recipe"]))
    template = open_template("card.md.jinja")
    (first,) = store.select(
        "SELECT min(sample_id) AS id FROM dataset_samples WHERE dataset_id = ?", (dataset["id"],)
    )
    text = template.render(
        title=title,
        description=domain.get("description", ""),
        run=run,
        dataset=dataset,
        written=written,
        counts={name: _count(store, dataset["id"], name) for name in ("slice", "strategy", "round")},
        steps=read_steps(store, run["id"]),
        rounds=read_yields(store, run["id"], "strategy", by_round=True),
        models=_models(store, dataset, run["config"] or {}),
        lineage=Verbatim(LINEAGE.format(sample_id=first["id"])),
    )
    front_matter = _front_matter(title, dataset["num_samples"], written)
    front = yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{text.strip()}\n"


def open_template(name: str) -> Any:
    """A template of this package, in a sandbox; every text that it is given is escaped for Markdown."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        finalize=_finalize, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    return environment.from_string(Path(__file__).with_name(name).read_text("utf-8"))


def _front_matter(title: str, num_samples: int, written: Written) -> dict[str, Any]:
    folders = {"default": "data"} | ({"preference": "preference"} if written.num_pairs else {})
    return {
        "pretty_name": title,
        "license": "other",
        "size_categories": [next((name for limit, name in SIZES if num_samples < limit), "n>1M")],
        "tags": ["synthetic", "dataset-factory"],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"{folder}/train.parquet"}]}
            for name, folder in folders.items()
        ],
    }


def _models(store: Selects, dataset: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that wrote or checked the samples; what has no row in `models` is named as the recipe does."""
    rows = store.select(MODELS, (dataset["id"], dataset["run_id"], dataset["round"]))
    for row in rows:
        spec = config.get("models", {}).get(row["role"], {})
        server = config.get("servers", {}).get(spec.get("server"), {})
        parts = (spec.get("model") or server.get("model"), spec.get("adapter"))
        row["name"] = row["name"] or " with adapter ".join(part for part in parts if part) or "–"
    return rows


def _count(store: Selects, dataset_id: str, column: str) -> list[dict[str, Any]]:
    """Samples of the dataset by a column of `samples`; the caller names it, never the user."""
    return store.select(
        f"SELECT s.{column} AS name, count(*) AS n FROM dataset_samples d "  # noqa: S608
        "JOIN samples s ON s.id = d.sample_id WHERE d.dataset_id = ? GROUP BY ALL ORDER BY ALL",
        (dataset_id,),
    )


class Verbatim(str):
    """Text of ours that goes into a code block as it is."""

    __slots__ = ()


def _finalize(value: Any) -> Any:
    return markdown(value) if isinstance(value, str) and not isinstance(value, Verbatim) else value


def markdown(text: str) -> str:
    """One line of Markdown that shows `text` and nothing else: no markup, no HTML, no table cell ends."""
    line = " ".join(printable(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#~$!])", r"\\\1", line)
