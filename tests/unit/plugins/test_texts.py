"""Data source ``texts`` and model ``bag-of-tokens``: tokens, batches, faults, runs, predictions."""

from __future__ import annotations

import csv
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hookline import ConfigError, ContractError, DataError, DataSource, Run, load_config, resume
from hookline.trained import export_model, load_trained, write_predictions
from hookline_plugins.data.text.labelled.rows import TokenRows
from hookline_plugins.data.text.labelled.source import Texts
from hookline_plugins.models.bag_of_tokens import BagOfTokens
from support import FIXTURES, compared, saved_folder

SENTENCES = FIXTURES / "sentences" / "sentences.csv"
ROWS = [("a good film", "good"), ("Bad, bad!", "bad"), ("good", "good"), ("so bad", "bad")]


def hashed(word: str, buckets: int = 2**15) -> int:
    return 1 + zlib.crc32(word.encode()) % buckets


def table(folder: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "texts.csv"


def built(path: Path, **options: Any) -> DataSource:
    return Texts(path, **options).build_data()


def examples(data: DataSource) -> tuple[dict[str, Tensor], Tensor]:
    assert isinstance(data.train, TokenRows)
    return data.train.gather(torch.arange(len(data.train)))


# ---- tokens and batches ---------------------------------------------------------------------------------------------


def test_a_batch_holds_the_hashed_words_padded_to_the_longest_text(tmp_path: Path) -> None:
    data = built(table(tmp_path, ROWS))
    inputs, targets = examples(data)
    words = [["a", "good", "film"], ["bad", ",", "bad", "!"], ["good"], ["so", "bad"]]
    ids = [[hashed(word) for word in one] + [0] * (4 - len(one)) for one in words]
    assert inputs["input_ids"].tolist() == ids
    assert inputs["attention_mask"].tolist() == [[int(token > 0) for token in one] for one in ids]
    assert (data.class_names, targets.tolist()) == (("bad", "good"), [1, 0, 1, 0])
    assert data.train.lengths.tolist() == [3, 4, 1, 2]  # type: ignore[attr-defined] # what bucket-by-length reads
    only, target = data.train[2]
    assert (only["input_ids"].tolist(), int(target)) == ([hashed("good")], 1)


def test_bytes_are_tokens_and_a_longer_text_is_cut_with_a_warning(tmp_path: Path) -> None:
    source = Texts(table(tmp_path, [("é!", "a"), ("xyz", "b")]), pieces="bytes", max_length=2)
    inputs, _ = examples(source.build_data())
    assert inputs["input_ids"].tolist() == [[0xC3 + 1, 0xA9 + 1], [ord("x") + 1, ord("y") + 1]]
    assert source._notes == ["2 texts have more than 2 tokens (data.max_length), and the rest is left out: texts.csv"]


def test_a_folder_for_each_class_is_the_same_as_a_table(tmp_path: Path) -> None:
    for number, (text, label) in enumerate(ROWS):
        (tmp_path / "texts" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / label / f"{number}.txt").write_text(f"{text}\n")
    by_class = sorted(ROWS, key=lambda row: row[1])
    inputs, targets = examples(built(table(tmp_path, by_class)))
    others, indices = examples(built(tmp_path / "texts"))
    assert torch.equal(inputs["input_ids"], others["input_ids"])
    assert torch.equal(targets, indices)


def test_each_split_has_the_same_shares_of_the_classes() -> None:
    data = built(SENTENCES, target="source", split=[0.5, 0.3, 0.2])
    for dataset, count in ((data.train, 75), (data.validation, 45), (data.test, 30)):
        assert torch.bincount(dataset._targets).tolist() == [count] * 4  # type: ignore[union-attr]
    seen = torch.cat([dataset._starts for dataset in data.splits().values()])  # type: ignore[attr-defined]
    assert len(set(seen.tolist())) == 600


def test_other_texts_have_another_fingerprint(tmp_path: Path) -> None:
    def fingerprint(*changed: tuple[str, str]) -> str:
        train: Any = built(table(tmp_path, [*ROWS[: 4 - len(changed)], *changed])).train
        return str(train.fingerprint())

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(("so good", "bad")), fingerprint(("so bad", "good"))}) == 3


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_every_row_without_text_or_label_is_reported_with_its_line(tmp_path: Path) -> None:
    rows = [("fine", "a"), ("", "b"), ("fine", ""), ("  ", "b"), ("none", "?")]
    path = table(tmp_path, rows)
    with pytest.raises(DataError) as caught:
        built(path)
    found = [(str(fault.location).rpartition("/")[2], fault.message) for fault in caught.value.faults]
    places = [("3", "'text'"), ("4", "'label'"), ("5", "'text'")]
    assert [(place.split(":")[1], text) for place, text in found] == [
        (line, f"column {column}: it is empty") for line, column in places
    ]
    source = Texts(path, missing="drop")
    inputs, targets = examples(source.build_data())
    # Words for nothing in other tables are texts and labels here.
    assert (inputs["input_ids"][:, 0].tolist(), targets.tolist()) == ([hashed("fine"), hashed("none")], [2 - 1, 0])
    assert source._notes == ["3 texts have no text or no label, and cannot be used: texts.csv"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {"text": "txt", "target": "lable"}, "no column 'txt'.*no column 'lable'"),
        ([("x", "a"), ("y", "a")], {}, "at least two classes; the labels are: 'a'"),
        ([("x", "0.5"), ("y", "1")], {}, "numbers such as 0.5, not labels"),
        ([("x", "a"), ("y", "b")], {"split": [0.9, 0.1]}, "the validation split is empty"),
    ],
    ids=["columns", "one class", "numbers", "split"],
)
def test_data_that_cannot_be_classified_are_refused(
    tmp_path: Path, rows: list[tuple[str, str]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        built(table(tmp_path, rows), **options)
    text = " ".join(fault.message for fault in caught.value.faults)
    assert re.search(message, text), text


def test_every_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name in ("a/1.txt", "a/2.txt", "b/1.txt", "c/1.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes({"a/1.txt": b"\xff\xfe\xfd", "a/2.txt": b" "}.get(name, b"text"))
    with pytest.raises(DataError) as caught:
        built(tmp_path)
    found = [(str(fault.location).removeprefix(f"{tmp_path}/"), fault.message) for fault in caught.value.faults]
    assert [place for place, _ in found] == ["c", "a/1.txt", "a/2.txt"]
    assert [message.partition(":")[0] for _, message in found] == [
        "there are no .txt files",
        "the file is not in the encoding 'utf-8'",
        "it is empty",
    ]


def test_the_text_and_the_label_are_two_columns() -> None:
    with pytest.raises(ValueError, match="both name the column 'label'"):
        Texts(SENTENCES, text="label")


# ---- tokenizers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer with special tokens, whose file also says how to cut and to pad, as those of sentence encoders do."""
    tokenizers = pytest.importorskip("tokenizers", reason="the extra tokenizers is not installed")
    words = {word: number for number, word in enumerate(["[UNK]", "[PAD]", "[CLS]", "[SEP]", "good", "bad", "so"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_padding(length=9)
    made.enable_truncation(3)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_tokenizer_of_transformers_keeps_its_special_tokens(tmp_path: Path, tokenizer: Path) -> None:
    source = Texts(table(tmp_path, [("so so bad", "b"), ("good", "g")]), tokenizer=tokenizer, max_length=4)
    data = source.build_data()
    inputs, _ = examples(data)
    assert inputs["input_ids"].tolist() == [[2, 6, 6, 3], [2, 4, 3, 1]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert data.kept["vocab_size"] == 7
    assert source._notes[0].startswith("1 text has more than 4 tokens")


def test_predictions_need_the_tokenizer_of_the_training(tmp_path: Path, tokenizer: Path) -> None:
    source = Texts(table(tmp_path, ROWS), tokenizer=tokenizer / "tokenizer.json")
    data = source.build_data()
    source.build_predictor(data)
    (tmp_path / "tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text().replace('"so"', '"such"'))
    with pytest.raises(DataError, match="not the one that the model was trained with"):
        source.build_predictor(data)


@pytest.mark.parametrize(("text", "message"), [(None, "there is no tokenizer"), ("{}", "is not a tokenizer")])
def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    pytest.importorskip("tokenizers", reason="the extra tokenizers is not installed")
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        built(SENTENCES, target="source", tokenizer=tmp_path)


# ---- the model ------------------------------------------------------------------------------------------------------


def test_a_bag_is_a_linear_layer_on_the_mean_embedding(tmp_path: Path) -> None:
    data = built(table(tmp_path, ROWS))
    model: Any = BagOfTokens(3).build_model(data)
    assert model.embedding.weight.abs().max() <= 1 / 3
    inputs, _ = examples(data)
    table_of, weight, bias = (
        values.detach().double().numpy() for values in (model.embedding.weight, model.linear.weight, model.linear.bias)
    )
    by_hand = [weight @ table_of[ids[ids > 0]].mean(axis=0) + bias for ids in np.array(inputs["input_ids"].tolist())]
    np.testing.assert_allclose(model(**inputs).detach().numpy(), by_hand, rtol=1e-5, atol=1e-6)


def test_a_bag_needs_tokens() -> None:
    data = DataSource(torch.utils.data.TensorDataset(torch.zeros(2, 1)), in_features=1, out_features=1)
    with pytest.raises(ContractError, match="number of different tokens"):
        BagOfTokens().build_model(data)


# ---- runs -----------------------------------------------------------------------------------------------------------


def config(folder: Path, **values: Any) -> dict[str, Any]:
    return {
        "train": {"epochs": 2, "batch_size": 64, "evaluate": ["validation"], "dtype": "float64"},
        "data": {"use": "texts", "path": str(SENTENCES), "target": "source", "split": [0.8, 0.2], "buckets": 500},
        "model": {"use": "bag-of-tokens", "embedding_size": 4},
        "loss": {"use": "cross-entropy"},
        "optimizer": {"use": "adam", "lr": 0.05},
        "callbacks": {"run-folder": {"parent": str(folder), "name": "job"}, "checkpoint": {}, "bucket-by-length": {}},
    }


def test_a_run_is_the_loop_written_out(tmp_path: Path) -> None:
    few = {"train.epochs": 2, "train.batch_size": 16, "callbacks.limit-examples.num_examples": 40}
    options = {**few, "train.shuffle": False, "callbacks.bucket-by-length": "off", "optimizer": "sgd"}
    options["optimizer.lr"] = 0.05
    run = Run(load_config(config(tmp_path), options))
    data: Any = run.data.train
    table_of, linear = nn.Embedding(501, 4).double(), nn.Linear(4, 4).double()
    table_of.load_state_dict(run.model.embedding.state_dict())  # type: ignore[union-attr]
    linear.load_state_dict(run.model.linear.state_dict())  # type: ignore[union-attr]
    parameters = [*table_of.parameters(), *linear.parameters()]
    for _ in range(2):
        for start in range(0, len(data), 16):
            texts = [data[index] for index in range(start, min(start + 16, len(data)))]
            means = torch.stack([table_of(inputs["input_ids"]).mean(0) for inputs, _ in texts])
            loss = nn.functional.cross_entropy(linear(means), torch.stack([target for _, target in texts]))
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=0.05)
    run.fit()
    torch.testing.assert_close(run.model.linear.weight, linear.weight, rtol=1e-8, atol=1e-10)  # type: ignore[union-attr]
    torch.testing.assert_close(run.model.embedding.weight, table_of.weight, rtol=1e-8, atol=1e-10)  # type: ignore[union-attr]


def test_a_run_resumes_in_mid_epoch_with_the_same_bits_and_micro_batches_change_nothing(tmp_path: Path) -> None:
    whole = Run(load_config(config(tmp_path)))
    whole.fit()
    run = Run(load_config(config(tmp_path)))
    for taken in run.steps():
        if taken.step == 11:
            run.interrupt("test")
    again = resume(saved_folder(run).path)
    again.fit()
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))
    assert again.history == whole.history
    parts = Run(load_config(config(tmp_path), {"train.micro_batch_size": 20, "train.num_workers": 1}))
    parts.fit()
    for one, other in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


# ---- predictions ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Run(load_config(config(tmp_path_factory.mktemp("runs")), {"data.faulty": "empty"}))
    run.fit()
    return saved_folder(run).path


def predicted(saved: Path, source: Path, folder: Path) -> list[dict[str, str]]:
    write_predictions(load_trained(saved), source, folder / "out.csv", force=True)
    with (folder / "out.csv").open() as file:
        return list(csv.DictReader(file))


def test_predictions_are_those_of_the_model_and_carry_other_columns(tmp_path: Path, saved: Path) -> None:
    trained = load_trained(saved)
    rows = predicted(saved, SENTENCES, tmp_path)
    with SENTENCES.open() as file:
        given = list(csv.DictReader(file))
    assert [(row["id"], row["source"]) for row in rows] == [(row["id"], row["source"]) for row in given]
    labels = trained.predict([row["text"] for row in given])
    assert [row["predicted_source"] for row in rows] == list(labels)
    assert sum(row["predicted_source"] == row["source"] for row in rows) > 400
    chances = trained.predict([given[7]["text"]], probabilities=True)[0]
    assert [float(rows[7][f"probability_{name}"]) for name in trained.data.class_names] == pytest.approx(list(chances))


def test_a_row_that_cannot_be_read_has_a_problem_and_no_prediction(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "new.csv").write_text("id,text\n1,a film\n2,\n3,two,many\n4,a film\n")
    rows = predicted(saved, tmp_path / "new.csv", tmp_path)
    assert [row["problem"] for row in rows] == ["", "it is empty", "the row has 3 fields, the header has 2", ""]
    assert [bool(row["predicted_source"]) for row in rows] == [True, False, False, True]
    assert rows[0]["probability_film"] == rows[3]["probability_film"] != rows[1]["probability_film"] == ""


def test_without_leave_to_skip_them_every_such_row_is_an_error_with_its_line(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "new.csv").write_text("id,text\n1,a film\n2,\n3, \n")
    trained = load_trained(saved, overrides={"data.faulty": "error"})
    with pytest.raises(DataError) as caught:
        list(trained.predictions(tmp_path / "new.csv"))
    assert [fault.location.line for fault in caught.value.faults if fault.location] == [3, 4]
    with pytest.raises(DataError, match="there is no column 'text'"):
        list(trained.predictions(table(tmp_path, [("a", "b")], ("txt", "b"))))


def test_a_folder_is_predicted_file_by_file(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "new" / "sub").mkdir(parents=True)
    for name in ("b.txt", "sub/a.txt"):
        (tmp_path / "new" / name).write_text("a film")
    rows = predicted(saved, tmp_path / "new", tmp_path)
    assert [row["file"] for row in rows] == ["b.txt", "sub/a.txt"]
    assert rows[0]["predicted_source"] == rows[1]["predicted_source"] == load_trained(saved).predict("a film")[0]


@pytest.mark.parametrize(("texts", "message"), [(["a", 1, None], "text 1 is int"), (["a", ""], "text 1 has no tokens")])
def test_a_list_with_anything_but_texts_is_refused(saved: Path, texts: list[Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_trained(saved).predict(texts)
    assert message in str(caught.value.faults)


def test_the_model_is_exported_for_any_number_of_texts(tmp_path: Path, saved: Path) -> None:
    assert compared(export_model(load_trained(saved), "torch-export", tmp_path / "model.pt2")).num_examples == 16
