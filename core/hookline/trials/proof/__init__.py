"""Proof that a killed and resumed run equals one that was never killed."""
