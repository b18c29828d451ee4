"""Callbacks that change how a step is computed."""
