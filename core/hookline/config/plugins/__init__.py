"""The name of a plugin -> a plugin whose options are known, checked against the hook specification."""
