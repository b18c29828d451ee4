"""The checks for models.

Shapes: ``B`` examples in a batch, ``I`` input features, ``O`` values predicted for an example.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from hookline.engine.reading.batch import Forward, count_examples, part_of, prediction_of, tensors_in
from hookline.testing.kit import Broken, Subject, check
from hookline.testing.parts import changed_generators, first_batch, generator_states

_BATCH_SIZES = (1, 2, 7)


def _expected_shape(subject: Subject, size: int, shape: list[int]) -> list[int]:
    """Return the shape of the predictions for ``size`` examples; ``shape`` if the data source does not give it."""
    if not subject.data.out_features:
        return [size, *shape[1:]]
    target = first_batch(subject.data, size)[1]
    # One of several class indices, as of the tokens of a text, has the classes before the further dimensions.
    further = target.shape[1:] if isinstance(target, Tensor) and not target.is_floating_point() else ()
    return [size, subject.data.out_features, *further]


def _inputs(subject: Subject, size: int = 8) -> Any:
    return first_batch(subject.data, size)[0]


def _output(model: nn.Module, inputs: Any) -> Tensor:
    """Return the predictions of a model, without gradients."""
    with torch.no_grad():
        return cast(Tensor, prediction_of(Forward(model, None).output(inputs)))


def _predicted(model: nn.Module, inputs: Any) -> Tensor:
    """Return the predictions of a model in eval mode."""
    return _output(model.eval(), inputs)


@check
def output_shape(subject: Subject) -> None:
    """The prediction has shape [B, O], or [B, O, T] for T class indices, for any batch size, including 1."""
    model = subject.run().model
    for size in _BATCH_SIZES:
        inputs = _inputs(subject, size)
        shape = list(_predicted(model, inputs).shape)
        expected = _expected_shape(subject, count_examples(inputs), shape)
        if shape != expected:
            advice = "keep the batch dimension, and do not squeeze"
            raise Broken(f"{shape} for {count_examples(inputs)} examples, expected {expected}", advice)


@check
def finite_gradients(subject: Subject) -> None:
    """Every parameter that requires a gradient gets a finite gradient."""
    run = subject.run()
    inputs, target = first_batch(subject.data, 8)
    prediction = prediction_of(Forward(run.model.train(), None).output(inputs))
    run.loss(prediction, target).backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
    trainable = {name: p.grad for name, p in run.model.named_parameters() if p.requires_grad}
    missing = [name for name, gradient in trainable.items() if gradient is None]
    infinite = [name for name, g in trainable.items() if g is not None and not torch.isfinite(g).all()]
    seen = [f"no gradient: {', '.join(missing)}"] if missing else []
    seen += [f"not finite: {', '.join(infinite)}"] if infinite else []
    if seen:
        advice = "use every parameter in forward, freeze those that are not trained, and check initial values"
        raise Broken("; ".join(seen), advice)


@check
def state_comes_back(subject: Subject) -> None:
    """A model that loads the state_dict of another one with the same options makes the same predictions."""
    first, second = subject.run(seed=0).model, subject.run(seed=1).model
    second.load_state_dict(first.state_dict())
    inputs = _inputs(subject)
    if not torch.equal(_predicted(first, inputs), _predicted(second, inputs)):
        raise Broken("the two predict differently", "keep all random and learned values in parameters and buffers")


@check
def copy_is_apart(subject: Subject) -> None:
    """A deep copy makes the same predictions and shares no memory with the model."""
    model = subject.run().model
    twin = copy.deepcopy(model)
    inputs = _inputs(subject)
    if not torch.equal(_predicted(model, inputs), _predicted(twin, inputs)):
        raise Broken("the copy predicts differently", "keep all values that predictions need in parameters and buffers")
    if shared := sorted(_memory(model).keys() & _memory(twin).keys()):
        names = ", ".join(_memory(model)[place] for place in shared)
        raise Broken(f"shared with the copy: {names}", "copy tensors in __deepcopy__, or do not define it")


def _memory(model: nn.Module) -> dict[int, str]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors if tensor.numel()}


@check
def seed_makes_weights(subject: Subject) -> None:
    """The same seed gives the same initial weights: draw them from torch's global generator."""
    first, second = (subject.run(seed=0).model.state_dict() for _ in range(2))
    if changed := [name for name in first if not _same(first[name], second[name])]:
        advice = "draw initial weights in build_model with torch, whose generator the run seeds"
        raise Broken(f"different values the second time: {', '.join(changed)}", advice)


def _same(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, Tensor) else bool(first == second)


@check
def draws_from_torch_alone(subject: Subject) -> None:
    """Building and calling the model draw random numbers from torch only, not Python's random or NumPy."""
    before = generator_states()
    _predicted(subject.run().model, _inputs(subject))
    # torch's generator is allowed: the run seeds it for the model.
    if drawn := [name for name in changed_generators(before) if name != "torch"]:
        raise Broken(f"changed: {', '.join(drawn)}", "draw with torch, which the run seeds")


@check
def keeps_its_mode(subject: Subject) -> None:
    """Calling the model does not change the train or eval mode of any of its modules."""
    model = subject.run().model
    for mode in (False, True):
        model.train(mode)
        before = [module.training for module in model.modules()]
        _output(model, _inputs(subject))
        if [module.training for module in model.modules()] != before:
            raise Broken(f"train({mode}) is undone by a call", "do not change the mode in forward")


@check
def eval_is_repeatable(subject: Subject) -> None:
    """In eval mode the same input always gives the same prediction."""
    model, inputs = subject.run().model, _inputs(subject)
    if not torch.equal(_predicted(model, inputs), _predicted(model, inputs)):
        advice = "draw random numbers and update counts in train mode only"
        raise Broken("the second call gives a different prediction", advice)


@check
def examples_are_apart(subject: Subject) -> None:
    """In eval mode the prediction for an example does not depend on the others in its batch."""
    model, inputs = subject.run().model, _inputs(subject)
    together = _predicted(model, inputs)
    alone = torch.cat([_predicted(model, part_of(inputs, i, i + 1)) for i in range(count_examples(inputs))])
    if together.shape != alone.shape or not torch.allclose(together, alone, rtol=1e-4, atol=1e-5):
        raise Broken("an example alone gets a different prediction than in a batch", "compute nothing across the batch")


@check
def input_is_kept(subject: Subject) -> None:
    """The model does not modify its input in place."""
    model, inputs = subject.run().model, _inputs(subject)
    before = copy.deepcopy(inputs)
    _predicted(model, inputs)
    if not all(map(torch.equal, tensors_in(inputs), tensors_in(before))):
        raise Broken("the input has different values after the call", "write inputs + 1, not inputs += 1")
