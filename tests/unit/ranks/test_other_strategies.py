"""A strategy that is no part of Hookline: two pairs of ranks, of which each pair shares out every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp
import torch.distributed.tensor.parallel
from torch import nn

from hookline import RunView, hookimpl
from hookline.engine import Parallel, Ranks
from hookline.runs import read_checkpoint
from hookline.runs.disk.checkpoint import checkpoints_in
from rank_runs import run_of, same, weights
from reliability.shards import save
from several import in_ranks


class Pairs:
    """Tensor parallelism within a pair of ranks, and sharded data parallelism between the pairs."""

    @hookimpl
    def build_parallel(self, run: RunView, model: nn.Module) -> Parallel:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        mesh = init_device_mesh(run.device.type, (2, 2), mesh_dim_names=("data", "layers"))
        parallelize_module(model, mesh["layers"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        sharded: Any = fully_shard(model, mesh=mesh["data"], reshard_after_forward=True)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
        readers = [rank // 2 for rank in range(run.ranks.world_size)]
        return Parallel(sharded, forwards_together=True, readers=readers)


class WrongReaders:
    """A strategy that forgets a rank."""

    @hookimpl
    def build_parallel(self, model: nn.Module) -> Parallel:
        return Parallel(model, readers=[0])


TABLES: dict[str, Any] = {
    "num_classes": 3,
    "loss": {"use": "cross-entropy", "weight": [1.0, 5.0, 0.25]},
    "train": {"dtype": "float64", "eval_batch_size": 10},
    "optimizer": {"use": "adamw", "lr": 0.01},
}


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # the output is not changed in place
def test_ranks_that_share_out_a_layer_read_the_same_and_train_as_one_process(tmp_path: Path) -> None:
    def trained(ranks: Ranks) -> Any:
        run = run_of(ranks, **TABLES, parallel={}, plugins={"parallel": Pairs()})
        states = {step.step: run.state_dict() for step in run.steps()}
        save(ranks, tmp_path, 7, states[7])
        again = run_of(ranks, **TABLES, parallel={}, plugins={"parallel": Pairs()})
        again.load_state_dict(states[7])
        wanted = ranks.whole(states[7]["model"])
        [path] = checkpoints_in(tmp_path)
        loaded = same(wanted, ranks.whole(weights(again))) and same(wanted, read_checkpoint(path).state["model"])
        again.fit()
        end = ranks.whole(weights(run))
        return [end, dict(run.history[-1]), loaded, same(end, ranks.whole(weights(again)))]

    alone = run_of(None, **TABLES)
    alone.fit()
    for end, metrics, is_loaded, is_resumed in in_ranks(4, trained):
        torch.testing.assert_close(end, weights(alone), rtol=1e-11, atol=1e-14)
        torch.testing.assert_close(metrics, dict(alone.history[-1]), rtol=1e-12, atol=0)
        assert is_loaded
        assert is_resumed


def test_a_strategy_must_name_the_part_of_each_rank() -> None:
    first, second = in_ranks(2, lambda ranks: run_of(ranks, parallel={}, plugins={"parallel": WrongReaders()}).step)
    assert first["error"] == second["error"] == "ContractError"
    assert "readers = [0] for 2 ranks" in first["text"]
