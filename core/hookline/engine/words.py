"""Words for messages: near matches of names, articles, printable text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def printable(text: str) -> str:
    r"""Return ``text`` with every character escaped that a terminal could interpret or hide.

    >>> printable("a\x1b[31m")
    'a\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def shortened(text: str, most: int = 60) -> str:
    """Return ``text`` for a message: cut to ``most`` characters, in printable form.

    >>> shortened("abcdefghij", 8)
    'abcde...'
    """
    return printable(text if len(text) <= most else f"{text[: most - 3]}...")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name in ``known`` that is nearest to ``name``, or None if none is near.

    >>> nearest("epoch", ["seed", "epochs"])
    'epochs'
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown ``name``: the nearest known one, or the list of all.

    >>> did_you_mean("sdg", ["adam", "sgd"])
    "did you mean 'sgd'?"
    >>> did_you_mean("zzz", ["adam", "sgd"])
    "known: 'adam', 'sgd'"
    """
    known = sorted(known)
    if match := nearest(name, known):
        return f"did you mean {match!r}?"
    return f"known: {', '.join(map(repr, known))}" if known else "none are known here"


def as_text(value: Any, what: str) -> str:
    r"""Return a text that a program gave, with what no file can hold escaped, such as half of a surrogate pair.

    >>> as_text("caf\udce9", "a name")
    'caf\\udce9'

    Raises:
        TypeError: When it is not text.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {with_article(type(value).__name__)}")
    return encodable(value)


def encodable(text: str) -> str:
    r"""Return a text with lone surrogates escaped, such as the undecodable bytes of a file name.

    >>> encodable("caf\udce9")
    'caf\\udce9'
    """
    return text.encode(errors="backslashreplace").decode()


def with_article(noun: str) -> str:
    """Return a noun with its article.

    >>> with_article("int")
    'an int'
    """
    return f"{'an' if noun[:1].lower() in 'aeio' else 'a'} {noun}"
