"""Tokenizers: text to the numbers of tokens, and back.

Bytes and characters need no other package; ``bpe`` and tokenizer files need the extra ``tokenizers``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from hookline import DataError
from hookline_plugins.optional import optional_package

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hookline_plugins.data.faults import Faults


END_OF_TEXT = "<|endoftext|>"
"""Name of the token between two documents, as in GPT-2."""
_UNKNOWN = "\ufffd"

Kind = Literal["bytes", "characters", "bpe"]


class Tokenizer(Protocol):
    """Maps text to tokens, and back."""

    size: int
    """Number of tokens."""
    end: int | None
    """The token between two documents; None if there is none."""

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Return the tokens of each text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without that between documents."""

    def kept(self) -> dict[str, Any]:
        """Return plain values from which ``tokenizer_from`` makes it again."""


class Bytes:
    """The 256 bytes of UTF-8, and a token between documents.

    >>> tokenizer = Bytes()
    >>> tokenizer.encode(["hé"])[0].tolist(), tokenizer.decode([104, 195, 169, 256])
    ([104, 195, 169], 'hé')
    """

    size = 257
    end: int | None = 256

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Return the bytes of each text."""
        import numpy as np

        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of bytes; those that are not UTF-8 become U+FFFD."""
        return bytes(token for token in tokens if token < 256).decode(errors="replace")

    def kept(self) -> dict[str, Any]:
        """Return the kind."""
        return {"kind": "bytes"}


class Characters:
    """The characters of the training texts, a token for any other one, and a token between documents.

    Args:
        alphabet: The characters, sorted.

    >>> tokenizer = Characters("abc")
    >>> tokenizer.encode(["cab!"])[0].tolist(), tokenizer.decode([2, 0, 3, 4])
    ([2, 0, 1, 3], 'ca\ufffd')
    """

    def __init__(self, alphabet: str) -> None:
        self._alphabet = alphabet
        self._codes = _codes(alphabet)
        self.size = len(alphabet) + 2
        self.end: int | None = len(alphabet) + 1

    @classmethod
    def of(cls, texts: Iterable[str]) -> Characters:
        """Return the characters of texts."""
        found: set[str] = set()
        for text in texts:
            found.update(text)
        return cls("".join(sorted(found)))

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Return the number of each character."""
        return [self._encoded(_codes(text)) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the characters."""
        return "".join((self._alphabet + _UNKNOWN)[token] for token in tokens if token <= len(self._alphabet))

    def kept(self) -> dict[str, Any]:
        """Return the alphabet."""
        return {"kind": "characters", "alphabet": self._alphabet}

    def _encoded(self, codes: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        return np.where(self._codes[places] == codes, places, len(self._codes))


class Library:
    """A tokenizer of the package ``tokenizers``.

    Args:
        text: Its JSON text.

    Raises:
        ValueError: If it is none.
    """

    def __init__(self, text: str) -> None:
        package: Any = optional_package("tokenizers", "this tokenizer needs")
        self._text = text
        try:
            self._tokenizer = package.Tokenizer.from_str(text)
        except Exception as error:  # the package raises no narrower class
            raise ValueError(f"it is not a tokenizer of the package tokenizers: {error}") from error
        # Settings for batches of short texts, which would cut or fill those of a corpus.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.size: int = self._tokenizer.get_vocab_size()
        self.end: int | None = self._tokenizer.token_to_id(END_OF_TEXT)

    @classmethod
    def trained(cls, texts: Iterable[str], size: int) -> Library:
        """Return a byte-level BPE of ``size`` tokens, trained on texts.

        Source: A. Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
        """
        package: Any = optional_package("tokenizers", "the tokenizer bpe needs")
        byte_level = package.pre_tokenizers.ByteLevel
        made = package.Tokenizer(package.models.BPE())
        made.pre_tokenizer, made.decoder = byte_level(add_prefix_space=False), package.decoders.ByteLevel()
        trainer = package.trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(byte_level.alphabet()),
            show_progress=False,
        )
        made.train_from_iterator(texts, trainer)
        return cls(made.to_str())

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Return the tokens of each text."""
        import numpy as np

        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, dtype=np.int64) for each in encoded]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        text: str = self._tokenizer.decode([token for token in tokens if token != self.end], skip_special_tokens=False)
        return text

    def kept(self) -> dict[str, Any]:
        """Return the JSON text."""
        return {"kind": "tokenizers", "json": self._text}


class _Kept(msgspec.Struct):
    kind: Literal["bytes", "characters", "tokenizers"]
    alphabet: str = ""
    json: str = ""


def tokenizer_from(kept: Any) -> Tokenizer:
    """Return the tokenizer with these plain values, as ``kept()`` returns them.

    Raises:
        DataError: If they are none.
    """
    try:
        values = msgspec.convert(kept, _Kept)
        if values.kind == "bytes":
            return Bytes()
        return Characters(values.alphabet) if values.kind == "characters" else Library(values.json)
    except (ValueError, msgspec.ValidationError) as error:
        raise DataError(f"the tokenizer, saved with the run, cannot be used: {error}") from error


def tokenizer_of_file(path: Path, faults: Faults) -> Tokenizer:
    """Return the tokenizer in a JSON file of the package ``tokenizers``.

    Raises:
        DataError: If there is none.
    """
    try:
        return Library(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "save one with tokenizer.save(path) of the package tokenizers: its tokenizer.json"
        faults.stop(str(error).partition("\n")[0], hint=hint)


def _codes(text: str) -> NDArray[Any]:
    import numpy as np

    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.dtype("<u4"))
