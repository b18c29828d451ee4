"""Compare the CPU time of reading a table with that of polars alone.

Run it from anywhere: ``python tests/benchmarks/table_time.py [ROWS [COLUMNS]]``. It writes a CSV file of numbers into a
temporary folder, reads it several times in turns, and prints the smallest CPU times and their ratio.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from hookline_plugins.data.tables.table import Table

BOUND = 2.5
"""Ratio that reading, splitting and scaling may take."""


def cpu_time(call: Callable[[], object]) -> float:
    """Return the CPU time of a call in seconds, of all threads."""
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> int:
    """Print the times; return 1 if the ratio is above its bound."""
    num_rows, num_columns = (int(word) for word in (*sys.argv[1:], "1000000", "20")[:2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        rng = np.random.default_rng(0)
        pl.DataFrame({f"x{n}": rng.normal(size=num_rows) for n in range(num_columns)}).write_csv(path)
        table = Table(path, "x0", split=(0.8, 0.2), standardize=True, standardize_target=True)
        times = [(cpu_time(lambda: pl.read_csv(path)), cpu_time(table.build_data)) for _ in range(4)]
    alone, whole = (min(column) for column in zip(*times[1:], strict=True))
    ratio = whole / alone
    print(f"{num_rows:,} rows of {num_columns} columns: polars {alone:.2f} s, csv {whole:.2f} s of CPU time")
    print(f"{'ok' if ratio <= BOUND else 'MISS'}: ratio {ratio:.2f}, at most {BOUND}")
    return int(ratio > BOUND)


if __name__ == "__main__":
    sys.exit(main())
