"""The report's tables about the judge and about people: what was scored, and how far they agree.

How a table looks is in factory.grids, where the numbers come from in factory.agreement.
"""

from __future__ import annotations

from factory.findings import Report
from factory.grids import Grid
from factory.plots import percent


def grid_agreement(report: Report) -> Grid:
    """People's verdicts against decisions and the judge's scores, and against one another."""
    kinds = {"decision": "decision", "step": "step", "score": "scores of", "reviewer": "reviewers"}
    rows = [
        (
            f"{kinds[each.kind]} {each.name}",
            f"{each.num_items:,}",
            percent(each.agreement),
            "–"
            if each.kappa is None or each.kappa_low is None
            else f"{each.kappa:.2f} ({each.kappa_low:.2f} to {each.kappa_high:.2f})",
        )
        for each in report.agreement
    ]
    title = "Agreement of people's verdicts with what was decided and scored, with 95 % intervals"
    return Grid(title, ("Verdicts against", "Samples", "Agree", "Cohen's κ"), tuple(rows))


def grid_judgements(report: Report) -> Grid:
    """What the judge scored: of pairs, where both orders agree, and how often a place won."""
    rows = [
        (
            each.metric,
            each.model_id or "–",
            f"{each.num_scored:,}",
            f"{each.num_failed:,}",
            "–" if each.mean is None else f"{each.mean:.2f}",
        )
        for each in report.judgements
    ]
    columns = ("Metric", "Model", "Scored", "Without a score", "Mean")
    return Grid("The judge's scores, of the samples that were drawn", columns, tuple(rows), frozenset({0, 1}))
