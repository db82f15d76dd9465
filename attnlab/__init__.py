"""attnlab: take attention out of a Transformer, put something else in, and see what happens."""

__version__ = "0.1.0"
