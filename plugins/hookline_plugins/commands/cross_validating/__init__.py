"""Parts of the command ``cv``."""
