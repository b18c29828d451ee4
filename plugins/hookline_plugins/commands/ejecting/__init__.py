"""A run as a plain PyTorch script, and the proof that the script computes the same."""
