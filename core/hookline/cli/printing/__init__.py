"""Formatting of results for the terminal and as JSON."""
