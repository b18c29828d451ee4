"""Cross-validation: the folds of a run, their training, and what they measure."""
