"""The default callbacks that choose, average or freeze weights."""
