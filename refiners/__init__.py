"""Refiners: one decision a file. They know the core and nothing else."""
