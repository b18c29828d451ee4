"""Data sources that read arrays."""
