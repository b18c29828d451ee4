"""Model and loss ``transformers``: the numbers of the package itself, and folders that cannot be used."""

from __future__ import annotations

import dataclasses
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from hookline import (
    Catalog,
    CheckpointError,
    ConfigError,
    DataSource,
    PluginError,
    Run,
    load_config,
    resume,
)
from hookline.config import entries_of_file
from hookline.trained import evaluate_run, export_model, load_trained
from support import compared, saved_folder

NUM, TOKENS, WORDS, CLASSES = 12, 7, 20, 3
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**SMALL, "vocab_size": WORDS, "max_position_embeddings": TOKENS, "pad_token_id": 0}
IMAGE = {**SMALL, "image_size": 8, "patch_size": 4}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODELS: dict[str, dict[str, Any]] = {
    "sequence-classification": {"architecture": "bert", "config": {**TEXT, **STILL}},
    "token-classification": {"architecture": "bert", "config": {**TEXT, **STILL}},
    "causal-lm": {"architecture": "llama", "config": {**TEXT, "bos_token_id": 1, "eos_token_id": 2}},
    "image-classification": {"architecture": "vit", "config": {**IMAGE, **STILL}},
}
EACH_TASK = pytest.mark.parametrize("task", MODELS)

PLUGINS = '''
from test_transformers_data import source

import hookline


@hookline.plugin("data", "examples")
def examples(task: str, as_mappings: bool = False):
    """A few random examples of a task."""
    return source(task, as_mappings)
'''


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection, and every question for an address."""

    def refused(*arguments: Any, **_: Any) -> NoReturn:
        raise AssertionError(f"a connection to {arguments[-1]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refused)


@pytest.fixture
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="the extra transformers is not installed")


class Examples(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Random examples of a task: tokens of several lengths, with padding that does not count, or images."""

    def __init__(self, task: str, num: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        classes = torch.randint(CLASSES, (num, TOKENS), generator=random)
        if task == "image-classification":
            self.inputs = {"pixel_values": torch.randn(num, 3, 8, 8, generator=random)}
        else:
            mask = (torch.arange(TOKENS) < torch.randint(2, TOKENS + 1, (num, 1), generator=random)).long()
            self.inputs = {
                "input_ids": torch.randint(3, WORDS, (num, TOKENS), generator=random) * mask,
                "attention_mask": mask,
            }
        if task in ("token-classification", "causal-lm"):
            words = classes if task == "token-classification" else self.inputs["input_ids"]
            self.target = words.where(self.inputs["attention_mask"] == 1, -100)
        else:
            self.target = classes[:, 0]

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: Any) -> tuple[dict[str, Tensor], Tensor]:
        return {name: values[index] for name, values in self.inputs.items()}, self.target[index]


class Mappings(Examples):
    """The same as mappings, as datasets for transformers have them."""

    def __getitem__(self, index: Any) -> Any:
        inputs, target = super().__getitem__(index)
        return inputs | {"labels": target}


def source(task: str, as_mappings: bool) -> DataSource:
    num_classes, kind = None if task == "causal-lm" else CLASSES, Mappings if as_mappings else Examples
    return DataSource(kind(task, NUM, 0), kind(task, 10, 1), out_features=num_classes)


@pytest.fixture
def catalog(tmp_path: Path, transformers: Any) -> Catalog:
    plugins = f"import sys\n\nsys.modules.setdefault('test_transformers_data', sys.modules[{__name__!r}]){PLUGINS}"
    (tmp_path / "examples.py").write_text(plugins)
    return Catalog.installed().with_entries(entries_of_file(tmp_path / "examples.py"))


def config(task: str, parent: Path, **model: Any) -> dict[str, Any]:
    return {
        "train": {"epochs": 1, "batch_size": 4, "eval_batch_size": 4, "dtype": "float64", "evaluate": ["validation"]},
        "data": {"use": "examples", "task": task},
        "model": {"use": "transformers", "task": task, **(model or MODELS[task])},
        "loss": {"use": "transformers"},
        "optimizer": {"use": "adamw", "lr": 0.01},
        "callbacks": {"run-folder": {"parent": str(parent / "runs"), "name": "job"}, "checkpoint": {}},
    }


@pytest.fixture
def model_folder(tmp_path: Path, transformers: Any) -> Path:
    """A folder with a classifier of three classes, as transformers saves it."""
    torch.manual_seed(3)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT, num_labels=CLASSES))
    model.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


# ---- numbers --------------------------------------------------------------------------------------------------------


@EACH_TASK
def test_a_run_is_the_loop_written_out_with_transformers(
    task: str, tmp_path: Path, catalog: Catalog, transformers: Any
) -> None:
    run = Run(load_config(config(task, tmp_path), {"train.shuffle": False}, catalog=catalog))
    values = MODELS[task]["config"] | ({} if task == "causal-lm" else {"num_labels": CLASSES})
    again = type(run.unwrapped_model)(type(run.unwrapped_model.config)(**values)).double()
    again.load_state_dict(run.unwrapped_model.state_dict())
    optimizer = torch.optim.AdamW(again.parameters(), lr=0.01)
    for start in range(0, NUM, 4):
        loss = again(**batch(task, NUM, 0, start)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    metrics = run.fit().metrics
    for one, other in zip(run.model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    # the mean over all that counts in the split, not that of the means of batches
    with torch.no_grad():
        whole = again.eval()(**batch(task, 10, 1, 0, 10)).loss
    assert metrics["validation/loss"] == pytest.approx(whole.item(), rel=1e-5)


def batch(task: str, num: int, seed: int, start: int, size: int = 4) -> dict[str, Tensor]:
    inputs, target = Examples(task, num, seed)[:]
    values = {name: v.double() if v.is_floating_point() else v for name, v in (inputs | {"labels": target}).items()}
    return {name: value[start : start + size] for name, value in values.items()}


@EACH_TASK
def test_micro_batches_and_mappings_change_nothing(task: str, tmp_path: Path, catalog: Catalog) -> None:
    """Parts of a batch have other numbers of tokens that count; items may be mappings with their labels."""
    values = config(task, tmp_path) | {"optimizer": {"use": "sgd", "lr": 0.1}}
    options: list[dict[str, Any]] = [{}, {"train.micro_batch_size": 3}, {"data.as_mappings": True}]
    runs = [Run(load_config(values, each, catalog=catalog)) for each in options]
    for run in runs:
        run.fit()
    for run in runs[1:]:
        for one, other in zip(runs[0].model.parameters(), run.model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)  # transformers sums tokens in float32
        assert runs[0].history[-1] == pytest.approx(dict(run.history[-1]), rel=1e-6)


@pytest.mark.parametrize("step", [1, 2])
def test_a_run_from_a_folder_resumes_with_the_same_bits(
    tmp_path: Path, catalog: Catalog, model_folder: Path, step: int
) -> None:
    values = config("sequence-classification", tmp_path, folder=str(model_folder))
    whole = Run(load_config(values, catalog=catalog))
    whole.fit()
    run = Run(load_config(values, catalog=catalog))
    for taken in run.steps():
        if taken.step == step:
            run.interrupt("test")
    again = resume(saved_folder(run).path, catalog=catalog)
    again.fit()
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))
    assert again.history == whole.history


@EACH_TASK
def test_a_saved_run_is_evaluated_used_and_exported(task: str, tmp_path: Path, catalog: Catalog) -> None:
    run = Run(load_config(config(task, tmp_path), catalog=catalog))
    run.fit()
    path = saved_folder(run).path
    evaluated = evaluate_run(path, splits=["validation"], catalog=catalog)
    assert evaluated.metrics.items() <= run.history[-1].items()
    trained = load_trained(path, catalog=catalog)
    inputs, _ = Examples(task, 5, 2)[:]
    assert torch.equal(trained.output(inputs), run.model.eval()(**trained.placed(inputs)).logits)
    for name in ("safetensors", *(["torch-export"] if task == "image-classification" else [])):
        assert compared(export_model(trained, name, tmp_path / f"model.{name}", force=True)).num_examples == NUM


def test_numbers_are_predicted_with_one_output(tmp_path: Path, catalog: Catalog) -> None:
    values = config("sequence-classification", tmp_path)

    class Numbers(Examples):
        def __getitem__(self, index: Any) -> tuple[dict[str, Tensor], Tensor]:
            inputs, target = super().__getitem__(index)
            return inputs, target.double()

    data = DataSource(Numbers("sequence-classification", NUM, 0), out_features=1)
    run = Run(load_config(values, {"train.evaluate": ["train"]}, plugins={"data": data}))
    metrics = run.fit().metrics
    assert metrics.keys() == {"train/running_loss", "train/loss"}  # no accuracy of numbers
    inputs, target = data.train[:]
    predicted = run.model.eval()(**inputs).logits[:, 0]
    assert metrics["train/loss"] == pytest.approx((predicted - target).square().mean().item())


def test_a_run_prints_nothing(tmp_path: Path, catalog: Catalog, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": TOKENS, "vocab_size": WORDS}
    tokens = {"bos_token_id": 1, "eos_token_id": 2}
    run = Run(load_config(config("causal-lm", tmp_path, architecture="gpt2", config=sizes | tokens), catalog=catalog))
    run.fit()
    assert capfd.readouterr() == ("", "")


# ---- pooling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2])
def test_a_mean_pooled_run_is_the_loop_written_out_and_resumes(
    tmp_path: Path, catalog: Catalog, model_folder: Path, transformers: Any, step: int
) -> None:
    values = config("sequence-classification", tmp_path, folder=str(model_folder), pooling="mean", config=STILL)
    run = Run(load_config(values | {"loss": {"use": "cross-entropy"}}, {"train.shuffle": False}, catalog=catalog))
    saved = load_file(model_folder / "model.safetensors")
    encoder = transformers.BertModel(transformers.BertConfig(**TEXT | STILL), add_pooling_layer=False).double()
    encoder.load_state_dict(
        {k.removeprefix("bert."): v for k, v in saved.items() if "pooler" not in k and "bert." in k}
    )
    head: Any = torch.nn.Linear(16, CLASSES).double()
    head.load_state_dict(run.model.classifier.state_dict())  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=0.01)
    for start in range(0, NUM, 4):
        given = batch("sequence-classification", NUM, 0, start)
        hidden = encoder(given["input_ids"], given["attention_mask"]).last_hidden_state
        lengths = given["attention_mask"].sum(1).tolist()
        means = torch.stack([one[:length].mean(0) for one, length in zip(hidden, lengths, strict=True)])
        loss: Any = torch.nn.functional.cross_entropy(head(means), given["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for taken in run.steps():
        if taken.step == step:
            run.interrupt("test")
    again = resume(saved_folder(run).path, catalog=catalog)
    again.fit()
    for one, other in zip(again.model.parameters(), [*encoder.parameters(), *head.parameters()], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_mean_pooled_model_has_the_loss_of_transformers_and_is_exported(
    tmp_path: Path, catalog: Catalog, model_folder: Path
) -> None:
    values = config("sequence-classification", tmp_path, folder=str(model_folder), pooling="mean")
    run = Run(load_config(values, catalog=catalog))
    metrics = run.fit().metrics
    inputs, target = source("sequence-classification", as_mappings=False).validation[:]  # type: ignore[index]
    logits = run.model.eval()(**inputs).logits
    assert metrics["validation/loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, target).item())
    trained = load_trained(saved_folder(run).path, catalog=catalog)
    assert torch.equal(trained.output(inputs), logits)
    assert compared(export_model(trained, "torch-export", tmp_path / "model.pt2")).num_examples == NUM
    assert [warning for warning in run.warnings if "classifier" not in warning] == []


def test_a_model_that_lacks_tokens_or_positions_of_the_data_is_refused(tmp_path: Path, catalog: Catalog) -> None:
    kept = {"vocab_size": WORDS + 1, "max_length": TOKENS + 1}
    data = dataclasses.replace(source("sequence-classification", as_mappings=False), kept=kept)
    with pytest.raises(ConfigError) as caught:
        Run(load_config(config("sequence-classification", tmp_path), plugins={"data": data}, catalog=catalog))
    assert [fault.message for fault in caught.value.faults] == [
        "the data have 21 different tokens, and the model 20",
        "texts may have 8 tokens, and the model has 7 positions",
    ]
    sizes = {key: value for key, value in MODELS["sequence-classification"]["config"].items() if key != "vocab_size"}
    values = config("sequence-classification", tmp_path, architecture="bert", config=sizes)
    data = dataclasses.replace(data, kept={"vocab_size": 30})
    run = Run(load_config(values, plugins={"data": data}, catalog=catalog))
    assert cast(Any, run.model).config.vocab_size == 30


def test_only_sequences_are_pooled(tmp_path: Path, catalog: Catalog) -> None:
    values = config("causal-lm", tmp_path, **MODELS["causal-lm"], pooling="mean")
    with pytest.raises(ConfigError, match="'mean' is for task = 'sequence-classification', not 'causal-lm'"):
        Run(load_config(values, catalog=catalog))


# ---- folders --------------------------------------------------------------------------------------------------------


def built(task: str, folder: Path, catalog: Catalog, **model: Any) -> Run:
    return Run(load_config(config(task, folder.parent, folder=str(folder), **model), catalog=catalog))


def test_the_weights_of_a_folder_are_those_of_the_model(
    model_folder: Path, catalog: Catalog, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    run = built("sequence-classification", model_folder, catalog)
    saved = load_file(model_folder / "model.safetensors")
    state = run.model.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], value.double()) for name, value in saved.items())
    run.fit()
    assert list(run.warnings) == []
    assert capfd.readouterr() == ("", "")


def test_weights_in_several_files_are_read_by_their_index(model_folder: Path, catalog: Catalog) -> None:
    one = built("sequence-classification", model_folder, catalog)
    weights = load_file(model_folder / "model.safetensors")
    names = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(weights)}
    for file in set(names.values()):
        save_file({name: value for name, value in weights.items() if names[name] == file}, model_folder / file)
    (model_folder / "model.safetensors").unlink()
    (model_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    other = built("sequence-classification", model_folder, catalog)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_a_head_for_other_classes_is_new_and_the_rest_is_kept(model_folder: Path, catalog: Catalog) -> None:
    run = built("token-classification", model_folder, catalog, config={"num_labels": 4})
    saved = load_file(model_folder / "model.safetensors")
    state = run.model.state_dict()
    assert state["classifier.weight"].shape == (4, 16)
    kept = state.keys() & saved.keys() - {"classifier.weight", "classifier.bias"}
    assert len(kept) == len(state) - 2
    assert all(torch.equal(state[name], saved[name].double()) for name in kept)
    run.fit()
    (warning,) = run.warnings
    assert warning.endswith(
        "new: classifier.bias, classifier.weight; not used: bert.pooler.dense.bias, bert.pooler.dense.weight"
    )


def spoil_config(**values: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | values))

    return spoil


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_weights(folder: Path) -> None:
    save_file({"fc.weight": torch.zeros(3)}, folder / "model.safetensors")


def index_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')


@pytest.mark.parametrize(
    ("spoil", "message", "hint"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json", "nothing is downloaded"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read", ""),
        (lambda folder: (folder / "config.json").write_text("{}"), "has no model_type", "save_pretrained"),
        (spoil_config(quantization_config={"quant_method": "bitsandbytes"}), "quantized weights", "without quant"),
        (spoil_config(model_type="berd"), "no architecture 'berd' for sequence-classification", "'bert'"),
        (spoil_config(model_type="own", auto_map={"AutoModel": "own.py"}), "no architecture 'own'", "never run"),
        (only_pickle, r"pytorch_model\.bin would have to be unpickled", "save the model again"),
        (other_weights, "has no weight of this model", "fc.weight"),
        (index_elsewhere, r"lists '\.\./other\.safetensors'", ""),
    ],
    ids=["no config", "no JSON", "no type", "quantized", "unknown", "own code", "pickle", "other weights", "elsewhere"],
)
def test_a_folder_that_cannot_be_used_is_refused(
    model_folder: Path, catalog: Catalog, spoil: Callable[[Path], None], message: str, hint: str
) -> None:
    spoil(model_folder)
    with pytest.raises(ConfigError, match=message) as caught:
        built("sequence-classification", model_folder, catalog)
    assert hint in (caught.value.hint or "")


def test_a_config_chooses_no_code(model_folder: Path, catalog: Catalog) -> None:
    """The name of an implementation may be that of code to fetch."""
    spoil_config(attn_implementation="someone/attention", _attn_implementation="someone/attention")(model_folder)
    run = built("sequence-classification", model_folder, catalog)
    assert cast(Any, run.unwrapped_model.config)._attn_implementation == "sdpa"


def test_unknown_values_of_the_config_are_reported_at_once_with_the_nearest_names(
    tmp_path: Path, catalog: Catalog
) -> None:
    given = {"architecture": "bert", "config": {"hiden_size": 16, "wrong": 1}}
    with pytest.raises(ConfigError, match="does not fit the architecture 'bert'") as caught:
        Run(load_config(config("causal-lm", tmp_path, **given), catalog=catalog))
    assert {fault.message for fault in caught.value.faults} == {"config has no 'hiden_size'", "config has no 'wrong'"}
    assert any(fault.hint == "did you mean 'hidden_size'?" for fault in caught.value.faults)


def test_a_value_that_transformers_refuses_is_an_error_of_the_config(tmp_path: Path, catalog: Catalog) -> None:
    given = {"architecture": "bert", "config": {"hidden_size": "wide"}}
    with pytest.raises(ConfigError, match="transformers cannot make the model 'bert' from its config: "):
        Run(load_config(config("causal-lm", tmp_path, **given), catalog=catalog))


@pytest.mark.parametrize("options", [{}, {"folder": "here", "architecture": "bert"}], ids=["neither", "both"])
def test_a_model_has_either_a_folder_or_an_architecture(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="set either `folder` or `architecture`"):
        Run(load_config({"model": {"use": "transformers", "task": "causal-lm", **options}}))


def test_the_loss_needs_the_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the loss transformers needs the model transformers"):
        Run(load_config({"loss": {"use": "transformers"}}))


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PluginError, match="the model transformers needs transformers") as caught:
        Run(load_config({"model": {"use": "transformers", "task": "causal-lm", "architecture": "gpt2"}}))
    assert caught.value.hint == "pip install 'hookline[transformers]'"


# ---- adapters -------------------------------------------------------------------------------------------------------


def adapted(parent: Path, model_folder: Path) -> dict[str, Any]:
    values = config("sequence-classification", parent, folder=str(model_folder))
    lora = {"targets": ["*.query", "*.value"], "rank": 2, "full": ["classifier.*"]}
    return values | {"callbacks": values["callbacks"] | {"lora": lora}}


def test_adapters_for_a_folder_are_saved_without_it_and_merged_into_a_model_of_transformers(
    tmp_path: Path, catalog: Catalog, model_folder: Path, transformers: Any
) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    run = Run(load_config(adapted(tmp_path, model_folder), {"train.dtype": "float32"}, catalog=catalog))
    run.fit()
    saved = load_file(saved_folder(run).path / "model.safetensors")
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in saved if "lora" in name} == {"query", "value"}
    assert {name for name in saved if "lora" not in name} == {"classifier.weight", "classifier.bias", "left_out_sha256"}

    trained = load_trained(saved_folder(run).path, catalog=catalog)
    export_model(trained, "safetensors", model_folder / "model.safetensors", force=True)
    theirs = transformers.BertForSequenceClassification.from_pretrained(model_folder, local_files_only=True)
    inputs, _ = Examples("sequence-classification", 5, 2)[:]
    with torch.no_grad():
        torch.testing.assert_close(theirs(**inputs).logits, run.model.eval()(**inputs).logits)


def test_adapters_resume_with_the_same_bits_and_never_for_another_folder(
    tmp_path: Path, catalog: Catalog, model_folder: Path
) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    whole, run = (Run(load_config(adapted(tmp_path, model_folder), catalog=catalog)) for _ in range(2))
    whole.fit()
    for taken in run.steps():
        if taken.step == 2:
            run.interrupt("test")
    weights = load_file(model_folder / "model.safetensors")
    save_file(
        weights | {"bert.pooler.dense.bias": weights["bert.pooler.dense.bias"] + 1e-7},
        model_folder / "model.safetensors",
    )
    for use in (resume, evaluate_run, load_trained):
        with pytest.raises(CheckpointError, match="built with other frozen weights"):
            use(saved_folder(run).path, catalog=catalog)
    save_file(weights, model_folder / "model.safetensors")
    again = resume(saved_folder(run).path, catalog=catalog)
    again.fit()
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))
