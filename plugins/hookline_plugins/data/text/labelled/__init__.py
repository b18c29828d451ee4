"""Texts with a label each: their files, tokens and predictions."""
