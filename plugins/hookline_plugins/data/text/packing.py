"""Token files: the tokens of each split, written once and used again by every run on the same texts.

The name of a file is a hash of the texts and of everything else that the tokens depend on, so a changed text has
another file, and a file is never changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hookline import DataError
from hookline_plugins.caches import first_of_its_name
from hookline_plugins.data.arrays.files import StoredArray
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.text.tokens import Tokenizer, tokenizer_from

if TYPE_CHECKING:
    from hookline_plugins.data.text.documents import Document


FORMAT = 1
"""Version of the files; part of their names."""
_PIECES_AT_ONCE = 8
"""Pieces to tokenize in one call, which the package tokenizers does in parallel."""
_MOST_UINT16 = 2**16

Splits = Mapping[str, Sequence["Document"]]


@dataclass(frozen=True)
class Packed:
    """Texts as tokens.

    Attributes:
        tokenizer: The tokenizer.
        tokens: The tokens of each split, uint16 or int32.
        key: Hash of the texts and of the way to tokenize them.
    """

    tokenizer: Tokenizer
    tokens: Mapping[str, StoredArray]
    key: str


def pack(splits: Splits, make: Callable[[Faults], Tokenizer], given: Any, folder: Path, faults: Faults) -> Packed:
    """Return the tokens of each split, from the files of an earlier run if there are any.

    Args:
        splits: The documents of each split.
        make: Makes the tokenizer; it may read the training split.
        given: Plain values that the tokenizer depends on, besides the texts.
        folder: The folder of the token files.
        faults: Gets the faults of the texts.

    Raises:
        DataError: If the texts cannot be read, or no file can be written; carries every fault.
    """
    key = _key(splits, given)
    folder = folder / key[:2]
    tokenizer = _made(folder / f"{key}.json", make, faults)
    tokens = {split: _tokens(folder / f"{key}-{split}.bin", splits[split], tokenizer, faults) for split in splits}
    return Packed(tokenizer, tokens, key)


def _key(splits: Splits, given: Any) -> str:
    """Return the hash of the texts, and of all that their tokens depend on: hexadecimal."""
    digest = hashlib.blake2b(json.dumps([FORMAT, given]).encode(), digest_size=16)
    for split, documents in splits.items():
        for document in documents:
            digest.update(f"{split} {document.stop - document.start} ".encode())
            for _, piece in document.raw_pieces():
                digest.update(piece)
    return digest.hexdigest()


def _made(path: Path, make: Callable[[Faults], Tokenizer], faults: Faults) -> Tokenizer:
    if not path.exists():
        made = make(faults)
        faults.check()
        with _token_file(path) as file:
            file.write(json.dumps(made.kept()).encode())
    return tokenizer_from(json.loads(path.read_bytes()))


def _tokens(path: Path, documents: Sequence[Document], tokenizer: Tokenizer, faults: Faults) -> StoredArray:
    import numpy as np

    dtype = np.dtype("<u2" if tokenizer.size <= _MOST_UINT16 else "<i4")
    if not path.exists():
        with _token_file(path) as file:
            for number, document in enumerate(documents):
                if number and tokenizer.end is not None:
                    file.write(np.array([tokenizer.end], dtype).tobytes())
                pieces = document.pieces(faults)
                while texts := list(islice(pieces, _PIECES_AT_ONCE)):
                    for tokens in tokenizer.encode(texts):
                        file.write(tokens.astype(dtype).tobytes())
            faults.check()
    return StoredArray(path, "tokens", dtype.str, (path.stat().st_size // dtype.itemsize,), offset=0)


@contextmanager
def _token_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new token file.

    Raises:
        DataError: If it cannot be written.
    """
    try:
        with first_of_its_name(path) as file:
            yield file
    except OSError as error:
        hint = "set data.cache to a folder that can be written"
        raise DataError(f"the token file {path} cannot be written: {error}", hint=hint) from error
