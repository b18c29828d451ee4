"""The default plugins of Hookline. They use nothing but the framework's public door."""
