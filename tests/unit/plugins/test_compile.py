"""Callback ``compile``: the model is compiled, keeps its names, and computes the same."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookline import ConfigError, ContractError, Run, RunResult, RunView, hookimpl, load_config
from support import run

CONFIG: dict[str, Any] = {
    "train": {"epochs": 2, "batch_size": 8},
    "data": {"num_examples": 44},
    "model": {"use": "mlp", "hidden": [8], "dropout": 0.25},
    "optimizer": {"use": "adam", "lr": 0.01},
}


@pytest.fixture(autouse=True)
def _forget_what_was_compiled() -> Iterator[None]:
    """torch counts compilations over all models of the process, and stops compiling after a few."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(*overrides: str, backend: str = "eager", **plugins: Any) -> Run:
    return Run(load_config({**CONFIG, "callbacks": {"compile": {"backend": backend}}}, overrides, plugins=plugins))


def weights_of(result: RunResult) -> list[list[float]]:
    return [weight.flatten().tolist() for weight in result.model.state_dict().values()]


class Counts(nn.Module):
    """A linear model that counts how often Python runs its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.num_calls = 0

    def forward(self, inputs: Tensor) -> Any:
        if not torch.compiler.is_compiling():
            self.num_calls += 1
        return self.layer(inputs)


def test_the_model_is_compiled_in_training_and_in_evaluation() -> None:
    model = Counts()
    compiled(model=model).fit()
    assert model.num_calls == 0


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_computes_the_same(backend: str) -> None:
    assert compiled(backend=backend).fit().metrics == pytest.approx(
        dict(Run(load_config(CONFIG)).fit().metrics), rel=1e-5
    )


def test_weights_keep_their_names_in_the_state_and_load_into_a_run_that_does_not_compile() -> None:
    run = compiled()
    state = run.state_dict()
    assert (
        list(state["model"]) == list(run.unwrapped_model.state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    )
    assert state["wrappers"] == {}
    assert state["plugins"] == {}
    Run(load_config(CONFIG)).load_state_dict(state)


@pytest.mark.parametrize("order", [("compile", "mixed-precision"), ("mixed-precision", "compile")])
def test_no_name_of_a_wrapper_is_in_the_state_whatever_their_order(order: tuple[str, str]) -> None:
    tables: dict[str, Any] = {"compile": {"backend": "eager"}, "mixed-precision": {}}
    state = Run(load_config({**CONFIG, "callbacks": {name: tables[name] for name in order}})).state_dict()
    assert not [name for name in (*state["model"], *state["wrappers"]) if "_orig_mod" in name or "module" in name]


def test_a_resumed_run_ends_with_the_same_bits() -> None:
    whole = compiled().fit()
    first, second = compiled(), compiled()
    second.load_state_dict(next(first.state_dict() for step in first.steps() if step.step == 4))
    result = second.fit()
    assert (result.history, weights_of(result)) == (whole.history, weights_of(whole))


def test_a_compiled_model_is_left_unchanged() -> None:
    model = torch.compile(Counts(), backend="eager")
    run = compiled(model=model)
    assert run.model is model
    assert run.warnings == ["the model is already compiled; compile leaves it unchanged"]


class Breaks(nn.Module):
    """A model that cannot be one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs: Tensor) -> Any:
        torch._dynamo.graph_break()
        return self.layer(inputs)


def test_a_model_that_cannot_be_one_graph_may_be_several() -> None:
    assert compiled(model=Breaks()).fit().outcome == "completed"


def test_a_model_that_cannot_be_one_graph_is_an_error_when_it_has_to_be() -> None:
    with pytest.raises(ContractError, match=r"callback 'compile' .* fails on the first batch"):
        compiled("callbacks.compile.fullgraph=true", model=Breaks())


@pytest.mark.parametrize("dynamic", ["true", "false", "auto"])
def test_dynamic_is_taken_as_torch_takes_it(dynamic: str) -> None:
    assert compiled(f"callbacks.compile.dynamic={dynamic}").fit().outcome == "completed"


def test_a_backend_that_torch_does_not_know_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(backend="indcutor")
    assert (caught.value.message, caught.value.hint) == (
        "compile: torch has no backend 'indcutor'",
        "did you mean 'inductor'?",
    )


def test_a_mode_of_inductor_is_refused_with_another_backend() -> None:
    with pytest.raises(ConfigError, match="mode = 'max-autotune' needs backend = 'inductor', but it is 'eager'"):
        compiled("callbacks.compile.mode=max-autotune")


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_inductor_compiles_the_default_model() -> None:
    config = {"train": {"epochs": 1, "evaluate": []}, "data": {"num_examples": 40}}
    result = Run(load_config({**config, "callbacks": {"compile": {}}})).fit()
    assert result.metrics == pytest.approx(dict(Run(load_config(config)).fit().metrics), rel=1e-5)


def test_a_backend_that_another_distribution_declares_is_refused_without_an_import(tmp_path: Path) -> None:
    """In a process of its own, because torch reads the declared ones once."""
    metadata = tmp_path / "acme_compiler-1.0.dist-info"
    metadata.mkdir()
    (tmp_path / "acme_compiler.py").write_text("raise SystemExit('it was imported')\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-compiler\nVersion: 1.0\n")
    entries = "[torch_dynamo_backends]\nacme = acme_compiler:compile\neager = acme_compiler:compile\n"
    (metadata / "entry_points.txt").write_text(entries)
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from hookline import ConfigError, Run, load_config\n"
        "Run(load_config({'callbacks': {'compile': {'backend': 'eager'}}})).fit()\n"
        "try:\n"
        "    Run(load_config({'callbacks': {'compile': {'backend': 'acme'}}}))\n"
        "except ConfigError as error:\n"
        "    print(error.message)\n"
    )
    done = run([sys.executable, str(program)], PYTHONPATH=str(tmp_path), PYTHONWARNINGS="default")
    told = "compile: backend 'acme' is not part of torch, and no plugin of this run registers it\n"
    assert (done.returncode, done.stdout) == (0, told), done.stderr


def test_a_backend_that_a_plugin_registers_is_used() -> None:
    calls: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        calls.append(len(inputs))
        return graph.forward

    class Compiler:
        """Register a backend that counts the graphs that it gets."""

        @hookimpl(wrapper=True)
        def build_model(self, run: RunView) -> Any:
            torch._dynamo.register_backend(counting)
            return (yield)

    compiled(backend="counting", **{"callbacks.compiler": Compiler()}).fit()
    assert calls
