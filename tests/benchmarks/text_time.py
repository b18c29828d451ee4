"""CPU time of reading texts in a column of a CSV file, beside a loop written by hand, in pairs.

Run it with ``python tests/benchmarks/text_time.py``; it needs polars. The file has 100,000 texts of 20 random words.
``texts`` and the loop read it, split the texts into words and give each word a number; ``corpus`` reads it as bytes for
a language model, the first time and with the file of tokens of an earlier run. Ratios are medians over the pairs.
"""

from __future__ import annotations

import random
import re
import statistics
import string
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch

import hookline

NUM_TEXTS, NUM_WORDS, VOCABULARY, PAIRS = 100_000, 20, 5_000, 3


def write_texts(path: Path) -> None:
    """Write texts of random words, in two classes."""
    rng = random.Random(0)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) for _ in range(VOCABULARY)]
    texts = [" ".join(rng.choices(words, k=NUM_WORDS)) for _ in range(NUM_TEXTS)]
    pl.DataFrame({"text": texts, "label": rng.choices("ab", k=NUM_TEXTS)}).write_csv(path)


def by_hand(path: Path) -> list[list[int]]:
    """Return the numbers of the words of each text."""
    known: dict[str, int] = {}
    texts = pl.read_csv(path)["text"].to_list()
    return [[known.setdefault(word, len(known)) for word in re.findall(r"\w+|[^\w\s]", one.lower())] for one in texts]


def cpu_time(work: Callable[[], Any]) -> float:
    """Return the CPU time of a call in seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    texts, corpus = (hookline.Catalog.installed().find("data", name).load() for name in ("texts", "corpus"))
    with tempfile.TemporaryDirectory() as name:
        path, folder = Path(name) / "texts.csv", Path(name)
        write_texts(path)

        def read_corpus(number: int) -> None:
            corpus(path=path, column="text", cache=folder / str(number)).build_data()

        made = [
            (
                cpu_time(texts(path=path, target="label", split=(0.9, 0.1)).build_data),
                cpu_time(partial(by_hand, path)),
                cpu_time(partial(read_corpus, number)),
                cpu_time(partial(read_corpus, number)),
            )
            for number in range(PAIRS)
        ]
        size = path.stat().st_size / 1e6
    print(f"{NUM_TEXTS:,} texts, {size:.1f} MB; seconds of CPU, medians of {PAIRS}")
    for what, seconds in zip(("texts", "by hand", "corpus", "corpus, again"), zip(*made, strict=True), strict=True):
        print(f"{what:14} {statistics.median(seconds):6.2f} s")
    print(f"texts / by hand: {statistics.median(own / other for own, other, *_ in made):.2f}")


if __name__ == "__main__":
    main()
