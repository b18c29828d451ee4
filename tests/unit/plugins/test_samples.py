"""Text that a language model writes: the callback ``samples``, and predictions for the data source ``corpus``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hookline import ContractError, DataError, Run, load_config, resume, train
from hookline.trained import evaluate_run, export_model, load_trained, write_predictions
from hookline_plugins.data.text.sampling import Sampling, continuations, drawn
from support import compared, saved_folder

TEXT = "the cat sat on the mat. the dog sat on the log. " * 4


def config(folder: Path, **callbacks: Any) -> dict[str, Any]:
    path = folder / "text.txt"
    path.write_text(TEXT)
    return {
        "train": {"epochs": 2, "batch_size": 4, "evaluate": ["validation"]},
        "data": {
            "use": "corpus",
            "path": str(path),
            "context": 8,
            "split": [0.8, 0.2],
            "cache": str(folder / "cache"),
            "tokenizer": "characters",
            "new_tokens": 12,
        },
        "model": {"use": "gpt", "layers": 1, "heads": 2, "width": 16, "dropout": 0.2},
        "loss": {"use": "cross-entropy"},
        "optimizer": {"use": "adamw", "lr": 0.01},
        "callbacks": callbacks,
    }


def saved(folder: Path, **callbacks: Any) -> tuple[Path, Any]:
    folders = {"run-folder": {"parent": str(folder / "runs"), "name": "job"}, "checkpoint": {"every_steps": 1}}
    return folder / "runs" / "0001-job", train(config(folder, **folders, **callbacks))


def test_a_run_has_the_same_bits_with_and_without_samples(tmp_path: Path) -> None:
    prompts = ["the ", "unknown: ?"]
    samples = {"prompts": prompts, "new_tokens": 9}
    before = torch.get_rng_state()
    plain, sampled = train(config(tmp_path)), train(config(tmp_path, samples=samples))
    assert torch.equal(before, torch.get_rng_state())
    assert plain.history == sampled.history
    weights = plain.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in sampled.model.state_dict().items())
    assert list(sampled.summary) == ["samples at step 5", "samples at step 10"]
    rows = [row for table in sampled.summary.values() for row in table]
    assert [row["prompt"] for row in rows] == prompts * 2
    assert all(len(str(row["text"])) <= 9 and set(str(row["text"])) <= set(TEXT + "\ufffd") for row in rows)


def test_the_samples_of_a_resumed_run_are_those_of_one_that_was_not_interrupted(tmp_path: Path) -> None:
    callbacks = {
        "samples": {"prompts": ["the "], "new_tokens": 9},
        "run-folder": {"parent": str(tmp_path / "runs")},
        "checkpoint": {"every_steps": 1, "every_s": 0.0},
    }
    whole = train(config(tmp_path, **callbacks))
    interrupted = Run(load_config(config(tmp_path, **callbacks)))
    for taken in interrupted.steps():
        if taken.step == 7:  # in the middle of the second epoch, after a sample
            interrupted.interrupt("the test")
    resumed = resume(saved_folder(interrupted).path).fit()
    assert list(whole.summary) == ["samples at step 5", "samples at step 10"]
    assert resumed.summary == whole.summary
    weights = whole.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.model.state_dict().items())


def test_predictions_are_those_of_a_loop_by_hand_and_the_same_each_time(tmp_path: Path) -> None:
    path, result = saved(tmp_path)
    prompts = ["the ", "", "a longer prompt than the context, "]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    alphabet = sorted(set(TEXT[: round(len(TEXT) * 0.8)]))
    model, rows = result.model.eval(), []
    for prompt in prompts:
        tokens = [alphabet.index(c) if c in alphabet else len(alphabet) for c in prompt] or [len(alphabet) + 1]
        count = len(tokens)
        while len(tokens) < count + 12:
            with torch.no_grad():
                token = int(model(torch.tensor([tokens[-8:]]))[0, :, -1].argmax())
            if token == len(alphabet) + 1:
                break
            tokens.append(token)
        rows.append({"prompt": prompt, "continuation": "".join([*alphabet, "\ufffd"][t] for t in tokens[count:])})
    found = []
    for name, overrides in (
        ("greedy", {"data.temperature": 0.0}),
        ("first", {}),
        ("second", {"train.eval_batch_size": 2}),
        ("other", {"data.sampling_seed": 5}),
    ):
        trained = load_trained(path, overrides)
        assert write_predictions(trained, tmp_path / "prompts.txt", tmp_path / f"{name}.csv") == 3
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            found.append(list(csv.DictReader(file)))
    assert found[0] == rows
    assert found[1] == found[2] != found[3]
    # The texts need not exist any more.
    (tmp_path / "text.txt").unlink()
    assert next(load_trained(path).predictions(tmp_path / "prompts.txt"))["prompt"] == prompts


def test_prompts_may_be_the_column_of_a_table_and_are_checked(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    path, _ = saved(tmp_path)
    (tmp_path / "prompts.csv").write_text("id,words\n1,the \n2,\n")
    (found,) = load_trained(path, {"data.column": "words"}).predictions(tmp_path / "prompts.csv")
    assert found["prompt"] == ["the ", ""]
    (tmp_path / "prompts.txt").write_bytes(b"good\nb\xe4d\n")
    with pytest.raises(DataError) as caught:
        list(load_trained(path).predictions(tmp_path / "prompts.txt"))
    assert [str(fault.location) for fault in caught.value.faults] == [f"{tmp_path / 'prompts.txt'}:2:2"]


def test_a_saved_run_is_evaluated_and_exported(tmp_path: Path) -> None:
    path, result = saved(tmp_path, metrics={"metrics": ["perplexity"]})
    found = evaluate_run(path, splits=["validation"]).metrics
    assert found["validation/loss"] == pytest.approx(result.metrics["validation/loss"], rel=1e-6)
    assert found["validation/perplexity"] == pytest.approx(
        float(torch.tensor(found["validation/loss"]).double().exp()), rel=1e-6
    )
    made = export_model(load_trained(path), "torch-export", tmp_path / "model.pt2")
    assert compared(made).num_examples == 16


def test_tokens_are_drawn_by_their_probabilities() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.tensor([drawn(logits, Sampling(1, 2.0, 3), generator) for _ in range(4000)]))
    probabilities = (torch.tensor([-torch.inf, 1.5, 0.5, 1.0])).softmax(0)
    assert (counts / 4000).tolist() == pytest.approx(probabilities.tolist(), abs=0.04)
    assert counts[0] == 0
    assert drawn(logits, Sampling(1, 0.0, 0), generator) == 1


def test_a_continuation_ends_before_the_token_between_texts() -> None:
    def next_number(tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((tokens + 1) % 6, 6).movedim(2, 1).float()

    generators = [torch.Generator() for _ in range(3)]
    found = continuations(next_number, [[0], [3, 1, 2, 4], [5]], Sampling(4, 0.0, 0), generators, 3, 5)
    assert found == [[1, 2, 3, 4], [], [0, 1, 2, 3]]


def test_samples_are_shown_after_each_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = {"prompts": ["the "], "new_tokens": 2}
    values = {**config(tmp_path, samples=samples), "train": {"epochs": 2, "batch_size": 4, "evaluate_every_steps": 3}}
    values["callbacks"] = {"progress": {}, **values["callbacks"]}
    result = train(values)
    lines = capsys.readouterr().out.splitlines()
    kinds = [line.split()[0] for line in lines if line.strip()]
    assert [line for line in lines if line.startswith("samples")] == [f"samples at step {n}" for n in (3, 5, 6, 9, 10)]
    sample = ["samples", "prompt", "the"]
    epochs = [["step", *sample, "1/2", *sample], ["step", *sample, "step", *sample, "2/2", *sample]]
    assert kinds == ["not", "epoch", *epochs[0], *epochs[1], "completed"]
    values["callbacks"] = {"json-lines": {}, "samples": samples}
    train(values)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    reports = [event for event in events if event["event"] == "report"]
    assert {event["title"]: event["rows"] for event in reports} == result.summary
    before = [events[number - 1] for number, event in enumerate(events) if event["event"] == "report"]
    assert {event["event"] for event in before} == {"evaluation_end"}
    assert [event["step"] for event in reports] == [3, 5, 6, 9, 10]


def test_samples_need_a_tokenizer() -> None:
    with pytest.raises(ContractError, match="needs the tokenizer of the data source corpus"):
        Run(load_config({"callbacks": {"samples": {}}})).fit()
