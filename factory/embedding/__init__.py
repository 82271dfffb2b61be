"""Texts as vectors: the bundled embedder, a local model, an endpoint."""
