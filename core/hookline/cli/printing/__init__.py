"""Values -> the text that a command prints."""
