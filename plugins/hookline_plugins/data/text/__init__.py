"""The data source ``corpus``: files of text as tokens, for language models."""
