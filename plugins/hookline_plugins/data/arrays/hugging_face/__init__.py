"""Datasets of the package ``datasets`` on disk."""
