"""The formats of ``hookline export``."""
