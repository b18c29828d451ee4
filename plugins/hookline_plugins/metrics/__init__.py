"""Metrics and the callback that measures them."""
