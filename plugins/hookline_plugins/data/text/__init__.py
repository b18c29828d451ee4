"""Data sources of texts: a corpus for language models, and labelled texts."""
