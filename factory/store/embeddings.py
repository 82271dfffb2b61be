"""The table of rows that embedding models at endpoints gave for texts, and the two questions asked of it.

A row is named by the hash of model and text. Which texts are embedded, and by whom, is not known here.
"""

from __future__ import annotations

from typing import Final

import duckdb

KNOWN: Final = "SELECT id FROM embeddings WHERE model_id = ?"
FIND: Final = "SELECT id, vector FROM embeddings WHERE id = ANY(?)"


def add_embeddings(connection: duckdb.DuckDBPyConnection) -> None:
    """The rows that embedding models at endpoints gave for texts."""
    connection.execute(
        """CREATE TABLE embeddings (
            id VARCHAR PRIMARY KEY,        -- hash of model and text
            model_id VARCHAR NOT NULL,
            call_id VARCHAR NOT NULL,      -- the call that paid for it
            vector FLOAT[] NOT NULL        -- of unit length
        )"""
    )
