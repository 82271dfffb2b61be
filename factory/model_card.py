"""The card of a merged model: what it was made of, how it was compared, and what was measured of it.

Written as the dataset's card is: front matter by a YAML library, every value in the text escaped. The
licence, and a base that is only a folder on some disk, are left to fill in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.accuracy import Selects
from factory.card import Verbatim, open_template
from factory.findings import find_run
from factory.printable import printable

LINEAGE = """\
SELECT d.position, l.sample_id, l.kind, l.ancestor, l.depth
FROM models m JOIN dataset_samples d ON d.dataset_id = m.dataset_id
JOIN lineage l ON l.sample_id = d.sample_id
WHERE m.id = ?
ORDER BY d.position, l.depth, l.ancestor"""

EVALUATIONS = """
    SELECT e.split, e.metric, e.num_items, e.mean, e.low, e.high, b.mean AS before, e.id,
           e.comparison->>'reason' AS reason, (e.comparison->>'gain_low')::DOUBLE AS gain_low
    FROM evaluations e
    LEFT JOIN evaluations b ON b.run_id = e.run_id AND b.round = 0 AND b.split = e.split
    WHERE e.model_id = ? AND e.round IS NOT NULL ORDER BY e.split, e.created_at, e.id
"""

SLICES = """
    SELECT split, slice, accuracy, num_items FROM slice_progress WHERE model_id = ? AND round IS NOT NULL
    GROUP BY ALL ORDER BY split, slice
"""

FIGURES = (  # of the comparison: label, name, format and factor
    ("Questions", "num_chats", "%d", 1),
    ("Positions", "num_positions", "%d", 1),
    ("Difference of logits, as a share of their spread, mean", "relative_difference", "%.2g", 1),
    ("Divergence (Kullback-Leibler, nats), mean", "mean_divergence", "%.2g", 1),
    ("of these at most", "max_divergence", "%.2g", 1),
    ("Difference of logits, mean", "mean_difference", "%.2g", 1),
    ("at most", "max_difference", "%.2g", 1),
    ("Same next token", "same_tokens", "%.1f %%", 100),
    ("Same choices along the whole answer", "same_answers", "%.1f %%", 100),
    ("Widest lead of a token that lost it (logits)", "widest_flip", "%.2g", 1),
)


def render_model_card(store: Selects, model: Mapping[str, Any], merged: Mapping[str, Any]) -> str:
    """README.md of a merged model, given its row and what merging found."""
    import yaml

    run = find_run(store, model["run_id"])
    domain = (run["config"] or {}).get("domain", {})
    title = printable(domain.get("title", run["recipe"]))
    is_folder = Path(merged["base"]).is_absolute()
    base = Path(merged["base"]).name if is_folder else merged["base"]
    datasets = store.select("SELECT id, num_samples FROM datasets WHERE id = ?", (model["dataset_id"],))
    text = open_template("model_card.md.jinja").render(
        title=title,
        description=domain.get("description", ""),
        run=run,
        model=model,
        merged=merged,
        figures=merged["comparison"],
        rows=FIGURES,
        base=base,
        is_folder=is_folder,
        dataset=datasets[0] if datasets else {"id": "–", "num_samples": 0},
        evaluations=store.select(EVALUATIONS, (model["id"],)),
        slices=store.select(SLICES, (model["id"],)),
        lineage=Verbatim(LINEAGE.replace("?", f"'{_quoted(model['id'])}'")),
    )
    front: dict[str, Any] = {
        "license": "other",
        **({} if is_folder else {"base_model": base, "base_model_relation": "finetune"}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["dataset-factory", "synthetic"],
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{text.strip()}\n"


def _quoted(text: str) -> str:
    """What may stand between the quotes of an SQL string, and in a code block."""
    return printable(text).replace("'", "''").replace("`", "")
