"""Analysis: closed forms and comparisons, computed from models and records."""
