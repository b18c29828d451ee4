"""The public door as a program that embeds Hookline sees it: the type of everything that it is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, assert_type

import torch
from torch import Tensor, nn

import hookline
from hookline import DataSource, Run, RunConfig, RunResult, load_config
from hookline.config import PluginChoice
from hookline.config.run_config import Setting
from hookline.engine import Ranks, TrainOptions
from hookline.runs import folder_of, identity_of

OUTCOMES = Literal["completed", "stopped", "interrupted", "failed"]


def check_train() -> None:
    assert_type(hookline.__version__, str)
    result = assert_type(hookline.train({"train": {"epochs": 1}}), RunResult)
    assert_type(result.outcome, OUTCOMES)
    assert_type(result.stop_reason, str | None)
    assert_type(result.epochs, int)
    assert_type(result.steps, int)
    assert_type(result.metrics, Mapping[str, float])
    assert_type(result.history, Sequence[Mapping[str, float]])
    assert_type(result.summary, Mapping[str, Sequence[Mapping[str, str | int | float | bool | None]]])
    assert_type(result.model, nn.Module)


def check_run() -> None:
    run = Run(load_config(None, ["train.epochs=1"], plugins={"model": nn.Linear(2, 1)}))
    steps = assert_type(run.steps(), Iterator[hookline.Step])
    for step in steps:
        assert_type(step, hookline.Step)
        assert_type(step.epoch, int)
        assert_type(step.step, int)
        assert_type(step.loss, Tensor)
    assert_type(run.outcome, OUTCOMES | None)
    assert_type(run.result(), RunResult)
    assert_type(run.config.settings, Mapping[str, Any])
    assert_type(run.data, DataSource)
    assert_type(run.model, nn.Module)
    assert_type(run.optimizer, torch.optim.Optimizer)
    assert_type(run.epoch, int)
    assert_type(run.step, int)
    assert_type(run.config.train.epochs, int)
    assert_type(run.steps_per_epoch, int | None)
    assert_type(run.metric_names, tuple[str, ...])
    assert_type(run.generator("mine"), torch.Generator)
    assert_type(run.position, int)
    assert_type(run.interrupt_reason, str | None)
    assert_type(identity_of(run), Mapping[str, Any])
    assert_type(run.evaluate(), Mapping[str, float])
    assert_type(run.ranks, Ranks)
    assert_type((run.ranks.rank, run.ranks.world_size, run.ranks.is_zero), tuple[int, int, bool])
    assert_type(run.ranks.sum([0.5]), list[float])
    assert_type(run.ranks.gather("here"), list[Any])


def check_run_folder() -> None:
    with TemporaryDirectory() as parent:
        keep = {"callbacks": {"run-folder": {"parent": parent}, "checkpoint": {}}}
        Run(load_config(keep, ["train.epochs=1"])).fit()
        path = assert_type(hookline.runs.find_run("last", Path(parent)), Path)
        run = assert_type(hookline.resume(path, {"train.epochs": 2}), Run)
        folder = assert_type(folder_of(run), hookline.runs.RunFolder | None)
        assert folder is not None
        assert_type(folder.path, Path)
        assert_type(folder.record, hookline.runs.RunRecord)
        assert_type(folder.record.attempts, list[hookline.runs.Attempt])
        assert_type(folder.record.best, hookline.runs.BestValue | None)
        assert_type(folder.artifacts, Path)
        run.interrupt("no more time")
        run.fit()
        checkpoint = assert_type(
            hookline.runs.read_checkpoint(next(folder.checkpoints.iterdir())), hookline.runs.Checkpoint
        )
        assert_type(checkpoint.manifest, hookline.runs.Manifest)
        assert_type(checkpoint.state, dict[str, Any])
        assert_type(hookline.runs.complete_toml(run.config), str)


def check_fit() -> None:
    assert_type(Run(load_config({"train": {"epochs": 0}})).fit(), RunResult)


def check_config() -> None:
    config = assert_type(hookline.load_config({"optimizer": "adam"}, {"train.epochs": 0}), RunConfig)
    assert_type(config.train, TrainOptions)
    assert_type(config.train.epochs, int)
    assert_type(config.train.batch_size, int | Literal["all"])
    assert_type(config.plugins, tuple[PluginChoice, ...])
    assert_type(config.plugins[0].table, str)
    assert_type(config.plugins[0].options, Mapping[str, Any])
    assert_type(config.settings, Mapping[str, Setting])
    assert_type(hookline.train(config), RunResult)


def check_catalog() -> None:
    catalog = assert_type(hookline.Catalog.installed(), hookline.Catalog)
    entry = assert_type(catalog.find("model", "linear"), hookline.config.Entry)
    assert_type(entry.qualified_name, str)
    assert_type(catalog.of_kind("model"), tuple[hookline.config.Entry, ...])
    assert_type(hookline.config.KINDS, tuple[str, str, str, str, str, str])


def check_errors() -> None:
    try:
        hookline.train(Path("no-such-config.toml"))
    except hookline.PluginError as error:
        assert_type(error.distribution, str | None)
    except hookline.HooklineError as error:
        assert_type(error.message, str)
        assert_type(error.hint, str | None)
        assert_type(error.faults, tuple[hookline.Fault, ...])
        assert_type(error.exit_code, int)
    assert_type(hookline.engine.nearest("adma", ["adam"]), str | None)
