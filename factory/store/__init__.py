"""The DuckDB store: one writer, append-only, open to SQL."""
