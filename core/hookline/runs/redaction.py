"""Remove secrets before saving: values whose key names a secret, and passwords in URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "<not written>"
"""Replacement for a secret."""

_LAST_WORDS = r"(?:token|password|passwd|passphrase|secret|(api|access|private|secret)[_-]?key|credentials?)"
_SECRET_KEY = re.compile(rf"(?i)(^|[._-]){_LAST_WORDS}$")
_IN_TABLE = re.compile(rf"""(?i)([{{,\s._-]["']?{_LAST_WORDS}["']?\s*=\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[^,}}\s]+)""")
"""A secret in the text of an inline table."""
_PASSWORD = re.compile(r"(?<=://)([^/\s:@]+):([^/\s@]+)(?=@)")


def is_secret(key: str) -> bool:
    """Return whether the value of a key is a secret, judged by the key's last word.

    >>> is_secret("callbacks.upload.api_key"), is_secret("model.num_tokens")
    (True, False)
    """
    return bool(_SECRET_KEY.search(key))


def redacted(value: Any, key: str = "") -> Any:
    """Return a plain value without secrets.

    >>> redacted("postgres://me:1234@host/runs")
    'postgres://me:<not written>@host/runs'
    >>> redacted({"url": "x", "token": "1234"})
    {'url': 'x', 'token': '<not written>'}
    """
    if is_secret(key) and value not in (None, ""):
        return REDACTED
    if isinstance(value, str):
        # A file name can contain bytes that are not valid UTF-8.
        return _PASSWORD.sub(rf"\1:{REDACTED}", value.encode(errors="backslashreplace").decode())
    if isinstance(value, Mapping):
        return {name: redacted(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


def redacted_word(word: str) -> str:
    """Return a word of a command line without secrets.

    >>> redacted_word("callbacks.upload.token=1234")
    'callbacks.upload.token=<not written>'
    """
    key, equals, value = word.partition("=")
    if not equals:
        return str(redacted(word))
    shown = _IN_TABLE.sub(rf"\1{REDACTED}", redacted(value, key))
    return f"{key}={shown}"
