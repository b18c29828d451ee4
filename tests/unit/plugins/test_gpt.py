"""The model ``gpt``: its formula, its initial weights, its dtypes, and what plugins do with it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hookline import ContractError, DataSource, Run, from_arrays, load_config, train
from hookline_plugins.losses.classification import CrossEntropy
from hookline_plugins.models.gpt import GPT
from hookline_plugins.models.gpt_layers import rotated, rotations

VOCABULARY, CONTEXT = 11, 6
SIZES: dict[str, Any] = {"layers": 2, "heads": 2, "width": 8}


def data(num: int = 12, context: int = CONTEXT) -> DataSource:
    tokens = torch.randint(VOCABULARY, (num, context + 1), generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(tokens[:, :-1], tokens[:, 1:])
    return DataSource(dataset, dataset, out_features=VOCABULARY, task="classification")


def tokens() -> DataSource:
    """Return the data, as a plugin without options."""
    return data()


def built(source: DataSource | None = None, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = GPT(**{**SIZES, **options}).build_model(source or data())
    with torch.no_grad():  # larger than initial weights, so that every part matters
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.double().eval()


def normalized(values: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centered = values - values.mean(-1, keepdim=True)
    scaled = centered / (values.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def by_hand(weights: dict[str, Tensor], tokens: list[int], *, is_rotary: bool) -> Tensor:
    """Return the logits ``[T, V]`` of one sequence, position by position and head by head."""
    hidden = weights["tokens.weight"][tokens]
    if not is_rotary:
        hidden = hidden + weights["positions.weight"][: len(tokens)]
    size = 4

    def turned(vector: Tensor, position: int) -> Tensor:
        if not is_rotary:
            return vector
        result = vector.clone()
        for pair in range(size // 2):
            angle = position * 10000 ** (-2 * pair / size)
            x, y = vector[pair], vector[pair + size // 2]
            result[pair] = x * math.cos(angle) - y * math.sin(angle)
            result[pair + size // 2] = x * math.sin(angle) + y * math.cos(angle)
        return result

    for layer in range(2):
        name = f"blocks.{layer}"
        normal = normalized(hidden, weights, f"{name}.attention_norm")
        qkv = normal @ weights[f"{name}.attention.qkv.weight"].T + weights[f"{name}.attention.qkv.bias"]
        mixed = torch.zeros(len(tokens), 8, dtype=torch.float64)
        for head in range(2):
            part = slice(head * size, (head + 1) * size)
            queries, keys, values = (each[:, part] for each in torch.split(qkv, 8, dim=1))
            for position in range(len(tokens)):
                query = turned(queries[position], position)
                scores = torch.stack([query @ turned(keys[p], p) / size**0.5 for p in range(position + 1)])
                mixed[position, part] = scores.softmax(0) @ values[: position + 1]
        hidden = (
            hidden + mixed @ weights[f"{name}.attention.output.weight"].T + weights[f"{name}.attention.output.bias"]
        )
        normal = normalized(hidden, weights, f"{name}.mlp_norm")
        wide = normal @ weights[f"{name}.mlp.hidden.weight"].T + weights[f"{name}.mlp.hidden.bias"]
        wide = wide * (1 + torch.erf(wide / 2**0.5)) / 2
        hidden = hidden + wide @ weights[f"{name}.mlp.output.weight"].T + weights[f"{name}.mlp.output.bias"]
    output = weights.get("output.weight", weights["tokens.weight"])
    return normalized(hidden, weights, "norm") @ output.T


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("tie_weights", [True, False])
def test_the_logits_are_those_of_the_formula(positions: str, tie_weights: bool) -> None:
    model = built(positions=positions, tie_weights=tie_weights)
    weights = dict(model.state_dict())
    assert ("output.weight" in weights, "positions.weight" in weights) == (not tie_weights, positions == "learned")
    for tokens in ([3, 1, 4, 1, 5, 9], [2, 6, 5]):
        expected = by_hand(weights, tokens, is_rotary=positions == "rotary")
        # Angles are computed in float32.
        torch.testing.assert_close(model(torch.tensor([tokens]))[0].T, expected, rtol=1e-5, atol=1e-5)


def test_initial_weights_are_those_of_gpt_2() -> None:
    torch.manual_seed(0)
    model = GPT(layers=8, heads=2, width=64, positions="learned").build_model(data(context=64))
    for name, parameter in model.state_dict().items():
        if parameter.dim() == 1:
            assert bool((parameter == (1 if "norm" in name and name.endswith("weight") else 0)).all())
            continue
        is_residual = name.endswith(("attention.output.weight", "mlp.output.weight"))
        expected = 0.02 / 4 if is_residual else 0.02
        assert float(parameter.std()) == pytest.approx(expected, rel=6 / math.sqrt(2 * parameter.numel()))


def test_rotary_positions_are_exact_in_bfloat16() -> None:
    source = data(2, 1200)
    torch.manual_seed(0)
    model = GPT(**SIZES).build_model(source).to(torch.bfloat16).eval()
    # At a distance of 3, the product of query and key is the same at any position.
    vector = torch.ones(1, 1, 1200, 8, dtype=torch.bfloat16)
    turned = rotated(vector, rotations(1200, 8, vector)).double()
    products = (turned[0, 0, 3:] * turned[0, 0, :-3]).sum(1)
    expected = 2 * sum(math.cos(3 * 10000 ** (-pair / 4)) for pair in range(4))
    assert float((products - expected).abs().max()) < 8 * 4 * 2**-8
    # And so are the logits, up to the rounding of each value.
    reference = copy.deepcopy(model).double()
    inputs = source.train[0][0][None]
    got, precise = model(inputs).detach(), reference(inputs).detach()
    assert float((got - precise).abs().max()) < 0.05 * float(precise.abs().max())


def test_mixed_precision_trains_it() -> None:
    config = {
        "train": {"max_steps": 3, "batch_size": 4, "evaluate": []},
        "model": {"use": "gpt", **SIZES},
        "loss": {"use": "cross-entropy"},
        "optimizer": {"use": "adamw", "lr": 0.01},
    }
    choices: list[dict[str, Any]] = [{}, {"mixed-precision": {}}]
    losses = [
        train({**config, "callbacks": callbacks}, plugins={"data": tokens}).history[-1]["train/running_loss"]
        for callbacks in choices
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_cross_entropy_of_tokens_is_their_mean() -> None:
    loss = CrossEntropy().of_torch(weight=None)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 1, -100], [4, 2, 2]])
    by_torch = nn.functional.cross_entropy(logits, targets)
    value = loss(logits, targets)
    chosen = [(0, 0, 0), (0, 1, 1), (1, 4, 0), (1, 2, 1), (1, 2, 2)]
    expected = -sum(float(logits.detach().log_softmax(1)[place]) for place in chosen) / 5
    assert float(value.detach()) == pytest.approx(expected, rel=1e-12)
    (gradient,), (expected_gradient,) = (torch.autograd.grad(each, logits) for each in (value, by_torch))
    torch.testing.assert_close(gradient, expected_gradient)
    probabilities = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64)
    assert torch.equal(loss(logits, probabilities), nn.functional.cross_entropy(logits, probabilities))


def test_predictions_with_the_classes_last_are_refused_with_the_remedy() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, VOCABULARY)

        def forward(self, tokens: Tensor) -> Tensor:
            result: Tensor = self.embedding(tokens)
            return result

    config = load_config({"loss": "cross-entropy"}, plugins={"data": tokens, "model": Last})
    with pytest.raises(ContractError, match=r"second dimension, \[B, C, ...\] for targets \[B, ...\]; see transpose"):
        Run(config)


@pytest.mark.parametrize("wrong", ["features", "size"])
def test_data_without_tokens_are_refused(wrong: str) -> None:
    plugin = from_arrays(torch.randn(8, 3), torch.arange(8) % 2)
    source = plugin().build_data(Run(load_config({}))) if wrong == "features" else DataSource(data().train)
    with pytest.raises(ContractError, match="needs sequences of tokens" if wrong == "features" else "number of tokens"):
        GPT(**SIZES).build_model(source)


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 10, "heads": 4}, "not a multiple"), ({"width": 6}, "rotary positions need")]
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPT(**{"heads": 2, **options})


def test_longer_sequences_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="have 7 tokens, but the context of the model is 6"):
        built()(torch.zeros(1, 7, dtype=torch.int64))


def test_checkpointed_blocks_train_to_the_same_bits() -> None:
    results = []
    choices: list[dict[str, Any]] = [{}, {"gradient-checkpointing": {"modules": ["blocks.*"]}}]
    for callbacks in choices:
        config = {
            "train": {"epochs": 1, "batch_size": 4, "evaluate": []},
            "model": {"use": "gpt", "dropout": 0.2, **SIZES},
            "loss": {"use": "cross-entropy"},
            "optimizer": {"use": "adamw", "lr": 0.01},
            "callbacks": callbacks,
        }
        results.append(train(config, plugins={"data": tokens}).model.state_dict())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_adapters_fit_the_names_of_its_layers() -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    config = {
        "train": {"max_steps": 1},
        "model": {"use": "gpt", **SIZES},
        "loss": {"use": "cross-entropy"},
        "callbacks": {"lora": {"targets": ["*.attention.qkv", "*.mlp.*"], "rank": 2}},
    }
    run = Run(load_config(config, plugins={"data": tokens}))
    trained = sorted(name for name, parameter in run.model.named_parameters() if parameter.requires_grad)
    assert len(trained) == 2 * 2 * 3  # two matrices for each of three layers in each of two blocks
