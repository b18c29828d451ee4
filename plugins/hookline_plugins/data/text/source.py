"""Data source ``corpus``: files of text as windows of tokens, each with the tokens that follow.

Shapes: ``T`` tokens in a window.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import DataSource, hookimpl
from hookline_plugins.caches import cache_folder
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.splits import STANDARD, check_fractions
from hookline_plugins.data.text.documents import Document, find_documents, split_documents
from hookline_plugins.data.text.packing import Splits, pack
from hookline_plugins.data.text.tokens import Bytes, Characters, Kind, Library, Tokenizer, tokenizer_of_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.utils.data import Dataset

    from hookline import Predictor, RunView
    from hookline.sections import Section


NewTokens = Annotated[int, Meta(ge=1, description="number of tokens to add to a prompt")]
Temperature = Annotated[
    float, Meta(ge=0, description="divisor of the logits when a token is drawn; 0: the most probable token")
]
TopK = Annotated[int, Meta(ge=0, description="number of most probable tokens to draw from; 0: all")]

_LOGIT_BYTES = 4
"""Bytes of a logit in float32."""
_MOST_BYTES = 2**30
"""Bytes of the logits of an evaluation above which a run warns: little beside those of a computer of today."""
_PROMPT = 32
"""Tokens of a text that a report lets the model continue."""


@dataclass
class Corpus:
    r"""Texts, for a language model: windows of ``context`` tokens, each with the tokens that follow.

    The texts are a file, the ``.txt`` files of a folder, or the files of a pattern such as ``texts/*.md``, in UTF-8; or
    a column of a CSV or Parquet file, of which each cell is a text. Texts are put one after the other, with the token
    ``<|endoftext|>`` between them if the tokenizer has it, and are split by position: the last part is the validation
    split. Inputs and targets are int64 ``[T]``; targets that do not count are -100. Windows follow each other without
    a gap, and the last one is filled up. ``\r\n`` is read as ``\n``.

    Tokens are bytes (257 with the token between texts), characters of the training split, a byte-level BPE of
    ``vocabulary`` tokens trained on the training split, or those of a JSON file of the package ``tokenizers``. They are
    written to ``cache`` once, as uint16 or int32 in a file whose name is a hash of texts and tokenizer, and are read
    from there batch by batch. The folder may be deleted when no run uses it.

    ``hookline predict`` continues the prompts in a file, one in each line, or in the column of a table. The defaults
    for that are those of ``sample.py`` in https://github.com/karpathy/nanoGPT; ``context`` is that of its example for
    a CPU.
    """

    path: Annotated[Path, Meta(description="file, folder of .txt files, or pattern such as 'texts/*.md'")]
    column: Annotated[str | None, Meta(description="column with the texts, of a CSV or Parquet file")] = None
    validation: Annotated[Path | None, Meta(description="texts of the validation split, like `path`")] = None
    test: Annotated[Path | None, Meta(description="texts of the test split, like `path`")] = None
    split: Annotated[
        tuple[Annotated[float, Meta(gt=0, le=1)], ...],
        Meta(
            min_length=1, max_length=3, description="fractions of the texts for train, validation and test, by position"
        ),
    ] = (1.0,)
    tokenizer: Annotated[Kind, Meta(description="kind of tokens")] = "bytes"
    vocabulary: Annotated[int, Meta(ge=257, le=2**31 - 1, description="number of tokens of 'bpe'")] = 4096
    tokenizer_file: Annotated[
        Path | None, Meta(description="JSON file of the package tokenizers, instead of `tokenizer`")
    ] = None
    context: Annotated[int, Meta(ge=1, description="tokens in a window")] = 64
    stride: Annotated[
        int, Meta(ge=0, description="tokens from one training window to the next; 0: `context`, without overlap")
    ] = 0
    cache: Annotated[
        Path | None,
        Meta(description="folder for the files of tokens; default: hookline/tokens in the user's folder for caches"),
    ] = None
    new_tokens: NewTokens = 100
    temperature: Temperature = 0.8
    top_k: TopK = 200
    sampling_seed: Annotated[int, Meta(ge=0, description="seed of the tokens that are drawn in predictions")] = 0

    def __post_init__(self) -> None:
        check_fractions(self.split)
        if len(self.split) > 1 and (self.validation or self.test):
            raise ValueError("`split` divides the texts of `path`, but `validation` or `test` names others")
        if self.stride > self.context:
            raise ValueError(f"with `stride` = {self.stride} > `context` = {self.context}, tokens would be left out")

    @hookimpl
    def build_data(self) -> DataSource:
        """Find the texts, and tokenize them unless that has been done."""
        faults = Faults(self.path)
        splits = self._documents(faults)
        packed = pack(
            splits,
            lambda faults: self._tokenizer(splits["train"], faults),
            self._given(),
            self.cache or cache_folder("tokens"),
            faults,
        )
        for split, tokens in packed.tokens.items():
            if tokens.shape[0] < 2:
                faults.add(f"the {split} split has {tokens.shape[0]} tokens, but a window needs 2")
        faults.check()

        from hookline_plugins.data.text.windows import Windows

        datasets: dict[str, Dataset[Any]] = {
            split: Windows(
                tokens, self.context, self.stride if split == "train" and self.stride else self.context, packed.key
            )
            for split, tokens in packed.tokens.items()
        }
        return DataSource(
            datasets["train"],
            datasets.get("validation"),
            datasets.get("test"),
            out_features=packed.tokenizer.size,
            task="classification",
            kept={"context": self.context, "tokenizer": packed.tokenizer.kept()},
        )

    @hookimpl
    def on_model_built(self, run: RunView) -> None:
        """Warn of an evaluation whose logits would take much memory."""
        size, vocabulary = run.config.train.eval_batch_size, run.data.out_features or 0
        one = self.context * vocabulary * _LOGIT_BYTES
        if size * one > _MOST_BYTES:
            what = f"the logits of an evaluation of {size:,} windows with {vocabulary:,} tokens"
            run.warn(f"{what} take {size * one / 2**30:.1f} GiB: set train.eval_batch_size = {_MOST_BYTES // one or 1}")

    @hookimpl
    def build_predictor(self, run: RunView, data: DataSource) -> Predictor:
        """Continue prompts with the model of the run."""
        from hookline_plugins.data.text.predictor import TextPredictor
        from hookline_plugins.data.text.sampling import Sampling

        sampling = Sampling(self.new_tokens, self.temperature, self.top_k)
        return TextPredictor(run, data, self.column, sampling, self.sampling_seed)

    @hookimpl
    def build_report(self, run: RunView, split: str) -> list[Section]:
        """Show texts that the model writes: a new one, and continuations of the split."""
        from hookline.sections import Text
        from hookline_plugins.data.text.sampling import Sampling, continued
        from hookline_plugins.data.text.tokens import tokenizer_from

        tokenizer, context = tokenizer_from(run.data.kept["tokenizer"]), run.data.kept["context"]
        windows: Any = run.data.splits()[split]
        starts = [tokenizer.decode(windows[number][0].tolist()[:_PROMPT]) for number in range(min(len(windows), 2))]
        prompts = ["", *starts]
        sampling = Sampling(self.new_tokens, self.temperature, self.top_k)
        written = continued(run, tokenizer, context, prompts, sampling, self.sampling_seed)
        shown = [f"{prompt}▸{text}" for prompt, text in zip(prompts, written, strict=True)]
        note = f"After the mark ▸, the model writes. What stands before it is from the {split} split."
        return [Text(title="Texts of the model", paragraphs=shown, note=note)]

    def _documents(self, faults: Faults) -> Splits:
        documents = find_documents(self.path, self.column, faults)
        splits = dict(zip(STANDARD, split_documents(documents, self.split), strict=False))
        for split, path in (("validation", self.validation), ("test", self.test)):
            if path:
                splits[split] = find_documents(path, self.column, Faults(path))
        return splits

    def _given(self) -> list[Any]:
        """Return plain values that the tokenizer depends on, besides the texts."""
        if self.tokenizer_file:
            try:
                return ["file", hashlib.sha256(self.tokenizer_file.read_bytes()).hexdigest()]
            except OSError as error:
                Faults(self.tokenizer_file).stop(str(error))
        return [self.tokenizer, self.vocabulary if self.tokenizer == "bpe" else None]

    def _tokenizer(self, documents: Sequence[Document], faults: Faults) -> Tokenizer:
        if self.tokenizer_file:
            return tokenizer_of_file(self.tokenizer_file, Faults(self.tokenizer_file))
        if self.tokenizer == "bytes":
            return Bytes()
        texts = _texts(documents, faults)
        return Characters.of(texts) if self.tokenizer == "characters" else Library.trained(texts, self.vocabulary)


def _texts(documents: Sequence[Document], faults: Faults) -> Iterator[str]:
    for document in documents:
        yield from document.pieces(faults)
