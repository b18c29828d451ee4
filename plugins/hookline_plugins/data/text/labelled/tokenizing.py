"""Tokenizers: texts as lists of token ids, made from words or bytes, or by a ``tokenizer.json``."""

from __future__ import annotations

import hashlib
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from hookline import ConfigError
from hookline_plugins.optional import optional_package

if TYPE_CHECKING:
    from collections.abc import Sequence


FILE = "tokenizer.json"
_WORD = re.compile(r"\w+|[^\w\s]")
_PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<|endoftext|>", "</s>")
"""Tokens for padding in the tokenizers of BERT, RoBERTa, Phi, GPT-NeoX and GPT-2, in the order of preference. The mask
of a batch leaves them out, so any token would do."""


class Tokens(NamedTuple):
    """The tokens of a text.

    Attributes:
        ids: Their ids.
        is_cut: Whether the text has more of them.
    """

    ids: Sequence[int]
    is_cut: bool


class Tokenizer(Protocol):
    """Makes tokens from texts.

    Attributes:
        vocab_size: Number of different ids, with that for padding.
        pad: Id for padding.
        digest: Fingerprint: two with the same make the same tokens.
    """

    vocab_size: int
    pad: int
    digest: str

    def __call__(self, text: str, max_length: int) -> Tokens:
        """Return the first ``max_length`` tokens of a text."""


class Words:
    r"""Words in lower case, and single punctuation marks, each hashed to one of ``buckets`` ids from 1.

    >>> Words(100)("It's", 3) == Words(100)("it ' s!", 3)._replace(is_cut=False)
    True
    """

    pad = 0

    def __init__(self, buckets: int) -> None:
        self.vocab_size = buckets + 1
        self.digest = f"words {buckets}"
        self._known: dict[str, int] = {}

    def __call__(self, text: str, max_length: int) -> Tokens:
        """Return the ids of the first words."""
        words = _WORD.findall(text.lower())
        for word in set(words[:max_length]).difference(self._known):  # `- keys()` would copy all known ones
            # Not Python's hash, which differs from process to process.
            self._known[word] = 1 + zlib.crc32(word.encode(errors="surrogatepass")) % (self.vocab_size - 1)
        return Tokens([self._known[word] for word in words[:max_length]], len(words) > max_length)


class Bytes:
    """The bytes of a text in UTF-8, plus 1.

    >>> Bytes()("abc", 2)
    Tokens(ids=[98, 99], is_cut=True)
    """

    vocab_size, pad, digest = 257, 0, "bytes"

    def __call__(self, text: str, max_length: int) -> Tokens:
        """Return the ids of the first bytes."""
        data = text.encode(errors="surrogatepass")
        return Tokens([byte + 1 for byte in data[:max_length]], len(data) > max_length)


class FromFile:
    """The tokenizer in a ``tokenizer.json``, as the package ``tokenizers`` reads it.

    Args:
        path: The file, or a folder with it.

    Raises:
        ConfigError: If it cannot be read.
        PluginError: If the package is not installed.
    """

    def __init__(self, path: Path) -> None:
        tokenizers = optional_package("tokenizers", "reading a tokenizer needs")
        path = path / FILE if path.is_dir() else path
        try:
            data = path.read_bytes()
            self._tokenizer: Any = tokenizers.Tokenizer.from_buffer(data)
        except FileNotFoundError as error:
            hint = f"nothing is downloaded: name a folder on this machine with a {FILE}"
            raise ConfigError(f"there is no tokenizer {path}", hint=hint) from error
        except Exception as error:  # the package raises Exception itself
            raise ConfigError(
                f"{path} is not a tokenizer: {error}", hint="save it again with save_pretrained"
            ) from error
        self._tokenizer.no_padding()
        self._max_length = 0
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        found = (self._tokenizer.token_to_id(token) for token in _PADDING)
        self.pad = next((token for token in found if token is not None), 0)
        self.digest = hashlib.sha256(data).hexdigest()

    def __call__(self, text: str, max_length: int) -> Tokens:
        """Return the first ids, with the special tokens that the tokenizer adds at both ends."""
        if max_length != self._max_length:
            self._max_length = max_length
            self._tokenizer.enable_truncation(max_length)
        # One at a time: a batch would start threads, which a process with workers must not have.
        found = self._tokenizer.encode(text)
        return Tokens(found.ids, bool(found.overflowing))


def make_tokenizer(pieces: Literal["words", "bytes"], path: Path | None, buckets: int) -> Tokenizer:
    """Return the tokenizer that the options of a data source describe.

    Raises:
        ConfigError: If its file cannot be read.
        PluginError: If a package for it is not installed.
    """
    if path is not None:
        return FromFile(path)
    return Words(buckets) if pieces == "words" else Bytes()
