"""Redaction: values whose key names a secret, and passwords in URLs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hookline import hookimpl, load_config
from hookline.runs import complete_toml
from hookline.runs.redaction import REDACTED, is_secret, redacted, redacted_word


@pytest.mark.parametrize(
    "key",
    [
        "token",
        "callbacks.upload.token",
        "callbacks.upload.API_KEY",
        "api-key",
        "apikey",
        "data.db_password",
        "my-secret",
    ],
)
def test_a_key_whose_last_word_says_so_is_a_secret(key: str) -> None:
    assert is_secret(key)


@pytest.mark.parametrize(
    "key",
    ["model.num_tokens", "token.length", "model.tokenizer", "optimizer.lr", "data.key", "secretary", "passwords_file"],
)
def test_a_key_that_only_resembles_one_is_not_a_secret(key: str) -> None:
    assert not is_secret(key)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("postgres://me:1234@host/runs", f"postgres://me:{REDACTED}@host/runs"),
        ("two: a://u:p@h and b://v:q@i", f"two: a://u:{REDACTED}@h and b://v:{REDACTED}@i"),
        ("https://host:8080/path@tag", "https://host:8080/path@tag"),
        ("C:\\folder:name@x", "C:\\folder:name@x"),
        ({"url": "a://u:p@h", "token": "1234"}, {"url": f"a://u:{REDACTED}@h", "token": REDACTED}),
        ([{"password": "1234"}], [{"password": REDACTED}]),
        ({"password": ["1234", "5678"]}, {"password": REDACTED}),
        ({"password": None, "token": ""}, {"password": None, "token": ""}),
        (3, 3),
        (None, None),
    ],
)
def test_a_value_is_shown_without_its_secrets(value: Any, shown: Any) -> None:
    assert redacted(value) == shown


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("callbacks.upload.token=1234", f"callbacks.upload.token={REDACTED}"),
        ("callbacks.upload.token=12=34", f"callbacks.upload.token={REDACTED}"),
        ("data.url=a://u:p@h", f"data.url=a://u:{REDACTED}@h"),
        ("a://u:p@h", f"a://u:{REDACTED}@h"),
        ("optimizer.lr=0.1", "optimizer.lr=0.1"),
        ("--token=1234", f"--token={REDACTED}"),
        ("run.toml", "run.toml"),
        ("callbacks.upload.token=", "callbacks.upload.token="),
        ('callbacks.upload={token="12, 34",n=1}', f"callbacks.upload={{token={REDACTED},n=1}}"),
        (
            "callbacks.upload={url='x', 'db_password' = '12 34'}",
            f"callbacks.upload={{url='x', 'db_password' = {REDACTED}}}",
        ),
        ("callbacks.upload={tokens=3}", "callbacks.upload={tokens=3}"),
    ],
)
def test_a_word_of_a_command_is_shown_without_its_secrets(word: str, shown: str) -> None:
    assert redacted_word(word) == shown


class Upload:
    """A callback with a secret option."""

    def __init__(self, token: str = "", url: str = "", path: Path = Path("out")) -> None:
        self.token = token

    @hookimpl
    def on_run_start(self) -> None:
        """Do nothing."""


def test_a_config_that_is_written_down_has_no_secrets_and_means_the_same_without_them(tmp_path: Path) -> None:
    tables = {"callbacks": {"upload": {"token": "tok-1234", "url": "a://u:pass-1234@h"}}}
    config = load_config(tables, plugins={"callbacks.upload": Upload})
    text = complete_toml(config)
    assert "1234" not in text
    assert f"# token = {REDACTED}" in text
    assert f'url = "a://u:{REDACTED}@h"' in text
    (tmp_path / "config.toml").write_text(text)
    again = load_config(
        tmp_path / "config.toml", ["callbacks.upload.token=tok-1234"], plugins={"callbacks.upload": Upload}
    )
    assert again.settings["callbacks.upload.token"].value == "tok-1234"
