"""The name of a plugin -> an object whose hooks are called."""
