"""Config of a first language model on a text, which ``hookline init`` writes for a file, and its reasons."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hookline_plugins.data.faults import Faults
from hookline_plugins.data.tables.starting.starter import Starter, seen_from
from hookline_plugins.data.text.documents import Document, find_documents

_BATCH_SIZE = 12
_CONTEXT = 64
_NUM_STEPS = 2000
"""Sizes of nanoGPT's example for a CPU, https://github.com/karpathy/nanoGPT; so are the options of the optimizer."""
_MIN_BYTES = 20 * _CONTEXT
"""Shorter texts have no validation split."""
_EVALUATIONS = 8


def is_text(path: Path) -> bool:
    """Return whether a path is that of a text, or of a folder with texts."""
    return path.suffix.lower() in (".txt", ".md") or (path.is_dir() and any(path.glob("*.txt")))


def from_text(path: Path, folder: Path) -> Starter:
    """Return a config in ``folder`` that trains a small language model on the texts at ``path``.

    Raises:
        DataError: If the texts cannot be used; carries every fault.
    """
    faults = Faults(path)
    documents = find_documents(path, None, faults)
    for document in documents:
        for _ in document.pieces(faults):
            pass
    faults.check()
    return Starter(_tables(documents, seen_from(folder, path)), *_notes(documents))


def _tables(documents: list[Document], path: str) -> dict[str, dict[str, Any]]:
    data: dict[str, Any] = {"use": "corpus", "path": path, "context": _CONTEXT}
    num_bytes = _num_bytes(documents)
    if num_bytes >= _MIN_BYTES:
        data["split"] = [0.9, 0.1]
    per_epoch = math.ceil(num_bytes * data.get("split", [1.0])[0] / _CONTEXT / _BATCH_SIZE)
    train: dict[str, Any] = {"epochs": math.ceil(_NUM_STEPS / per_epoch), "batch_size": _BATCH_SIZE}
    train |= {"max_steps": _NUM_STEPS, "evaluate_every_steps": _NUM_STEPS // _EVALUATIONS, "eval_batch_size": 64}
    if "split" in data:
        train["evaluate"] = ["validation"]
    return {
        "train": train,
        "data": data,
        "model": {"use": "gpt"},
        "loss": {"use": "cross-entropy"},
        "optimizer": {"use": "adamw", "lr": 1e-3, "betas": [0.9, 0.99], "weight_decay": 0.1},
        "callbacks": {
            "lr-schedule": {"interval": "step", "warmup_steps": 100, "arguments": {"eta_min": 1e-4}},
            "clip-gradients": {"max_norm": 1.0},
            "metrics": {"metrics": ["perplexity"]},
            "samples": {},
        },
    }


def _notes(documents: list[Document]) -> tuple[list[str], list[str]]:
    """Return the remarks and the warnings."""
    num_bytes, count = _num_bytes(documents), len(documents)
    texts = "1 text" if count == 1 else f"{count:,} texts"
    remarks = [
        f"{texts} of {num_bytes:,} bytes in all: a language model learns to predict the next token",
        'tokens are bytes; data.tokenizer = "bpe" learns longer ones, with the extra tokenizers',
    ]
    if num_bytes < _MIN_BYTES:
        return remarks, [f"{num_bytes:,} bytes are too few for a validation split"]
    return [*remarks, "the last tenth is the validation split"], []


def _num_bytes(documents: list[Document]) -> int:
    return sum(document.stop - document.start for document in documents)
