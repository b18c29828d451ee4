"""Run the command ``hookline`` as ``python -m hookline``."""

from hookline.cli import main

main()
