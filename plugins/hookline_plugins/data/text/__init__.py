"""Data sources of texts."""
