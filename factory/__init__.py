"""The core of the dataset factory: values, store, loop, models and command line."""

__version__ = "0.1.0"
