"""Data source ``texts``: texts with a label each, as tokens.

Shapes: ``B`` texts in a batch, ``T`` tokens in the longest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from hookline import DataSource, hookimpl
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.splits import (
    Fold,
    FoldSeed,
    Fractions,
    Key,
    SplitSeed,
    check_fold,
    check_fractions,
    chosen_rows,
    named,
    with_origins,
)
from hookline_plugins.data.text.labelled.reading import Labelled, TextFormat, read_labelled
from hookline_plugins.data.text.labelled.tokenizing import Tokenizer, make_tokenizer

if TYPE_CHECKING:
    from hookline import Predictor, RunView


NO_TOKENS = "the text has no tokens"


@dataclass
class Texts:
    """Texts to classify: a column of a CSV or Parquet file, or the ``.txt`` files in a folder for each class.

    An input is a mapping of ``input_ids`` and ``attention_mask``, int64 ``[B, T]``, padded to the longest text of the
    batch; a target is a class index. Tokens are words in lower case and punctuation marks, hashed to ``buckets`` ids as
    in fastText (Joulin et al. 2017, https://aclanthology.org/E17-2068); or bytes; or those of a ``tokenizer.json``,
    with its special tokens. The longest text has ``max_length`` tokens; the rest of a longer one is left out, with a
    warning. 512 is the length of BERT.

    Texts are split at random, or divided into folds, so that each split has the same shares of the classes. The classes
    are the sorted labels, or the names of the folders.
    """

    path: Annotated[Path, Meta(description="CSV or Parquet file; or a folder with a folder of .txt files per class")]
    text: Annotated[str, Meta(min_length=1, description="column with the texts")] = "text"
    target: Annotated[str, Meta(min_length=1, description="column with the labels")] = "label"
    pieces: Annotated[Literal["words", "bytes"], Meta(description="tokens without a tokenizer")] = "words"
    tokenizer: Annotated[Path | None, Meta(description="tokenizer.json, or a folder with one; instead of `pieces`")] = (
        None
    )
    buckets: Annotated[int, Meta(ge=1, le=2**31 - 2, description="number of ids for words")] = 2**15
    max_length: Annotated[int, Meta(ge=1, description="largest number of tokens of a text")] = 512
    split: Fractions = (1.0,)
    split_seed: SplitSeed = 0
    fold: Fold = ""
    fold_seed: FoldSeed = 0
    missing: Annotated[
        Literal["error", "drop"], Meta(description="rows without a text or a label: report an error, or leave them out")
    ] = "error"
    faulty: Annotated[
        Literal["error", "empty"],
        Meta(description="new texts that cannot be read: report an error, or leave their predictions empty"),
    ] = "error"
    delimiter: Annotated[
        str, Meta(min_length=1, max_length=1, description="character between the cells of a CSV file")
    ] = ","
    encoding: Annotated[str, Meta(description="encoding of text files, such as 'cp1252' or 'utf-16'")] = "utf-8"

    def __post_init__(self) -> None:
        check_fractions(self.split)
        check_fold(self.fold)
        if self.text == self.target:
            raise ValueError(f"`text` and `target` both name the column {self.text!r}")
        self._form.reading()  # a format that cannot be is refused
        self._notes: list[str] = []

    @property
    def _form(self) -> TextFormat:
        return TextFormat(self.text, self.target, self.delimiter, self.encoding)

    @hookimpl
    def build_data(self) -> DataSource:
        """Read, split and tokenize the texts."""
        faults = Faults(self.path)
        read = read_labelled(self.path, self._form, faults)
        used = self._usable(read)
        if len({read.labels[index] for index in used}) < 2:
            labels = ", ".join(map(repr, read.class_names)) or "none"
            faults.add(f"a classification needs at least two classes; the labels are: {labels}")
        read.check()
        tokenizer = make_tokenizer(self.pieces, self.tokenizer, self.buckets)
        ids = self._tokenized(read, used, tokenizer)
        read.check()

        import torch  # only now: bad texts are reported without waiting for torch

        from hookline_plugins.data.text.labelled.rows import TokenRows, joined

        targets = torch.tensor([read.labels[index] for index in used])
        shares = dict(zip(("validation", "test"), self.split[1:], strict=False))
        generator = torch.Generator().manual_seed(self.split_seed)
        classes = Key(self.target, targets, read.class_names)
        splits = chosen_rows(len(targets), shares, self, classes, generator, faults)
        read.check()
        tokens, starts, lengths = joined(ids)
        name, places = read.places
        parts = {
            split: with_origins(
                TokenRows(tokens, starts[rows], lengths[rows], targets[rows], tokenizer.pad),
                [places[used[row]] for row in rows.tolist()],
                name,
            )
            for split, rows in splits.items()
        }
        return DataSource(
            **named(parts),
            out_features=len(read.class_names),
            target_names=(self.target,),
            class_names=tuple(read.class_names),
            task="classification",
            kept={
                "vocab_size": tokenizer.vocab_size,
                "max_length": self.max_length,
                "tokenizer": tokenizer.digest,
            },
        )

    @hookimpl
    def build_predictor(self, data: DataSource) -> Predictor:
        """Read new texts with the same tokenizer."""
        from hookline_plugins.data.text.labelled.predictor import TextPredictor

        tokenizer = make_tokenizer(self.pieces, self.tokenizer, self.buckets)
        return TextPredictor(data, self._form, tokenizer, self.max_length, leaves_empty=self.faulty == "empty")

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Warn of texts that were cut or left out."""
        for note in self._notes:
            run.warn(note)

    def _usable(self, read: Labelled) -> list[int]:
        """Return the indices of the texts that can be used; those of the others are faults, unless they are dropped."""
        without = {
            self.text: [index for index, text in enumerate(read.texts) if text == ""],
            self.target: [index for index, label in enumerate(read.labels) if label is None],
        }
        if self.missing == "error":
            for column, indices in without.items():
                read.refuse(indices, column, "it is empty", "to leave out such rows, set `missing` to 'drop'")
            return list(range(len(read.texts)))
        dropped = {index for indices in without.values() for index in indices}
        if dropped:
            self._notes.append(f"{_count(dropped)} no text or no label, and cannot be used: {self.path.name}")
        return [index for index in range(len(read.texts)) if index not in dropped]

    def _tokenized(self, read: Labelled, used: Sequence[int], tokenizer: Tokenizer) -> list[Sequence[int]]:
        """Return the ids of the tokens of each text; one without any is a fault."""
        found = [tokenizer(read.texts[index] or "", self.max_length) for index in used]
        without = [index for index, tokens in zip(used, found, strict=True) if not tokens.ids and read.texts[index]]
        read.refuse(without, self.text, NO_TOKENS, "leave it out")
        if cut := [tokens for tokens in found if tokens.is_cut]:
            limit = f"more than {self.max_length:,} tokens (data.max_length), and the rest is left out"
            self._notes.append(f"{_count(cut)} {limit}: {self.path.name}")
        return [tokens.ids for tokens in found]


def _count(texts: Sequence[object] | set[int]) -> str:
    return "1 text has" if len(texts) == 1 else f"{len(texts):,} texts have"
