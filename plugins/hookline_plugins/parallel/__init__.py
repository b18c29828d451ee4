"""Strategies by which several ranks train one model."""
