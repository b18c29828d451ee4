"""Parts that the callbacks share. None of them is a plugin."""
