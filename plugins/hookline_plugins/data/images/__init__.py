"""Images: found in folders or named in a table, read with Pillow, changed at random for training."""
