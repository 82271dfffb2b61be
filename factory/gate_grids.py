"""The report's tables about the gate: what it decided on each student, why, and how each slice fared.

How a table looks is in factory.grids, what was found out in factory.comparison.
"""

from __future__ import annotations

from factory.comparison import Comparison, describe_comparison, points, read_comparison
from factory.findings import Gate, Report
from factory.grids import Grid, number, p_value


def grid_gates(report: Report) -> Grid:
    """What the gate said about each round's student, with what it rests on."""
    rows = []
    for gate in report.gates:
        decision = "promoted" if gate.promote else "not promoted"
        rows.append((gate.label, decision, gate.reason, *_numbers(gate)))
    columns = ("Student", "Decision", "Reason", "Better", "Worse", "Items", "Sources", "In words")
    return Grid(
        "Decisions of the gate, on the dev split, and of people",
        columns,
        tuple(rows),
        frozenset({0, 1, 2, 7}),
    )


def grid_gate_slices(report: Report) -> Grid:
    """How each slice fared at the gate: whether it fell, and whether a fall by its margin is ruled out."""
    rows = [
        (
            gate.label,
            each.name,
            f"{each.num_items:,}",
            f"{100 * each.gain:+.1f}",
            points(each.margin),
            "fell" if each.fell else "kept it" if each.safe else "neither shown",
            p_value(each.p_fell),
            p_value(each.p_safe),
            "–" if each.safe else f"{each.items_needed:,}",
        )
        for gate in report.gates
        if not is_by_hand(gate)
        for each in _read(gate).slices
    ]
    columns = ("Student", "Slice", "Items", "Points", "Margin", "Shown", "p (fell)", "p (safe)", "Needed")
    title = "Slices at the gate: fallen, or shown to have kept the margin, and the items needed to show that"
    return Grid(title, columns, tuple(rows), frozenset({0, 1, 5}))


def _read(gate: Gate) -> Comparison:
    return read_comparison({**gate.evidence, "promote": gate.promote, "reason": gate.reason})


def is_by_hand(gate: Gate) -> bool:
    """Whether a person decided, after or against the gate."""
    return "who" in gate.evidence


def _numbers(gate: Gate) -> tuple[str, ...]:
    if is_by_hand(gate):
        return (*("–",) * 4, f"{gate.evidence['who']}: {gate.evidence['why']}")
    found = _read(gate)
    counts = (found.num_better, found.num_worse, found.num_items, found.num_clusters)
    return (*("–" if each is None else number(each) for each in counts), describe_comparison(found))
