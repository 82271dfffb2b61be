"""The tables, as migrations in order, each applied and recorded in one transaction.

Append-only: rows are inserted and never changed. What looks like a state (a round's stage, the
promoted adapter) is the newest of its events. Views live in views.sql and are made anew at each
opening. The first version is tables.sql. docs/schema.md explains every column; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb

from factory.store.embeddings import add_embeddings

MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (
    version INTEGER PRIMARY KEY,       -- position in MIGRATIONS, from 1
    name VARCHAR NOT NULL,             -- of the function that made it
    applied_at TIMESTAMPTZ NOT NULL
);
"""


INDEXED = (
    ("edges", "child"),
    ("edges", "parent"),
    ("decisions", "sample_id"),
    ("scores", "sample_id"),
    ("dataset_samples", "sample_id"),
)


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """The first version: every table of the data model."""
    connection.execute(Path(__file__).with_name("tables.sql").read_text("utf-8"))


def add_source_positions(connection: duckdb.DuckDBPyConnection) -> None:
    """Where a section stands in its document: characters of the extracted text, and the page of a PDF."""
    for column in ("start_char BIGINT", "end_char BIGINT", "page INTEGER"):
        connection.execute(f"ALTER TABLE sources ADD COLUMN {column}")


def add_batches(connection: duckdb.DuckDBPyConnection) -> None:
    """What became of each batch of calls that was handed over as a file, to be collected later."""
    connection.execute(
        """CREATE TABLE batches (
            id VARCHAR NOT NULL,
            run_id VARCHAR NOT NULL,
            model_id VARCHAR NOT NULL,
            status VARCHAR NOT NULL,       -- prepared, submitted, collected, lost, done
            remote_id VARCHAR,             -- what the endpoint calls it
            num_requests BIGINT NOT NULL,
            detail JSON,
            created_at TIMESTAMPTZ NOT NULL
        )"""
    )


def add_conversations_of_items(connection: duckdb.DuckDBPyConnection) -> None:
    """What was said before an item's question: messages in order; NULL where it was asked by itself."""
    connection.execute("ALTER TABLE evaluation_items ADD COLUMN before JSON")


def add_lost_spend(connection: duckdb.DuckDBPyConnection) -> None:
    """What attempts of a call that ended without an answer can have cost at most, if they are billed."""
    for column in ("lost_tokens BIGINT", "lost_dollars DOUBLE"):
        connection.execute(f"ALTER TABLE calls ADD COLUMN {column}")


def add_reasons_of_scores(connection: duckdb.DuckDBPyConnection) -> None:
    """Why an item scores no more: in words, where the metric can tell; NULL elsewhere."""
    connection.execute("ALTER TABLE evaluation_items ADD COLUMN detail VARCHAR")


def add_refiner_evaluations(connection: duckdb.DuckDBPyConnection) -> None:
    """What the refiner made of drafts whose right answer is known, and the figures over them."""
    connection.execute(
        """CREATE TABLE refiner_evaluations (
            id VARCHAR PRIMARY KEY,        -- hash of run, model and what came of each draft
            run_id VARCHAR NOT NULL,
            model_id VARCHAR NOT NULL,
            num_drafts BIGINT NOT NULL,
            figures JSON NOT NULL,         -- overall and by kind of fault
            calibration JSON,              -- of the scores, NULL where there are too few
            created_at TIMESTAMPTZ NOT NULL
        );
        CREATE TABLE refiner_evaluation_items (
            evaluation_id VARCHAR NOT NULL,
            position BIGINT NOT NULL,      -- order of the drafts
            draft_key VARCHAR NOT NULL,
            kind VARCHAR NOT NULL,         -- of fault, 'ok' for a clean one
            section VARCHAR NOT NULL,      -- key of the source that it is about
            answer VARCHAR NOT NULL,       -- the draft
            expected VARCHAR,              -- the right answer, NULL where it had to go
            became VARCHAR,                -- what the step made of it, NULL where it dropped it
            action VARCHAR NOT NULL,       -- keep, rewrite, drop
            reason VARCHAR NOT NULL,
            refused VARCHAR,               -- why operations were refused, NULL where none were
            p_keep DOUBLE,                 -- probability of a clean answer, NULL where none was given
            call_id VARCHAR NOT NULL,
            PRIMARY KEY (evaluation_id, position)
        )"""
    )


def add_logprobs(connection: duckdb.DuckDBPyConnection) -> None:
    """The tokens of an answer with their probabilities; NULL where they were not asked for, or not given."""
    connection.execute("ALTER TABLE calls ADD COLUMN logprobs JSON")


def add_selections(connection: duckdb.DuckDBPyConnection) -> None:
    """What a dataset took of the samples of its round that passed, where these were more than it wanted."""
    connection.execute(
        """CREATE TABLE selections (
            dataset_id VARCHAR NOT NULL,
            sample_id VARCHAR NOT NULL,
            chosen BOOLEAN NOT NULL,
            reason VARCHAR NOT NULL,       -- chosen, near_chosen, outscored
            evidence JSON NOT NULL,        -- quality, difficulty, score, the nearest chosen sample
            PRIMARY KEY (dataset_id, sample_id)
        )"""
    )


def add_indexes_by_sample(connection: duckdb.DuckDBPyConnection) -> None:
    """What finds the history of one sample among millions: DuckDB looks into an index of one column only."""
    for table, column in INDEXED:
        connection.execute(f"CREATE INDEX {table}_by_{column} ON {table} ({column})")


def add_judgements_of_items(connection: duckdb.DuckDBPyConnection) -> None:
    """The judge's call that an item's score rests on; NULL where it was computed."""
    connection.execute("ALTER TABLE evaluation_items ADD COLUMN judge_call_id VARCHAR")


def add_training_steps(connection: duckdb.DuckDBPyConnection) -> None:
    """The learning curves of what was trained here; NULL is what a step did not log."""
    connection.execute(
        """CREATE TABLE training_steps (
            model_id VARCHAR NOT NULL,
            phase VARCHAR NOT NULL,        -- sft, dpo, kto
            step INTEGER NOT NULL,         -- of the optimiser in its phase; 0 is before the first
            epoch DOUBLE,
            loss DOUBLE,
            learning_rate DOUBLE,
            grad_norm DOUBLE,
            num_tokens BIGINT,
            dev_loss DOUBLE,
            PRIMARY KEY (model_id, phase, step)
        )"""
    )


def add_evaluations_by_hand(connection: duckdb.DuckDBPyConnection) -> None:
    """Evaluations that somebody asked for belong to no round: NULL."""
    connection.execute("ALTER TABLE evaluations ALTER COLUMN round DROP NOT NULL")


MIGRATIONS: tuple[Callable[[duckdb.DuckDBPyConnection], None], ...] = (
    create_tables,
    add_source_positions,
    add_batches,
    add_conversations_of_items,
    add_lost_spend,
    add_reasons_of_scores,
    add_refiner_evaluations,
    add_logprobs,
    add_embeddings,
    add_selections,
    add_indexes_by_sample,
    add_judgements_of_items,
    add_training_steps,
    add_evaluations_by_hand,
)
