"""Training without torch's compiler: when it is enabled, what it leaves unchanged, and when it is disabled."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from support import run, warm_program, warm_python

SETTING = """
import functools, inspect, json, sys
from contextlib import nullcontext
import torch
from torch import nn
from hookline.shortcuts import light_optimizer as module
from hookline.shortcuts.light_optimizer import light_optimizer

def is_loaded():
    return "torch._dynamo" in sys.modules

def parts():
    # Only code and attributes of functions are ever changed.
    found = set(module._functions(torch.optim.Optimizer))
    return {function: (function.__code__, "__dynamo_disable" in vars(function)) for function in found}

def fitted(make, context=None, steps=5):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    features, target = torch.rand(8, 3), torch.rand(8, 1)
    optimizer = make(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(features), target)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    optimizer.load_state_dict(optimizer.state_dict())
    return [parameter.tolist() for parameter in model.parameters()]
"""


def told(program: str) -> Any:
    """Run a program in a separate process; return its last line of output, parsed as JSON."""
    done = run([warm_python(), "-c", SETTING + program])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---- when it is enabled ----------------------------------------------------------------------------------------------


def test_a_run_from_python_leaves_torch_unchanged() -> None:
    program = """
import hookline
finders, before = list(sys.meta_path), parts()
result = hookline.train()
is_same = all(parts()[function][0] is code for function, (code, _) in before.items())
print(json.dumps([is_loaded(), sys.meta_path == finders, is_same]))
"""
    assert told(program) == [True, True, True]


def test_a_plugin_that_compiles_once_the_optimizer_was_built_gets_the_compiler(tmp_path: Path) -> None:
    (tmp_path / "compiles.py").write_text("""
import sys

import hookline

@hookline.plugin("callback", "compiles")
class Compiles:
    @hookline.hookimpl
    def on_run_start(self, run):
        import torch

        was_loaded = "torch._dynamo" in sys.modules
        graphs = []
        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward
        forward = run.model.forward
        run.model.forward = torch.compile(forward, backend=backend)
        self.graphs, self.was_loaded = graphs, was_loaded

    @hookline.hookimpl
    def on_run_end(self, run):
        run.report("compiled", [{"was loaded": self.was_loaded, "graphs": len(self.graphs)}])
        run.report("weights", [{"w": value} for value in run.model.weight.flatten().tolist()])
""")
    words = ["--plugin", "compiles.py", "callbacks.compiles={}", "train.epochs=1", "--json"]
    done = run([str(warm_program()), "train", *words], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    assert summary["compiled"][0]["was loaded"] is False
    assert summary["compiled"][0]["graphs"] > 0
    plain = run([str(warm_program()), "train", "train.epochs=1", "--json"], cwd=tmp_path)
    learned = json.loads(plain.stdout.splitlines()[-1])["summary"]["learned and true parameters"]
    assert [row["w"] for row in summary["weights"]] == [row["learned"] for row in learned][:2]


def test_without_shortcuts_the_compiler_is_imported_and_the_numbers_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "loaded.py").write_text("""
import sys

import hookline

@hookline.plugin("callback", "loaded")
class Loaded:
    @hookline.hookimpl
    def on_run_end(self, run):
        run.report("compiler", [{"is_loaded": "torch._dynamo" in sys.modules}])
""")
    command = [str(warm_program()), "train", "--plugin", "loaded.py", "callbacks.loaded={}", "--json"]
    parts = []
    for more in ([], ["--no-shortcuts"]):
        done = run([*command, "train.epochs=1", *more], cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        parts.append(json.loads(done.stdout.splitlines()[-1])["summary"])
    assert [summary.pop("compiler") for summary in parts] == [[{"is_loaded": False}], [{"is_loaded": True}]]
    assert parts[0] == parts[1]
    words = ["--plugin", "loaded.py", "--no-shortcuts", "--json", "last", "train.epochs=2"]
    resumed = run([str(warm_program()), "resume", *words], cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert json.loads(resumed.stdout.splitlines()[-1])["summary"]["compiler"] == [{"is_loaded": True}]


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a compiler for C++, and there is none")
def test_a_command_with_fused_steps_gets_the_compiler_and_one_without_does_not(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text("""
import sys

import hookline

@hookline.plugin("callback", "told")
class Told:
    @hookline.hookimpl
    def on_run_start(self, run):
        self.before = "torch._dynamo" in sys.modules

    @hookline.hookimpl
    def on_run_end(self, run):
        run.report("compiler", [{"before": self.before, "after": "torch._dynamo" in sys.modules}])
""")
    compiler, learned = [], []
    for fused in ([], ["callbacks.fuse-steps.size=2"]):
        words = ["--plugin", "told.py", "callbacks.told={}", "train.epochs=1", *fused, "--json"]
        # torch's compiler uses features that torch itself warns of.
        done = run([sys.executable, "-m", "hookline", "train", *words], cwd=tmp_path, PYTHONWARNINGS="ignore")
        assert done.returncode == 0, done.stdout + done.stderr
        summary = json.loads(done.stdout.splitlines()[-1])["summary"]
        compiler.append(summary["compiler"][0])
        learned.append([row["learned"] for row in summary["learned and true parameters"]])
    assert compiler == [{"before": False, "after": False}, {"before": False, "after": True}]
    assert learned[1] == pytest.approx(learned[0], rel=1e-5)


# ---- what it leaves unchanged ----------------------------------------------------------------------------------------


def test_weights_are_bit_identical_with_and_without_the_compiler_loaded() -> None:
    program = """
from functools import partial
optim = torch.optim
makers = {
    "sgd": partial(optim.SGD, lr=0.1), "momentum": partial(optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "foreach": partial(optim.SGD, lr=0.1, foreach=True), "fused": partial(optim.Adam, lr=0.1, fused=True),
    "adam": partial(optim.Adam, lr=0.1), "adamw": partial(optim.AdamW, lr=0.1, foreach=True, amsgrad=True),
    "differentiable": partial(optim.Adam, lr=0.1), "rmsprop": partial(optim.RMSprop, centered=True, momentum=0.5),
    "lbfgs": partial(optim.LBFGS, line_search_fn="strong_wolfe"), "lbfgs, no search": optim.LBFGS,
    "adagrad": optim.Adagrad, "adadelta": optim.Adadelta, "adamax": optim.Adamax, "asgd": optim.ASGD,
    "nadam": optim.NAdam, "radam": optim.RAdam, "rprop": optim.Rprop, "adafactor": optim.Adafactor,
}
with light_optimizer():
    light = {name: fitted(make) for name, make in makers.items()}
    was_loaded = is_loaded()
plain = {name: fitted(make) for name, make in makers.items()}
print(json.dumps([was_loaded, is_loaded(), [name for name in makers if light[name] != plain[name]], len(light)]))
"""
    assert told(program) == [False, True, [], 18]


def test_hooks_schedules_averages_and_the_mode_of_gradients_work_as_ever() -> None:
    program = """
seen = []
with light_optimizer():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    model = nn.Linear(1, 1)
    average = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(2):
        weight.grad = torch.ones(2)
        optimizer.step(lambda: seen.append(f"closure {torch.is_grad_enabled()}"))
        schedule.step()
        average.update_parameters(model)
    try:
        optimizer.step(lambda: 1 / 0)
    except ZeroDivisionError:
        seen.append(f"failed {torch.is_grad_enabled()}")
    optimizer.zero_grad()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
print(json.dumps([is_loaded(), seen, optimizer.param_groups[0]["lr"], weight.tolist(), weight.grad is None]))
"""
    step = ["before", "closure True", "after"]
    seen = [*step, *step, "before", "failed True"]
    assert told(program) == [False, seen, 0.25, [-0.5, -0.5], True]


def test_everything_is_taken_back_at_the_end_and_when_the_compiler_is_imported() -> None:
    program = """
finders, before = list(sys.meta_path), parts()
with light_optimizer():
    changed = parts()
    with light_optimizer():
        fitted(torch.optim.SGD)
    inside = is_loaded()
after = parts()
is_back = all(after[function] == part for function, part in before.items()) and sys.meta_path == finders
with light_optimizer():
    fitted(torch.optim.SGD)
    import torch._dynamo.config
    on_import = {function: part for function, part in parts().items() if function in before}
    fitted(torch.optim.SGD)
    cached = torch.optim.Optimizer.zero_grad.__wrapped__
    is_disabled = vars(cached)["__dynamo_disable"] is not cached
num_changed = sum(changed[function] != before[function] for function in before)
print(json.dumps([num_changed, inside, is_back, on_import == before, is_disabled, sys.meta_path == finders]))
"""
    # Of the 14 classes, 10 have a step with marks; 4 methods of the base class are disabled.
    assert told(program) == [14, False, True, True, True, True]


def test_later_compilation_gives_the_same_graphs_and_the_same_results() -> None:
    # torch's compiler uses features that torch itself warns of.
    program = """
import warnings

warnings.simplefilter("ignore")
torch.manual_seed(0)
with CONTEXT:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    features, target = torch.rand(8, 3), torch.rand(8, 1)

    def step():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(features), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step()]
    was_loaded = is_loaded()
    from torch._dynamo.testing import CompileCounterWithBackend
    whole, update = CompileCounterWithBackend("aot_eager"), CompileCounterWithBackend("eager")
    torch.compile(optimizer.step, backend=update)()
    compiled = torch.compile(step, backend=whole)
    losses += [compiled(), compiled()]
graphs = [[counter.frame_count, counter.op_count] for counter in (whole, update)]
print(json.dumps([was_loaded, losses, graphs, [parameter.tolist() for parameter in model.parameters()]]))
"""
    light, plain = (told(program.replace("CONTEXT", context)) for context in ("light_optimizer()", "nullcontext()"))
    assert (light[0], plain[0]) == (False, True)
    assert light[1:] == plain[1:]
    assert all(num_graphs > 0 for num_graphs, _ in light[2])


# ---- when it is disabled ---------------------------------------------------------------------------------------------


def test_it_is_disabled_when_the_internals_of_torch_are_unknown() -> None:
    program = """
optimizer = sys.modules["torch.optim.optimizer"]

def known():
    return module._is_known()

def replaced(owner, name, value):
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        return known()
    finally:
        setattr(owner, name, kept)

def other(function):
    return functools.wraps(function)(lambda *arguments: function(*arguments))

answers = {
    "as it is": known(),
    "other disable": replaced(torch, "_disable_dynamo", other(torch._disable_dynamo)),
    "other marks": replaced(optimizer, "_use_grad_for_differentiable", other(optimizer._use_grad_for_differentiable)),
    "no function": replaced(torch, "_disable_dynamo", len),
    "other text": replaced(module, "_KNOWN", {}),
}
module._KNOWN = {}
before = parts()
with light_optimizer():
    is_same = parts() == before
    fitted(torch.optim.SGD)
answers["compiler loaded"] = known()
print(json.dumps([answers, is_same, is_loaded()]))
"""
    answers, is_same, is_loaded = told(program)
    assert answers.pop("as it is")
    assert answers == dict.fromkeys(answers, False)
    assert len(answers) == 5
    assert is_same
    assert is_loaded


def test_it_is_disabled_when_torch_is_not_imported() -> None:
    program = (
        "import sys; from hookline.shortcuts.light_optimizer import light_optimizer as light\nwith light(): pass\n"
    )
    done = run([sys.executable, "-c", f"{program}print('torch' in sys.modules)"])
    assert done.stdout == "False\n"
