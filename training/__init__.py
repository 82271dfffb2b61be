"""Training, evaluation and the gate. They know the core and nothing else; heavy imports stay in functions."""
