"""The default plugins of Hookline. They use only the public doors of the framework."""
