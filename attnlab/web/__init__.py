"""Trained models that run in a page: their weights as text, and pages that need no kernel."""

from attnlab.web.export import export_model, export_models
from attnlab.web.pages import take_attention_out, write_a_tale, write_pages

__all__ = ["export_model", "export_models", "take_attention_out", "write_a_tale", "write_pages"]
