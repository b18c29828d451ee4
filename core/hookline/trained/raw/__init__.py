"""Predictions with an exported model: its file, files of inputs, no plugin and no torch."""
