"""The data source ``text``: files of text as tokens, for language models."""
