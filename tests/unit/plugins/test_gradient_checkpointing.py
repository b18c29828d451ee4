"""Callback ``gradient-checkpointing``: the same numbers, and nothing kept that is computed again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from hookline import ConfigError, Run, load_config


class Block(nn.Module):
    """A block with random numbers, and with buffers that change in a step."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.3)
        self.two = nn.Linear(4, 4)

    def forward(self, inputs: Tensor, scale: float = 1.0) -> Any:
        hidden = self.norm(self.one(inputs)).relu()
        self.note(hidden)
        return inputs + scale * self.two(self.dropout(hidden))

    def note(self, hidden: Tensor) -> None:
        pass


class Watched(Block):
    """A block that counts its calls, and knows whether what it computed is still kept."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0
        self.kept: list[StorageWeakRef] = []

    def note(self, hidden: Tensor) -> None:
        self.num_calls += 1
        self.kept.append(StorageWeakRef(hidden.untyped_storage()))  # type: ignore[no-untyped-call] # torch leaves it so


class Net(nn.Module):
    def __init__(self, block: type[Block] = Watched) -> None:
        super().__init__()
        self.first = nn.Linear(2, 4)
        self.blocks = nn.ModuleList(block() for _ in range(2))
        self.last = nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> Any:
        hidden = self.first(inputs)
        for block in self.blocks:
            hidden = block(hidden, scale=0.5)
        return self.last(hidden)


def make_run(*modules: str, callbacks: dict[str, Any] | None = None, block: type[Block] = Watched, **train: Any) -> Run:
    chosen = {"gradient-checkpointing": {"modules": list(modules)}} if modules else {}
    config = {
        "data": {"num_examples": 60},
        "train": {"epochs": 2, "batch_size": 20, **train},
        "callbacks": {**chosen, **(callbacks or {})},
    }
    return Run(load_config(config, plugins={"model": lambda: Net(block)}))


def blocks(run: Run) -> list[Any]:
    return list(run.unwrapped_model.get_submodule("blocks").children())


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "micro-batches": ({}, {"micro_batch_size": 7}),
    "mixed precision": ({"mixed-precision": {}}, {}),
    "compiled": ({"compile": {"backend": "aot_eager"}, "try-first-batch": "off"}, {"epochs": 1, "evaluate": []}),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler looks at it
@pytest.mark.parametrize("case", CASES)
def test_weights_buffers_and_metrics_are_those_of_a_run_without(case: str) -> None:
    callbacks, train = CASES[case]
    torch.compiler.reset()
    runs = [make_run(*modules, callbacks=callbacks, block=Block, **train) for modules in ((), ("blocks.*",))]
    results = [run.fit() for run in runs]
    torch.compiler.reset()
    states = [run.unwrapped_model.state_dict() for run in runs]
    assert states[0].keys() == states[1].keys()
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []
    assert results[0].history == results[1].history


def test_nothing_that_is_computed_again_is_kept_until_the_gradients_need_it() -> None:
    alive = {}
    for modules in ((), ("blocks.*",), ("blocks.0",)):
        run = make_run(*modules)
        for block in blocks(run):
            block.kept.clear()
        prediction = run.model(torch.ones(3, 2))
        alive[modules] = [not block.kept[0].expired() for block in blocks(run)]
        prediction.sum().backward()
    assert alive == {(): [True, True], ("blocks.*",): [False, False], ("blocks.0",): [False, True]}


def test_a_step_computes_the_modules_twice_and_an_evaluation_once() -> None:
    run = make_run("blocks.0", batch_size="all", epochs=1)
    for block in blocks(run):
        block.num_calls = 0
    calls = [[block.num_calls for block in blocks(run)] for _ in run.steps()]
    run.evaluate()
    assert calls == [[2, 1]]
    assert [block.num_calls for block in blocks(run)] == [2 + 1 + 1, 1 + 1 + 1]  # one at the end of the epoch


def test_a_module_within_a_module_that_matches_is_computed_with_it() -> None:
    run = make_run("*", batch_size="all", epochs=1, evaluate=[])
    for block in blocks(run):
        block.num_calls = 0
    run.fit()
    assert [block.num_calls for block in blocks(run)] == [2, 2]


def test_a_copy_of_the_model_computes_with_its_own_weights() -> None:
    model = make_run("blocks.*", block=Block).model  # a copy of a weak reference to a storage would free it twice
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    inputs = torch.ones(4, 2)
    assert not copied(inputs).any()
    assert model(inputs).all()


@pytest.mark.parametrize(("name", "hint"), [("block.*", "'blocks"), ("blocks", "'blocks.")])
def test_a_pattern_without_a_module_is_refused(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="names modules that the model does not have") as caught:
        make_run(name)
    assert [fault.message for fault in caught.value.faults] == [f"{name!r} matches no module"]
    assert hint in str(caught.value.faults[0].hint)
