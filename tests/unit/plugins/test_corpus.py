"""The data source ``corpus``: texts, tokens, windows, token files, and the errors for bad texts."""

from __future__ import annotations

import json
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hookline import ConfigError, DataError, DataSource, PluginError, Run, load_config, train
from hookline_plugins.caches import first_of_its_name
from hookline_plugins.commands.first_config import from_file
from hookline_plugins.data.text import documents, packing
from hookline_plugins.data.text.source import Corpus

END = 256


def read(path: Path, **options: Any) -> DataSource:
    return Corpus(path, cache=options.pop("cache", path.parent / "cache"), **options).build_data()


def written(folder: Path, text: str | bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def windows(data: DataSource, split: str = "train") -> list[tuple[list[int], list[int]]]:
    dataset: Any = data.splits()[split]
    inputs, targets = dataset.gather(torch.arange(len(dataset)))
    assert [(x.tolist(), y.tolist()) for x, y in (dataset[i] for i in range(len(dataset)))] == list(
        zip(inputs.tolist(), targets.tolist(), strict=True)
    )
    return list(zip(inputs.tolist(), targets.tolist(), strict=True))


def tokens(data: DataSource, split: str = "train") -> list[int]:
    """Return the tokens of a split without overlap: the first input, and every target that counts."""
    found = windows(data, split)
    return [found[0][0][0], *(token for _, targets in found for token in targets if token != -100)]


def faults_of(error: DataError) -> list[str]:
    return [f"{fault.location}: {fault.message}" if fault.location else fault.message for fault in error.faults]


# ---- windows --------------------------------------------------------------------------------------------------------


def test_windows_follow_each_other_and_the_last_one_is_filled_up(tmp_path: Path) -> None:
    data = read(written(tmp_path, "abcdefgh"), context=3)
    assert windows(data) == [
        ([97, 98, 99], [98, 99, 100]),
        ([100, 101, 102], [101, 102, 103]),
        ([103, 104, 0], [104, -100, -100]),
    ]
    assert (data.out_features, data.task, data.train[0][0].dtype) == (257, "classification", torch.int64)


@pytest.mark.parametrize(
    ("length", "context", "stride", "starts"),
    [(9, 4, 0, [0, 4]), (9, 4, 1, [0, 1, 2, 3, 4]), (9, 4, 3, [0, 3, 6]), (5, 4, 1, [0]), (2, 4, 0, [0])],
)
def test_training_windows_may_overlap(
    tmp_path: Path, length: int, context: int, stride: int, starts: list[int]
) -> None:
    text = "".join(map(chr, range(65, 65 + length)))
    data = read(written(tmp_path, text), context=context, stride=stride)
    assert [inputs[0] - 65 for inputs, _ in windows(data)] == starts
    assert {token for _, targets in windows(data) for token in targets} - {-100} == set(text[1:].encode())


def test_windows_of_an_evaluation_do_not_overlap_so_that_each_token_counts_once(tmp_path: Path) -> None:
    text = bytes(range(65, 123)).decode()
    data = read(written(tmp_path, text), context=5, stride=1, split=[0.5, 0.5])
    assert bytes(tokens(data, "validation")).decode() == text[29:]


# ---- texts ----------------------------------------------------------------------------------------------------------


def test_the_last_part_is_the_validation_split_and_no_character_is_cut(tmp_path: Path) -> None:
    text = "zwölf Bücher, für ein 😀 Gespräch" * 7
    data = read(written(tmp_path, text), context=8, split=[0.61, 0.22, 0.17])
    parts = [bytes(tokens(data, split)).decode() for split in ("train", "validation", "test")]
    assert "".join(parts) == text
    size = len(text.encode())
    shares = [len(part.encode()) / size for part in parts]
    assert shares == pytest.approx([0.61, 0.22, 0.17], abs=4 / size)


def test_the_files_of_a_folder_are_read_in_their_order_with_a_token_between_them(tmp_path: Path) -> None:
    written(tmp_path, "b!", "texts/b.txt")
    written(tmp_path, b"\xef\xbb\xbfa\r\n", "texts/a.txt")
    written(tmp_path, "", "texts/empty.txt")
    written(tmp_path, "# c", "texts/c.md")
    assert tokens(read(tmp_path / "texts", context=4)) == [*b"a\n", END, *b"b!"]
    assert tokens(read(tmp_path / "texts" / "*.[mt]*", context=4)) == [*b"a\n", END, *b"b!", END, *b"# c"]


def test_a_split_that_ends_within_a_file_goes_on_in_the_next_split(tmp_path: Path) -> None:
    for name in "abc":
        written(tmp_path, name * 4, f"texts/{name}.txt")
    data = read(tmp_path / "texts", context=3, split=[0.5, 0.5])
    assert tokens(data) == [*b"aaaa", END, *b"bb"]
    assert tokens(data, "validation") == [*b"bb", END, *b"cccc"]


def test_the_splits_may_be_other_files(tmp_path: Path) -> None:
    path, other = written(tmp_path, "train"), written(tmp_path, "held out", "other.txt")
    data = read(path, validation=other, test=path)
    assert {split: bytes(tokens(data, split)).decode() for split in data.splits()} == {
        "train": "train",
        "validation": "held out",
        "test": "train",
    }


def test_a_column_of_a_table_has_a_text_in_each_cell(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    path = written(tmp_path, 'id,words\n1, one\n2,\n3,"two\nlines"\n4,007\n', "table.csv")
    assert tokens(read(path, column="words")) == [*b" one", END, *b"two\nlines", END, *b"007"]


@pytest.mark.parametrize("size", [8, 9, 10, 11, 13, 100])
def test_the_size_of_the_pieces_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    text = "ab\ncödé😀 without\r\nend 😀😀"
    monkeypatch.setattr(documents, "_PIECE_BYTES", size)
    assert bytes(tokens(read(written(tmp_path, text), context=5))).decode() == text.replace("\r\n", "\n")


# ---- tokenizers -----------------------------------------------------------------------------------------------------


def test_characters_are_those_of_the_training_split(tmp_path: Path) -> None:
    data = read(written(tmp_path, "bbaé" * 3 + "abyé"), tokenizer="characters", context=4, split=[0.75, 0.25])
    assert data.out_features == 5  # a, b, é, any other, between texts
    assert tokens(data) == [1, 1, 0, 2] * 3
    assert tokens(data, "validation") == [0, 1, 3, 2]


def test_bpe_is_that_of_tokenizers_trained_on_the_training_split(tmp_path: Path) -> None:
    package = pytest.importorskip("tokenizers", reason="the extra tokenizers is not installed")
    train, validation = "hello world, hello hook\n" * 20, "zebrazebra zebrazebra\n" * 5
    path, other = written(tmp_path, train), written(tmp_path, validation, "other.txt")
    data = read(path, tokenizer="bpe", vocabulary=270, context=6, validation=other)
    assert data.out_features == 270
    made = package.Tokenizer.from_str(data.kept["tokenizer"]["json"])
    assert tokens(data) == made.encode(train).ids
    assert tokens(data, "validation") == made.encode(validation).ids
    assert "Ġhello" in made.get_vocab()
    assert not any("ze" in token for token in made.get_vocab())
    # The file of another program, with settings for batches, gives the same tokens.
    made.enable_truncation(4)
    made.enable_padding(length=50)
    made.save(str(tmp_path / "tokenizer.json"))
    assert windows(read(path, tokenizer_file=tmp_path / "tokenizer.json", context=6)) == windows(data)


def test_without_the_package_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(PluginError, match="the tokenizer bpe needs tokenizers") as caught:
        read(written(tmp_path, "text"), tokenizer="bpe")
    assert caught.value.hint == "pip install 'hookline[tokenizers]'"


# ---- token files ----------------------------------------------------------------------------------------------------


def files_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_tokens_are_written_once_and_a_changed_text_is_noticed(tmp_path: Path) -> None:
    path, cache = written(tmp_path, "one text"), tmp_path / "cache"
    first: Any = read(path).train
    before = files_in(cache)
    again: Any = read(path, context=2).train
    assert files_in(cache) == before
    assert len(before) == 2
    status = path.stat()
    path.write_text("two text")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    changed = read(path)
    assert bytes(tokens(changed)) == b"two text"
    fingerprints = {first.fingerprint(), again.fingerprint(), changed.train.fingerprint()}  # type: ignore[attr-defined]
    assert len(fingerprints) == 3
    assert first.fingerprint() == read(written(tmp_path, "one text", "copy.txt")).train.fingerprint()  # type: ignore[attr-defined]


def test_the_token_files_are_in_the_cache_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    path = written(tmp_path, "text", "folder/text.txt")
    Corpus(path).build_data()
    assert files_in(path.parent).keys() == {"text.txt"}
    assert len(files_in(tmp_path / "caches" / "hookline" / "tokens")) == 2


def test_of_two_programs_that_write_at_once_both_use_the_first_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "tokens.bin"
    with first_of_its_name(path) as slow:
        slow.write(b"slow")
        with first_of_its_name(path) as fast:
            fast.write(b"fast")
        assert path.read_bytes() == b"fast"
    assert path.read_bytes() == b"fast"
    with suppress(KeyError), first_of_its_name(path.with_name("other")) as file:
        file.write(b"half")
        raise KeyError
    assert files_in(tmp_path).keys() == {"tokens.bin"}


def test_tokens_beyond_uint16_are_int32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "abc")
    small = windows(read(path))
    monkeypatch.setattr(packing, "_MOST_UINT16", 100)
    assert windows(read(path, cache=tmp_path / "other")) == small
    sizes = [file.stat().st_size for name in ("cache", "other") for file in (tmp_path / name).rglob("*.bin")]
    assert sizes == [6, 12]


def test_a_run_warns_of_an_evaluation_whose_logits_would_take_gigabytes(tmp_path: Path) -> None:
    path = written(tmp_path, "a text of some bytes")
    gpt = {"use": "gpt", "layers": 1, "heads": 1, "width": 2}
    config = {"data": {"use": "corpus", "path": str(path), "context": 4}, "model": gpt, "loss": "cross-entropy"}
    warnings = [
        Run(load_config({**config, "train": {"eval_batch_size": size}})).warnings for size in (261_123, 261_124)
    ]
    assert warnings[0] == []
    (warning,) = warnings[1]
    assert warning.endswith("of 261,124 windows with 257 tokens take 1.0 GiB: set train.eval_batch_size = 261123")


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_every_byte_that_is_not_utf_8_is_located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_PIECE_BYTES", 16)
    path = written(
        tmp_path, b"good line\ngr\xfc\xdfe \xff\nmore\n\n\x80 at the start and \xe2\x82\xac\n\xc3\xa9nd \xe2\x82\n"
    )
    with pytest.raises(DataError) as caught:
        read(path)
    assert faults_of(caught.value) == [
        f"{path}:2:3: byte 12 of the file, 0xfc, is not UTF-8",
        f"{path}:5:1: byte 24 of the file, 0x80, is not UTF-8",
        f"{path}:6:5: byte 52 of the file, 0xe2, is not UTF-8",
    ]
    assert caught.value.faults[0].hint == "save the file as UTF-8, for instance with: iconv -f cp1252 -t utf-8"
    assert {Path(name).suffix for name in files_in(tmp_path / "cache")} == {".json"}  # the tokenizer


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("missing.txt", None, {}, "there is no such file"),
        ("*.none", "", {}, "no file fits the pattern"),
        ("text.txt", "", {}, "there is no text: every file is empty"),
        ("text.txt", "x", {}, "the train split has 1 tokens, but a window needs 2"),
        ("text.txt", "abc", {"split": (0.9, 0.1)}, "the validation split has 0 tokens, but a window needs 2"),
        ("table.csv", "words\none\n", {}, "a table needs the name of the column with the texts"),
        ("table.csv", "words\none\n", {"column": "word"}, "there is no column 'word'"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused(
    tmp_path: Path, name: str, content: str | None, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / name if content is None or "*" in name else written(tmp_path, content, name)
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert [fault.message for fault in caught.value.faults] == [message]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "text")
    with pytest.raises(DataError, match="cannot be written") as caught:
        read(path, cache=path)
    assert caught.value.hint == "set data.cache to a folder that can be written"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": [0.9, 0.1], "validation": "other.txt"}, "`validation` or `test` names others"),
        ({"context": 4, "stride": 5}, "tokens would be left out"),
        ({"split": [0.9, 0.2]}, "must sum to 1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Corpus(Path("text.txt"), **options)


# ---- a first config -------------------------------------------------------------------------------------------------


def test_the_first_config_for_a_text_trains_a_small_language_model(tmp_path: Path) -> None:
    path = written(tmp_path, "the cat sat on the mat.\n" * 200, "cats.txt")
    starter = from_file(path, tmp_path)
    assert starter.tables["data"] == {"use": "corpus", "path": str(path), "context": 64, "split": [0.9, 0.1]}
    assert starter.tables["train"]["epochs"] == math.ceil(2000 / math.ceil(4800 * 0.9 / 64 / 12))
    assert starter.remarks[0].startswith("1 text of 4,800 bytes in all")
    small = {"model.layers": 1, "model.heads": 1, "model.width": 8, "train.max_steps": 2, "data.cache": str(tmp_path)}
    assert train(starter.tables, small).metrics["validation/perplexity"] > 1
    short = from_file(written(tmp_path, "short\n"), tmp_path)
    assert "split" not in short.tables["data"]
    assert short.warnings == ["6 bytes are too few for a validation split"]


def test_a_text_has_no_target_and_must_be_utf_8(tmp_path: Path) -> None:
    path = written(tmp_path, b"caf\xe9\n")
    with pytest.raises(ConfigError, match="--target and --task are for tables, but"):
        from_file(path, tmp_path, target="word")
    with pytest.raises(DataError) as caught:
        from_file(path, tmp_path)
    assert faults_of(caught.value) == [f"{path}:1:4: byte 3 of the file, 0xe9, is not UTF-8"]


# ---- perplexity -----------------------------------------------------------------------------------------------------


def test_perplexity_is_the_exponential_of_the_mean_over_tokens_whatever_the_batches() -> None:
    from hookline_plugins.metrics.perplexity import Perplexity

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    targets = torch.tensor([[0, 1, 2, 3], [4, 3, -100, -100], [2, -100, -100, -100]])
    losses = [
        -math.log(math.exp(logits[b, t, s]) / sum(math.exp(value) for value in logits[b, :, s].tolist()))
        for b in range(3)
        for s, t in enumerate(targets[b].tolist())
        if t >= 0
    ]
    perplexity = Perplexity()
    for part in (slice(0, 1), slice(1, 3)):
        perplexity.update(logits[part], targets[part])
    assert perplexity.compute() == pytest.approx(math.exp(sum(losses) / 7), rel=1e-12)
    perplexity.reset()
    assert math.isnan(perplexity.compute())


def test_the_tokenizer_is_kept_as_plain_values(tmp_path: Path) -> None:
    data = read(written(tmp_path, "text"), tokenizer="characters")
    assert json.loads(json.dumps(data.kept)) == {
        "context": 64,
        "tokenizer": {"kind": "characters", "alphabet": "etx"},
    }


def test_examples_are_whole_batches_of_their_own(tmp_path: Path) -> None:
    data = read(written(tmp_path, "abcdefgh"), context=3)
    dataset: Any = data.train
    first: tuple[Tensor, Tensor] = dataset.gather(torch.tensor([0, 0]))
    first[0].zero_()
    assert windows(data)[0] == ([97, 98, 99], [98, 99, 100])
    with pytest.raises(IndexError):
        dataset[3]
