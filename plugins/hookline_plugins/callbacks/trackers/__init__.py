"""Callbacks that send a run to a tracker, each with its package as an extra."""
