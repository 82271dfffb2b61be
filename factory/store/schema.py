"""The tables, as migrations in order, each applied and recorded in one transaction.

Append-only: rows are inserted and never changed. What looks like a state (a round's stage, the
promoted adapter) is the newest of its events. Views live in views.sql and are made anew at each
opening. docs/schema.md explains every column and is compared with this file by a test.
"""

from __future__ import annotations

from collections.abc import Callable

import duckdb

from factory.store.embeddings import add_embeddings

TABLES = """
CREATE TABLE runs (
    id VARCHAR PRIMARY KEY,            -- 'run_', hash of recipe, material and models, and the control's name
    recipe VARCHAR NOT NULL,           -- recipe name
    control VARCHAR,                   -- name of the control, NULL for the run proper
    digest VARCHAR NOT NULL,           -- recipe digest
    config JSON NOT NULL,              -- the recipe as loaded, profile laid over
    version VARCHAR NOT NULL,          -- version of dataset-factory
    started_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE stages (
    run_id VARCHAR NOT NULL,
    round INTEGER NOT NULL,            -- 0: before the first round
    stage VARCHAR NOT NULL,            -- allocate, generate, refine, freeze, guard, train, evaluate, promote
    status VARCHAR NOT NULL,           -- started, done, failed
    detail JSON,                       -- what the stage decided, or the error
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE sources (
    id VARCHAR PRIMARY KEY,            -- hash of key and text
    key VARCHAR NOT NULL,              -- stable over editions
    path VARCHAR NOT NULL,
    citation VARCHAR NOT NULL,
    title VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    slice VARCHAR NOT NULL
);
CREATE TABLE seeds (
    id VARCHAR PRIMARY KEY,
    key VARCHAR NOT NULL,
    prompt VARCHAR NOT NULL,
    slice VARCHAR NOT NULL,
    source_key VARCHAR
);
CREATE TABLE models (
    id VARCHAR PRIMARY KEY,            -- hash of weights and adapter, or of endpoint and name
    role VARCHAR NOT NULL,             -- teacher, refiner, judge, student
    name VARCHAR NOT NULL,             -- as served
    base VARCHAR NOT NULL,             -- folder, hub name or endpoint
    adapter VARCHAR,                   -- folder of the adapter
    adapter_digest VARCHAR,
    dataset_id VARCHAR,                -- what it was trained on here
    run_id VARCHAR,
    round INTEGER,
    training JSON,                     -- options, steps, loss, seconds
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE calls (
    id VARCHAR NOT NULL,               -- hash of model, messages, schema, sampling and ordinal
    run_id VARCHAR NOT NULL,           -- the run that paid for it
    round INTEGER NOT NULL,
    stage VARCHAR NOT NULL,            -- generate, refine, evaluate
    role VARCHAR NOT NULL,
    model_id VARCHAR NOT NULL,
    request JSON NOT NULL,
    response VARCHAR,                  -- answer text, NULL if failed
    reasoning VARCHAR,
    status VARCHAR NOT NULL,           -- ok, failed
    error VARCHAR,                     -- EndpointError.kind, where failed
    finish_reason VARCHAR,
    attempts INTEGER NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    latency_ms DOUBLE NOT NULL,
    cost_dollars DOUBLE NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX calls_by_id ON calls (id);
CREATE TABLE samples (
    id VARCHAR PRIMARY KEY,
    run_id VARCHAR NOT NULL,           -- the run that made it first
    round INTEGER NOT NULL,
    strategy VARCHAR NOT NULL,         -- of the generator at the root of its lineage
    operation VARCHAR NOT NULL,        -- grounded, seeded, paraphrase, edit, rewrite …
    slice VARCHAR NOT NULL,
    question VARCHAR NOT NULL,
    answer VARCHAR NOT NULL,
    messages JSON NOT NULL,
    attributes JSON NOT NULL,
    content_hash VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE round_samples (
    run_id VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    position BIGINT NOT NULL,          -- order of the plan, in which samples are refined
    sample_id VARCHAR NOT NULL,        -- as generated; a stored answer can serve several runs
    PRIMARY KEY (run_id, round, position)
);
CREATE TABLE edges (
    child VARCHAR NOT NULL,
    parent VARCHAR NOT NULL,           -- id of a seed, source, call or sample
    relation VARCHAR NOT NULL,         -- seed, source, call, rewrite_of, derived_from
    PRIMARY KEY (child, parent, relation)
);
CREATE TABLE scores (
    run_id VARCHAR NOT NULL,
    sample_id VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    value DOUBLE,                      -- NULL: should have been scored and failed
    scorer VARCHAR NOT NULL,
    model_id VARCHAR,
    PRIMARY KEY (run_id, sample_id, metric, scorer)
);
CREATE TABLE decisions (
    run_id VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    sample_id VARCHAR NOT NULL,
    step INTEGER NOT NULL,             -- position in the recipe's list of refiners
    refiner VARCHAR NOT NULL,
    action VARCHAR NOT NULL,           -- keep, rewrite, drop
    reason VARCHAR NOT NULL,
    evidence JSON NOT NULL,
    rewrite_id VARCHAR,                -- the sample that takes its place
    final BOOLEAN NOT NULL,            -- the one that settles the sample in this run
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (run_id, sample_id, step)
);
CREATE TABLE verdicts (
    sample_id VARCHAR NOT NULL,
    reviewer VARCHAR NOT NULL,
    action VARCHAR NOT NULL,           -- keep, edit, drop, withdrawn
    reason VARCHAR NOT NULL,
    corrected VARCHAR,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE datasets (
    id VARCHAR PRIMARY KEY,            -- hash of run, round and the sample contents in order
    run_id VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    num_samples BIGINT NOT NULL,
    guards JSON NOT NULL,              -- measures that were taken before training
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE dataset_samples (
    dataset_id VARCHAR NOT NULL,
    sample_id VARCHAR NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (dataset_id, sample_id)
);
CREATE TABLE evaluations (
    id VARCHAR PRIMARY KEY,            -- hash of run, round and split
    run_id VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    model_id VARCHAR NOT NULL,
    split VARCHAR NOT NULL,            -- dev, test
    metric VARCHAR NOT NULL,
    num_items BIGINT NOT NULL,
    mean DOUBLE NOT NULL,
    low DOUBLE NOT NULL,               -- 95 % interval
    high DOUBLE NOT NULL,
    compared_with VARCHAR,             -- model in charge before
    comparison JSON,                   -- gain, bounds, p-value, verdict of the gate
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE evaluation_items (
    evaluation_id VARCHAR NOT NULL,
    item_key VARCHAR NOT NULL,
    slice VARCHAR NOT NULL,
    cluster VARCHAR NOT NULL,
    question VARCHAR NOT NULL,
    expected VARCHAR NOT NULL,
    answer VARCHAR NOT NULL,
    score DOUBLE NOT NULL,
    call_id VARCHAR NOT NULL,
    PRIMARY KEY (evaluation_id, item_key)
);
"""


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
    connection.execute(TABLES)


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
)
