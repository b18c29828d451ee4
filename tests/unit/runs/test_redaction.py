"""Redaction: secret options, values whose key names a secret, and what looks like a secret in a text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hookline import ConfigError, Run, RunConfig, Secret, hookimpl, load_config
from hookline.config import FromUser
from hookline.runs import complete_toml, identity_of
from hookline.runs.redaction import REDACTED, Redaction, is_secret, redacted, redacted_text, redacted_word


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
        "authToken",
        "callbacks.upload.accessToken",
        "data.pwd",
        "bearer",
        "headers.Authorization",
        "auth_key",
        "credentials",
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


@pytest.mark.parametrize("key", ["callbacks.upload.tokens", "api_tokens", "accessTokens", "passwords", "api_keys"])
def test_a_list_of_texts_is_a_list_of_secrets_and_a_number_is_a_number(key: str) -> None:
    assert is_secret(key, ["a", "b"])
    assert is_secret(key, "a")
    assert not is_secret(key, 100)
    assert redacted({key: ["a", "b"], "n": 1}) == {key: REDACTED, "n": 1}


@pytest.mark.parametrize("key", ["model.pad_token", "eosToken", "special_tokens", "stop_tokens", "added_tokens"])
def test_a_token_of_a_vocabulary_is_no_secret(key: str) -> None:
    assert redacted({key: "<pad>"}) == {key: "<pad>"}
    assert redacted({key: ["<pad>"]}) == {key: ["<pad>"]}


def test_a_flag_is_no_secret() -> None:
    assert redacted({"password": True}) == {"password": True}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("postgres://me:1234@host/runs", f"postgres://me:{REDACTED}@host/runs"),
        ("two: a://u:p@h and b://v:q@i", f"two: a://u:{REDACTED}@h and b://v:{REDACTED}@i"),
        ("https://host:8080/path@tag", "https://host:8080/path@tag"),
        ("C:\\folder:name@x", "C:\\folder:name@x"),
        ("redis://:1234@h:6379/0", f"redis://:{REDACTED}@h:6379/0"),
        ("https://1234@host/x", f"https://{REDACTED}@host/x"),
        ("https://1234:x-oauth-basic@host", f"https://{REDACTED}:{REDACTED}@host"),
        ("postgres://me:1@2@host/x", f"postgres://me:{REDACTED}@host/x"),
        ("postgres://me:a/2@host/x", f"postgres://me:{REDACTED}@host/x"),
        ("postgres://me:1@2/3@host/x", f"postgres://me:{REDACTED}@host/x"),
        ("https://host/x?token=1234&y=1", f"https://host/x?token={REDACTED}&y=1"),
        ("https://host/x?y=1&sig=1234", f"https://host/x?y=1&sig={REDACTED}"),
        ("https://host/@me/x?y=1", "https://host/@me/x?y=1"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("postgres://me@host/x", "postgres://me@host/x"),
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer 1234", f"Authorization: {REDACTED}"),
        ("{'Authorization': 'Basic 1234', 'x': 1}", f"{{'Authorization': '{REDACTED}', 'x': 1}}"),
        ("sent bearer 12345678", f"sent bearer {REDACTED}"),
        (f"Authorization: Basic {REDACTED}", f"Authorization: Basic {REDACTED}"),
        (f'{{"password": "{REDACTED}"}}', f'{{"password": "{REDACTED}"}}'),
        (f"token=abcd{REDACTED}", f"token={REDACTED}"),
        ("run --password 1234 --fast", f"run --password {REDACTED} --fast"),
        ("Upload(token='12 34', n=1)", f"Upload(token={REDACTED}, n=1)"),
        ('{"authToken": "1234", "n": 1}', f'{{"authToken": {REDACTED}, "n": 1}}'),
        ("password: 1234", f"password: {REDACTED}"),
        ("unexpected token: '}'", "unexpected token: '}'"),
        ("'callbacks.upload.token': expected text", "'callbacks.upload.token': expected text"),
        ("the token is wrong", "the token is wrong"),
        ("num_tokens=5, lr=0.1", "num_tokens=5, lr=0.1"),
    ],
)
def test_a_text_is_shown_without_what_looks_like_a_secret(text: str, shown: str) -> None:
    assert redacted_text(text).replace(f"'{REDACTED}'", REDACTED) == shown.replace(f"'{REDACTED}'", REDACTED)
    assert redacted_text(redacted_text(text)) == redacted_text(text)


def test_a_long_text_takes_no_time() -> None:
    """A search that tries everything would not end within the limit of the whole suite."""
    for piece in ("token", "token=", "'", "a://", "token='", "a.b ", "-", "--a ", "bearer ", "a:b@"):
        redacted_text(piece * (200_000 // len(piece)))


@dataclass
class Upload:
    """A callback with secret options."""

    dsn: Secret = ""
    token: str = ""
    url: str = ""
    more: list[Secret] = field(default_factory=list)
    path: Path = Path("out")

    @hookimpl
    def on_run_start(self) -> None:
        """Do nothing."""


GIVEN = {"dsn": "dsn-1234", "token": "tok-1234", "url": "a://u:pass-1234@h", "more": ["more-1234"], "path": "x"}


def config_of(given: dict[str, Any]) -> RunConfig:
    return load_config({"callbacks": {"upload": given}}, plugins={"callbacks.upload": Upload})


def test_a_config_that_is_written_down_has_no_secrets_and_means_the_same_with_them_given_again(tmp_path: Path) -> None:
    config = config_of(GIVEN)
    text = complete_toml(config)
    assert "1234" not in text
    for line in ("dsn = ", "token = ", "more = "):
        assert f"# {line}{REDACTED}" in text
    assert f'# url = "a://u:{REDACTED}@h"' in text, "an address without its password is not the address"
    (tmp_path / "config.toml").write_text(text)
    words = [f"callbacks.upload.{name}={GIVEN[name]!r}" for name in ("dsn", "token", "url", "more")]
    again = load_config(tmp_path / "config.toml", words, plugins={"callbacks.upload": Upload})
    for name in ("dsn", "token", "url", "more"):
        assert again.lasting(f"callbacks.upload.{name}") == GIVEN[name]


def test_the_secrets_of_a_config_are_removed_wherever_they_occur() -> None:
    redaction = Redaction.of(config_of(GIVEN))
    text = "dsn-1234 tok-1234 pass-1234 more-1234 a/b"
    assert redaction.known(text) == f"{REDACTED} {REDACTED} {REDACTED} {REDACTED} a/b"
    assert list(redaction.places({"a": ["x", {"b": "<tok-1234>"}], "c": 1}, "state")) == ["state.a.1.b"]
    assert redaction.plain({"a": ["x", "y tok-1234"]}) == {"a": ["x", f"y {REDACTED}"]}
    assert redaction.plain({"tok-1234": (1234, "tok-1234")}) == {"tok-1234": (1234, REDACTED)}


def test_a_secret_is_found_as_an_address_and_as_json_write_it() -> None:
    redaction = Redaction.of(config_of({"dsn": 'p/"w 1'}))
    assert redaction.known("https://h/p%2F%22w%201/x") == f"https://h/{REDACTED}/x"
    assert redaction.known(json.dumps(['p/"w 1'])) == f'["{REDACTED}"]'


def test_a_secret_that_was_overridden_is_still_one() -> None:
    config = load_config(
        {"callbacks": {"upload": {"dsn": "first-1234"}}},
        {"callbacks.upload.dsn": "second-1234"},
        plugins={"callbacks.upload": Upload},
    )
    assert Redaction.of(config).known("first-1234 second-1234") == f"{REDACTED} {REDACTED}"


def test_a_short_secret_is_hidden_in_its_place_alone() -> None:
    redaction = Redaction.of(config_of({"dsn": "an"}))
    assert redaction.setting("callbacks.upload.dsn", "an") == REDACTED
    assert redaction.known("an answer") == "an answer"


@pytest.mark.parametrize("value", [1234, ["1234"], {"a": "1234"}])
def test_a_fault_does_not_show_a_secret(value: Any, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f"[callbacks.upload]\ndsn = {json.dumps(value).replace(':', '=')}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "run.toml", plugins={"callbacks.upload": Upload})
    assert "'callbacks.upload.dsn': expected text, got a secret that is not" in str(caught.value)
    assert "run.toml:2:7" in str(caught.value)
    assert "1234" not in str(caught.value)


@dataclass
class Preview:
    """A callback with an option that no file may set."""

    program: FromUser[tuple[str, ...]] = ()
    size: int = 1

    @hookimpl
    def on_run_end(self) -> None: ...


def test_an_option_that_no_file_may_set_is_neither_saved_nor_recorded_nor_compared() -> None:
    values = {"callbacks.preview.program": ["show", "it"], "callbacks.preview.size": 2}
    run = Run(load_config(None, values, plugins={"callbacks.preview": Preview}))
    redaction = Redaction.of(run.config)
    written = complete_toml(run.config)
    assert f"# program = {REDACTED}" in written
    assert "\nsize = 2 " in written
    settings = identity_of(run)["settings"]
    assert "callbacks.preview.program" not in settings
    assert settings["callbacks.preview.size"] == 2
    for word, shown in {
        'callbacks.preview.program=["show"]': f"callbacks.preview.program={REDACTED}",
        'callbacks.preview={program=["show"]}': f"callbacks.preview={REDACTED}",
        "callbacks.preview=preview": "callbacks.preview=preview",
        "callbacks.preview.size=2": "callbacks.preview.size=2",
        "callbacks.other.token=1234": f"callbacks.other.token={REDACTED}",
    }.items():
        assert redaction.word(word) == shown
    assert redaction.text("it shows it") == "it shows it", "its words are no secrets"


def test_the_saved_config_of_a_run_never_sets_an_option_that_no_file_may_set(tmp_path: Path) -> None:
    config = load_config(None, {"callbacks.notify.on": ["failed"], "callbacks.preview.use": "notify"})
    (tmp_path / "config.toml").write_text(complete_toml(config))
    again = load_config(tmp_path / "config.toml")
    assert [choice.options for choice in again.plugins] == [choice.options for choice in config.plugins]
