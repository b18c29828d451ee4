"""Run the command ``hookline`` as ``python -m hookline``."""

import sys

if not sys.flags.safe_path:
    # Python puts the folder at work first, where a file like json.py would be imported instead of the library.
    del sys.path[0]

from hookline.cli import main

main()
