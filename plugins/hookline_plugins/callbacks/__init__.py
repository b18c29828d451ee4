"""The default callbacks."""
