"""Remove secrets from what is written or printed: the values of secret options, and text that looks like a secret.

A value is secret if its option has the type ``Secret``, or if the last word of its key says so. Text of unknown origin,
such as that of an error, is searched for passwords in addresses, for headers, and for assignments to such keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hookline.config.plugins.options import is_plain
from hookline.engine.words import encodable

if TYPE_CHECKING:
    from hookline.engine.view import ConfigView

REDACTED = "<not written>"
"""Replacement for a secret."""

_MIN_LENGTH = 4
"""A shorter secret is part of too many other texts to be replaced in them."""

_WORDS = (
    r"token|password|passwd|passphrase|pwd|secret|bearer|authorization|credentials?"
    r"|(?:api|access|private|secret|auth|account)[_-]?key"
)
_SECRET_KEY = re.compile(rf"(?:^|[._-])(?:{_WORDS})$", re.IGNORECASE)
_SECRET_LIST = re.compile(
    r"(?:^|\.)(?:(?:\w+[_-])?(?:passwords|secrets|api[_-]?keys)|(?:(?:api|auth|access|refresh|session|user)[_-])?tokens)$",
    re.IGNORECASE,
)
_VOCABULARY = re.compile(r"(?:^|[._-])(?:bos|cls|eos|end|mask|pad|sep|start|stop|unk)[_-]token$", re.IGNORECASE)
"""Tokens of a language model."""
_NOUNS = ("token", "secret", "credential", "credentials", "bearer")
"""Words that a message may use: "unexpected token: x"."""
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_ADDRESS = re.compile(r"""\b([a-z][a-z0-9+.-]{0,30}://)([^\s"'<>]+)""", re.IGNORECASE)
_HEADER = re.compile(
    r"""authorization["']?\s*[:=]\s*["']?((?:\w+\s+)?[^\s"',;}]+)|\bbearer\s+([\w.~+/=-]{8,})""", re.IGNORECASE
)
_SIGNED = re.compile(r"[?&](?:key|sig|signature|auth)=([^\s&\"'<>]+)", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"""(?<![\w.])([a-z_][\w.-]{0,99})(["']?\s*(?:=|:(?=\s|["']))\s*)
        ("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s"'=,;&<>(){}\[\]][^\s"',;&(){}\[\]]*)""",
    re.IGNORECASE | re.VERBOSE,
)
_BEFORE_REDACTED = re.compile(r"""["']?(\w+\s+)?""")
"""What may stand between a key and the replacement of its secret: a quote mark, the kind of a header."""
_OPTION = re.compile(r"--([a-z][\w-]{0,99})\s+([^\s-]\S*)", re.IGNORECASE)


def is_secret(key: str, value: Any = None) -> bool:
    """Return whether the value of a key is a secret, judged by the key's last word.

    >>> is_secret("callbacks.upload.api_key"), is_secret("authToken"), is_secret("model.num_tokens")
    (True, True, False)
    """
    name = _CAMEL_CASE.sub("_", key)
    if isinstance(value, bool) or _VOCABULARY.search(name):
        return False
    if isinstance(value, str | list | tuple) and not str(value).isdigit() and _SECRET_LIST.search(name):
        return True
    return bool(_SECRET_KEY.search(name))


def redacted(value: Any, key: str = "") -> Any:
    """Return a plain value without secrets.

    >>> redacted("postgres://me:1234@host/runs")
    'postgres://me:<not written>@host/runs'
    >>> redacted({"url": "x", "token": "1234"})
    {'url': 'x', 'token': '<not written>'}
    """
    if is_secret(key, value) and value not in (None, ""):
        return REDACTED
    if isinstance(value, str):
        return redacted_text(encodable(value))
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
    key, _, value = word.partition("=")
    return f"{key}={REDACTED}" if value and is_secret(key, value) else str(redacted(word))


def redacted_text(text: str) -> str:
    """Return a text without what looks like a secret; what already replaced one stays.

    >>> redacted_text("GET https://host/x?token=1234 failed, Authorization: Bearer abcd")
    'GET https://host/x?token=<not written> failed, Authorization: <not written>'
    """
    position, parts = 0, []
    for start, end in sorted(set(_secret_spans(text)), key=lambda span: (span[0], -span[1])):
        found = text.find(REDACTED, start, end + len(REDACTED))
        is_done = found >= 0 and _BEFORE_REDACTED.fullmatch(text, start, found)
        whole = end if found < 0 else found + len(REDACTED)
        if start >= position:
            parts += [text[position:start], text[start:whole] if is_done else REDACTED]
        position = max(position, whole)
    return "".join([*parts, text[position:]])


def _secret_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each part of a text that looks like a secret."""
    for match in _ADDRESS.finditer(text):
        yield from ((match.start(2) + start, match.start(2) + end) for start, end in _spans_of_address(*match.groups()))
    for match in _HEADER.finditer(text):
        yield match.span(match.lastindex or 0)
    for match in _SIGNED.finditer(text):
        yield match.span(1)
    for pattern in (_ASSIGNED, _OPTION):
        for match in pattern.finditer(text):
            value = match[match.lastindex or 0]
            if is_secret(match[1], value) and value not in ('""', "''", REDACTED) and not _is_prose(*match.groups()):
                yield match.span(match.lastindex or 0)


def _is_prose(name: str, sign: str, value: str = "") -> bool:
    """Whether a colon follows a word, as in "unexpected token: '}'", or the quoted key of a message."""
    is_quoted = sign.startswith(("'", '"'))
    return ":" in sign and ((value[:1] not in ("'", '"')) if is_quoted else name.lower() in _NOUNS)


def _spans_of_address(scheme: str, rest: str) -> Iterator[tuple[int, int]]:
    """Yield the secret parts of ``[user][:password]@host/...``; a password can contain ``@`` and ``/``."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, colon, after = authority.partition(":")
    is_host = not colon or "@" in user or (user and after.isdigit())
    end = authority.rfind("@") if is_host else rest.rfind("@")
    if end < 0:
        return
    user, colon, password = rest[:end].partition(":")
    if password:
        yield len(user) + 1, end
    # A service that asks for a token takes it in place of the name.
    if user and (password in ("", "x-oauth-basic")) and scheme.lower().endswith(("http://", "https://")):
        yield 0, len(user)


class Redaction:
    """Removes the secrets of a config, wherever they occur, and what looks like a secret.

    Args:
        keys: Keys whose values are not written: those of secrets, and of options that no file may set.
        values: The secrets.
    """

    def __init__(self, keys: Collection[str] = (), values: Iterable[str] = ()) -> None:
        self._keys = frozenset(keys)
        long_enough = {value for value in values if len(value) >= _MIN_LENGTH}
        forms = {form for value in long_enough for form in (value, quote(value, safe=""), json.dumps(value)[1:-1])}
        # The longest first, because a secret can begin with another one.
        found = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
        self._values = re.compile(found) if found else None

    @classmethod
    def of(cls, config: ConfigView) -> Redaction:
        """Return the redaction for the secrets of a config."""
        typed = _keys_of(config, "is_secret")
        values: list[str] = []
        for key, setting in config.settings.items():
            layer = setting
            while layer:
                values += _secrets_in(layer.value, key, is_all=key in typed)
                layer = layer.overrode
        return cls(typed | keys_from_user(config), values)

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        return redacted_text(self.known(text))

    def word(self, word: str) -> str:
        """Return a word of the command line without secrets."""
        key, _, value = word.partition("=")
        is_within = value.startswith("{") and any(each.startswith(f"{key}.") for each in self._keys)
        return f"{key}={REDACTED}" if key in self._keys or is_within else self.known(redacted_word(word))

    def known(self, text: str) -> str:
        """Return a text without the secrets of the config; ``plain`` is for JSON, whose numbers and keys must stay."""
        return self._values.sub(REDACTED, text) if self._values else text

    def setting(self, key: str, value: Any) -> Any:
        """Return the plain value of a key of the config without secrets."""
        return REDACTED if key in self._keys and value not in (None, "") else self.plain(redacted(value, key))

    def hidden(self, config: ConfigView) -> dict[str, Any]:
        """Return the values of a config that are not written as they are, by key."""
        values = {key: config.lasting(key) for key in config.settings}
        return {key: value for key, value in values.items() if is_plain(value) and self.setting(key, value) != value}

    def plain(self, value: Any) -> Any:
        """Return a plain value without the secrets of the config; keys and values other than text stay."""
        return _mapped(self.known, value)

    def messages(self, value: Any) -> Any:
        """Return a plain value in which each text, such as a warning, is one for people."""
        return _mapped(self.text, value)

    def tables(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Return reported tables without secrets, neither in a title nor in a row; the names of columns stay."""
        return {self.text(title): self.messages(rows) for title, rows in summary.items()}

    def places(self, value: Any, place: str) -> Iterator[str]:
        """Yield the place of each text within a value that contains a secret of the config."""
        if self._values and isinstance(value, str) and self._values.search(value):
            yield place
        elif self._values and isinstance(value, Mapping | list | tuple):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for name, item in items:
                yield from self.places(item, f"{place}.{name}")


def keys_from_user(config: ConfigView) -> set[str]:
    """Return the keys of the options of a config that no file may set; they are not saved with a run."""
    return _keys_of(config, "is_from_user")


def _keys_of(config: ConfigView, mark: str) -> set[str]:
    return {
        f"{choice.table}.{option.name}"
        for choice in config.plugins
        for option in choice.plugin.options
        if getattr(option, mark)
    }


def _mapped(change: Callable[[str], str], value: Any) -> Any:
    """Return a plain value in which every text is changed, but no key: readers look for the keys that they know."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(change, item) for name, item in value.items()}
    items = [_mapped(change, item) for item in value] if isinstance(value, list | tuple) else []
    return tuple(items) if isinstance(value, tuple) else items if isinstance(value, list) else value


def _secrets_in(value: Any, key: str, *, is_all: bool) -> Iterator[str]:
    """Yield the secrets within the value of a key; with ``is_all``, every text in it."""
    is_all = is_all or is_secret(key, value)
    if isinstance(value, str):
        yield from [value] if is_all else (text for start, end in _secret_spans(value) if (text := value[start:end]))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _secrets_in(item, str(name), is_all=is_all)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets_in(item, "", is_all=is_all)
    elif is_all and isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
