"""The text of a script: a training loop with the snippets of the plugins in their places."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hookline.trained import Snippet
from hookline_plugins.commands.ejecting.text import WIDTH, call, literal

if TYPE_CHECKING:
    from hookline import RunView
    from hookline_plugins.commands.ejecting.job import Job

_IMPORTS = (
    "import argparse",
    "import hashlib",
    "import json",
    "from pathlib import Path",
    "import torch",
    "from safetensors.torch import load_file, save_model",
)
_SEED_OF = '''
def seed_of(*names):
    """Return the seed of a stream of random numbers, which depends on SEED."""
    digest = hashlib.blake2b(repr((SEED, *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
'''
_BATCHES = '''
def batches(data, split, order, size):
    """Return the batches of a split with its examples in an order."""
    inputs, targets = data[f"{split}.inputs"][order], data[f"{split}.targets"][order]
    return zip(inputs.split(size), targets.split(size), strict=True)
'''
_PIECES = '''
def batches(data, split, order, size):
    """Yield the batches of a split with its examples in an order, gathered in pieces."""
    inputs, targets = data[f"{split}.inputs"], data[f"{split}.targets"]
    for rows in order.split(max(PIECE // size, 1) * size):
        yield from zip(inputs[rows].split(size), targets[rows].split(size), strict=True)
'''
_MEAN = '''
def mean(losses):
    """Return the mean of losses, weighted by the sizes of their batches, in float64."""
    values, sizes = zip(*losses, strict=True)
    products = torch.stack(values).double() * torch.tensor(sizes)
    return sum(part.sum() for part in products.split(64)).item() / sum(sizes)
'''
_SAVE = """
if save is not None:
    save.mkdir(parents=True, exist_ok=True)
    save_model(model, save / "model.safetensors")
    losses = json.dumps({"steps": steps, "epochs": history})
    (save / "losses.json").write_text(losses)
"""
_MAIN = """
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train; print the losses.")
    parser.add_argument("--save", type=Path, help="folder for losses and weights")
    main(parser.parse_args().save)
"""


def script_text(run: RunView, name: str, snippets: Mapping[str, Snippet], job: Job, head: str, left_out: str) -> str:
    """Return the script of a run.

    Args:
        run: The run.
        name: Its name.
        snippets: The parts of its plugins, by table.
        job: Its data and sizes.
        head: The header with the versions.
        left_out: Names of the plugins that are left out.
    """
    parts = list(snippets.values())
    forward = next((one.forward for one in parts if one.forward), "model")
    imports = _imports([line for one in parts for line in one.imports])
    definitions = [one.definitions for one in parts if one.definitions]
    blocks = [
        _SEED_OF,
        _PIECES if job.piece else _BATCHES,
        _MEAN,
        *definitions,
        *([_evaluate(parts, forward)] if job.evaluated else []),
        _main(run, snippets, job, forward),
        _MAIN,
    ]
    body = "\n\n\n".join(block.strip("\n") for block in blocks)
    return f"{head}\n{_docstring(name, left_out)}\n\n{imports}\n\n{_constants(run, job)}\n\n\n{body}\n"


def _docstring(name: str, left_out: str) -> str:
    text = "Written by `hookline eject`. Losses and weights are those of the run, to the last bit."
    if left_out:
        text += f" Left out, because they change no number: {left_out}."
    filled = textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    return f'"""The run {name} as a plain PyTorch script.\n\n{filled}\n"""'


def _imports(lines: Iterable[str]) -> str:
    """Return import statements in the order of isort: future, standard library, others."""

    def group(line: str) -> int:
        root = line.split()[1].partition(".")[0]
        return 0 if root == "__future__" else 1 if root in sys.stdlib_module_names else 2

    found = sorted({*_IMPORTS, *lines}, key=lambda line: (line.startswith("from"), line.split()[1], line))
    groups = [[line for line in _joined(found) if group(line) == number] for number in range(3)]
    return "\n\n".join("\n".join(one) for one in groups if one)


def _joined(lines: Sequence[str]) -> Iterator[str]:
    """Yield import statements, those from one module as one."""
    found: dict[str, list[str]] = {}
    for line in lines:
        module, _, names = line.partition(" import ") if line.startswith("from") else (line, "", "")
        found.setdefault(module, []).extend(names.split(", ") if names else [])
    for module, imported in found.items():
        # The order of isort: constants, classes, other names.
        order = sorted(set(imported), key=lambda n: (not n.isupper(), not n[:1].isupper(), n))
        yield f"{module} import {', '.join(order)}" if imported else module


def _constants(run: RunView, job: Job) -> str:
    train = run.config.train
    values = {
        "SEED": train.seed,
        "EPOCHS": train.epochs,
        "BATCH_SIZE": job.batch_size,
        "MICRO_BATCH_SIZE": train.micro_batch_size,
        "EVAL_BATCH_SIZE": train.eval_batch_size if job.evaluated else 0,
        "MAX_STEPS": train.max_steps,
        "PIECE": job.piece,
    }
    return "\n".join(f"{name} = {value}" for name, value in values.items() if value or name == "SEED")


def _evaluate(parts: Sequence[Snippet], forward: str) -> str:
    """Return the function that evaluates a split."""
    metrics = {name: text for one in parts for name, text in one.metrics.items()}
    what = "the mean loss and the metrics" if metrics else "the mean loss"
    lines = [
        "@torch.no_grad()",
        "def evaluate(model, loss_function, data, split):",
        f'    """Return {what} of a split."""',
        "    model.eval()",
        f"    losses{', predictions' if metrics else ''} = []{', []' if metrics else ''}",
        '    order = torch.arange(len(data[f"{split}.inputs"]))',
        "    for x, y in batches(data, split, order, EVAL_BATCH_SIZE):",
    ]
    if metrics:
        lines += [
            f"        predictions.append({_called(forward)})",
            "        losses.append((loss_function(predictions[-1], y), len(x)))",
            "    model.train()",
            '    prediction, target = torch.cat(predictions), data[f"{split}.targets"]',
            "    return {",
            '        f"{split}/loss": mean(losses),',
            *(f'        f"{{split}}/{name}": {text},' for name, text in metrics.items()),
            "    }",
        ]
    else:
        lines += [
            f"        losses.append((loss_function({_called(forward)}, y), len(x)))",
            "    model.train()",
            '    return {f"{split}/loss": mean(losses)}',
        ]
    return "\n".join(lines)


def _called(forward: str, inputs: str = "x") -> str:
    return f"model({inputs})" if forward == "model" else f"{forward}(model, {inputs})"


def _main(run: RunView, snippets: Mapping[str, Snippet], job: Job, forward: str) -> str:
    train, num_threads = run.config.train, job.num_threads
    before = [
        'data = load_file(Path(__file__).with_suffix(".safetensors"))',
        f"torch.set_num_threads({num_threads})  # other parts of a sum may round otherwise",
        'torch.manual_seed(seed_of("model"))',
        *_setups(snippets, train.dtype),
        "",
        "history, steps = [], []",
        'torch.manual_seed(seed_of("train"))',
        "for epoch in range(1, EPOCHS + 1):",
        *_indented(_epoch(run, list(snippets.values()), job, forward)),
        *_slot(snippets.values(), "after_training"),
        "",
        *_SAVE.strip("\n").splitlines(),
    ]
    return "\n".join(
        ["def main(save=None):", '    """Train; save the losses and the final weights."""', *_indented(before)]
    )


def _setups(snippets: Mapping[str, Snippet], dtype: str) -> Iterator[str]:
    for table, one in snippets.items():
        yield from one.setup.splitlines()
        if table == "model" and dtype != "float32":
            yield f"model.to(torch.{dtype})"


def _epoch(run: RunView, parts: Sequence[Snippet], job: Job, forward: str) -> list[str]:
    train = run.config.train
    num = 'len(data["train.inputs"])'
    if train.shuffle:
        order = ['generator = torch.Generator().manual_seed(seed_of("order", epoch))']
        order += [call("order = torch.randperm", num, "generator=generator", indent=8)]
    else:
        order = [f"order = torch.arange({num})"]
    if train.drop_last:
        order.append("order = order[: len(order) - len(order) % BATCH_SIZE]")
    return [
        *order,
        "losses = []",
        'for x, y in batches(data, "train", order, BATCH_SIZE):',
        *_indented(_step(run, parts, forward)),
        'measured = {"train/running_loss": mean(losses)}',
        *_slot(parts, "before_evaluation"),
        *_evaluation(run, parts, job),
        "history.append(measured)",
        'print(f"epoch {epoch}:", measured)',
        *_slot(parts, "after_evaluation"),
        *(["if len(steps) == MAX_STEPS:", "    break"] if train.max_steps else []),
    ]


def _step(run: RunView, parts: Sequence[Snippet], forward: str) -> list[str]:
    if run.config.train.micro_batch_size:
        compute = [
            "pieces = []",
            "for part, target in zip(",
            "    x.split(MICRO_BATCH_SIZE), y.split(MICRO_BATCH_SIZE), strict=True",
            "):",
            f"    loss = loss_function({_called(forward, 'part')}, target) * (len(part) / len(x))",
            "    loss.backward()",
            "    pieces.append(loss.detach())",
            "loss = torch.stack(pieces).sum()",
        ]
    else:
        compute = [f"loss = loss_function({_called(forward)}, y)", "loss.backward()"]
    return [
        "optimizer.zero_grad()",
        *compute,
        *_slot(parts, "before_update"),
        "optimizer.step()",
        "losses.append((loss.detach(), len(x)))",
        "steps.append(loss.item())",
        *_slot(parts, "after_update"),
        *(["if len(steps) == MAX_STEPS:", "    break"] if run.config.train.max_steps else []),
    ]


def _evaluation(run: RunView, parts: Sequence[Snippet], job: Job) -> list[str]:
    if not job.evaluated:
        return []
    model = next((one.evaluated for one in parts if one.evaluated), "model")
    every, max_steps = run.config.train.evaluate_every_epochs, run.config.train.max_steps
    lines = [
        f"for split in {literal(job.evaluated)}:",
        *_indented(call("measured |= evaluate", model, "loss_function", "data", "split", indent=12).splitlines()),
    ]
    if every == 1:
        return lines
    last = " or len(steps) == MAX_STEPS" if max_steps else ""
    return [f"if epoch % {every} == 0 or epoch == EPOCHS{last}:", *_indented(lines)]


def _slot(parts: Iterable[Snippet], name: str) -> list[str]:
    return [line for one in parts for line in getattr(one, name).splitlines()]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]
