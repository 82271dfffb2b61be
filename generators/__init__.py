"""Generation strategies: one a file, its prompt beside it. They know the core and nothing else."""
