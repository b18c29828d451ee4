"""Tests of options: found on classes and functions, converted without coercion, described in words and as schema."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from jsonschema import Draft7Validator
from msgspec import Meta
from torch import Tensor, nn

from hookline import Secret
from hookline.config.plugins.options import Option, describe, options_of, plain
from hookline.engine.train_options import TrainOptions

HERE = Path("/data")


@dataclass
class Everything:
    """A plugin with one option of each type."""

    size: Annotated[int, Meta(ge=1, description="how large it is")]
    rate: float = 0.5
    tags: list[str] = field(default_factory=lambda: ["a"])
    _: KW_ONLY
    path: Path | None = None
    made_later: int = field(default=0, init=False)
    shared: typing.ClassVar[int] = 3


class Net(nn.Module):
    """A plain module: ``data`` is supplied, the others are options."""

    def __init__(self, data: Any, width: int, bias: bool = True, activation: Any = nn.ReLU) -> None:
        super().__init__()


class Unannotated:
    """A plain class without annotations."""

    def __init__(self, a, b=2, *rest, **more) -> None:  # type: ignore[no-untyped-def] # as a plugin may be written
        pass


class Bare:
    """A class with no parameters at all."""


class Misspelt:
    """Its annotation is an undefined name."""

    def __init__(self, width: Widht) -> None:  # type: ignore[name-defined] # noqa: F821 - what the test is about
        pass


def noisy_loss(prediction: Tensor, target: Tensor, scale: float = 1.0, *, power: Literal[1, 2] = 2) -> Tensor:
    """A plain function."""
    return scale * (prediction - target).abs().pow(power).mean()


# ---- finding options -------------------------------------------------------------------------------------------------


def test_options_of_a_dataclass_are_the_fields_that_its_init_takes_in_their_order() -> None:
    options = options_of(Everything)
    assert [(option.name, option.is_required) for option in options] == [
        ("size", True),
        ("rate", False),
        ("tags", False),
        ("path", False),
    ]
    assert [option.default for option in options[1:]] == [0.5, ["a"], None]


def test_supplied_fields_of_a_dataclass_are_not_options() -> None:
    assert [option.name for option in options_of(Everything, supplied=("rate", "path"))] == ["size", "tags"]


def test_options_of_a_module_are_its_parameters_without_those_that_are_supplied() -> None:
    options = options_of(Net, supplied=("run", "data"))
    assert options == (Option("width", int), Option("bias", bool, True), Option("activation", Any, nn.ReLU))


def test_options_of_a_torch_optimizer_are_its_parameters_without_params() -> None:
    options = {option.name: option for option in options_of(torch.optim.Adagrad, supplied=("params", "run", "model"))}
    assert list(options)[:5] == ["lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"]
    assert options["lr"].default == 0.01
    assert options["foreach"].expected == "true or false"


def test_the_type_of_an_option_omits_parts_of_a_union_that_no_config_can_hold() -> None:
    options = {option.name: option for option in options_of(torch.optim.Adagrad, supplied=("params",))}
    assert typing.get_type_hints(torch.optim.Adagrad.__init__)["lr"] == float | Tensor
    assert options["lr"].type is float
    with pytest.raises(ValueError, match="expected a number, got 'fast'"):
        options["lr"].convert("fast", HERE)


def test_options_of_a_function_are_its_parameters() -> None:
    options = options_of(noisy_loss, supplied=("prediction", "target"))
    assert options == (Option("scale", float, 1.0), Option("power", Literal[1, 2], 2))


def test_a_parameter_without_annotation_takes_any_value_and_star_parameters_are_not_options() -> None:
    assert options_of(Unannotated) == (Option("a", Any), Option("b", Any, 2))


def test_a_class_without_parameters_has_no_options() -> None:
    assert options_of(Bare) == ()


def test_an_annotation_with_an_undefined_name_is_an_error_with_that_name() -> None:
    with pytest.raises(TypeError, match="an annotation cannot be resolved: name 'Widht' is not defined"):
        options_of(Misspelt)


def test_a_positional_only_parameter_is_an_error_with_its_name() -> None:
    def build(width: int, /) -> None: ...

    with pytest.raises(TypeError, match="its parameter 'width' is positional-only, but options are passed by name"):
        options_of(build)


def test_each_call_makes_a_new_default() -> None:
    first, second = ({o.name: o.default for o in options_of(Everything)} for _ in range(2))
    assert first["tags"] == second["tags"]
    assert first["tags"] is not second["tags"]


# ---- converting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, "10", "expected an integer, got '10'"),
        (int, True, "expected an integer, got true"),
        (int, 1.0, "expected an integer, got 1.0"),
        (float, "1e-3", "expected a number, got '1e-3'"),
        (float, False, "expected a number, got false"),
        (bool, 1, "expected true or false, got 1"),
        (bool, "true", "expected true or false, got 'true'"),
        (str, 5, "expected text, got 5"),
        (list[int], 5, "expected a list of integers, got 5"),
        (tuple[int, ...], "12", "expected a list of integers, got '12'"),
        (list[int], [1, "2"], "expected a list of integers, got [1, '2'] (at x[1])"),
        (tuple[float, float], [0.9], "expected a list of 2: a number, a number, got [0.9]"),
        (dict[str, int], ["a"], "expected a table, got ['a']"),
        (
            dict[str, Literal["log", "sin"]],
            {"a": "Log"},
            "expected a table whose values are one of 'log', 'sin', got {'a': 'Log'} (at x[...]); did you mean 'log'?",
        ),
        (Path, 5, "expected a path, got 5"),
        (int, None, "expected an integer, got None"),
        (Annotated[int, Meta(ge=1)], 0, "expected an integer >= 1, got 0"),
        (Annotated[float, Meta(gt=0, le=1)], 1.5, "expected a number > 0 and <= 1, got 1.5"),
        (Annotated[float, Meta(ge=0)], float("nan"), "expected a number >= 0, got nan"),
        (Annotated[str, Meta(max_length=2)], "abc", "expected text, at most 2 long, got 'abc'"),
        (Literal["relu", "gelu"], "rellu", "expected one of 'relu', 'gelu', got 'rellu'; did you mean 'relu'?"),
        (Literal["relu", "gelu"], "xyz", "expected one of 'relu', 'gelu', got 'xyz'"),
        (int | Literal["all"], "al", "expected an integer or 'all', got 'al'; did you mean 'all'?"),
        (
            tuple[Literal["train", "test"], ...],
            ["train", "tst"],
            "expected a list of any of 'train', 'test', got ['train', 'tst'] (at x[1]); did you mean 'test'?",
        ),
    ],
)
def test_nothing_is_coerced_and_the_message_says_expected_and_got(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        Option("x", annotation).convert(value, HERE)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, 10, 10),
        (float, 1, 1.0),
        (float, 0.5, 0.5),
        (bool, True, True),
        (str, "10", "10"),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[float, float], [1, 0.5], (1.0, 0.5)),
        (list[list[int]], [[1], []], [[1], []]),
        (frozenset[str], ["a", "a"], frozenset({"a"})),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (float | None, None, None),
        (int | Literal["all"], "all", "all"),
        (Any, {"a": [1]}, {"a": [1]}),
        (Path | None, None, None),
    ],
)
def test_a_value_of_the_right_type_becomes_the_options_type(annotation: Any, value: Any, expected: Any) -> None:
    converted = Option("x", annotation).convert(value, HERE)
    assert converted == expected
    assert type(converted) is type(expected)


def test_a_relative_path_starts_at_the_folder_and_an_absolute_one_is_unchanged() -> None:
    assert Option("x", Path).convert("a/b.csv", HERE) == Path("/data/a/b.csv")
    assert Option("x", Path).convert("/etc/a.csv", HERE) == Path("/etc/a.csv")
    assert Option("x", Path).convert(Path("c.csv"), HERE) == Path("/data/c.csv")
    assert Option("x", tuple[Path, ...]).convert(["a", "b"], HERE) == (Path("/data/a"), Path("/data/b"))


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match="expected an integer, got '") as caught:
        Option("x", int).convert("y" * 10_000, HERE)
    assert str(caught.value).endswith("...")
    assert len(str(caught.value)) < 120


def test_a_union_that_msgspec_does_not_support_takes_each_of_its_types() -> None:
    def build(where: Path | str = "stdout") -> None: ...

    (option,) = options_of(build)
    assert str(option.convert("stdout", Path())) == "stdout"


# ---- describing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (int, "an integer"),
        (float, "a number"),
        (str, "text"),
        (Path, "a path"),
        (Any, "any value"),
        (int | None, "an integer"),
        (typing.Optional[int], "an integer"),  # noqa: UP045 - old plugins spell it so
        (typing.Union[int, str], "an integer or text"),  # noqa: UP007 - old plugins spell it so
        (Literal["a"], "'a'"),
        (Literal["a", "b", 3], "one of 'a', 'b', 3"),
        (Annotated[int, Meta(ge=1)] | Literal["all"], "an integer >= 1 or 'all'"),
        (Annotated[float, Meta(gt=0, lt=0.5)], "a number > 0 and < 0.5"),
        (Annotated[float, Meta(ge=1e-8)], "a number >= 1e-08"),
        (Annotated[int, Meta(multiple_of=8)], "an integer a multiple of 8"),
        (Annotated[int, Meta(description="only words")], "an integer"),
        (Annotated[int, "no mark of msgspec"], "an integer"),
        (Annotated[str, Meta(pattern="^a")], "text, matching '^a'"),
        (Annotated[str, Meta(min_length=1, max_length=3)], "text, at least 1 long and at most 3 long"),
        (list[int], "a list of integers"),
        (tuple[float, ...], "a list of numbers"),
        (set[str], "a list of text"),
        (frozenset[Path], "a list of paths"),
        (Sequence[int], "a list of integers"),
        (list[list[int]], "a list of lists of integers"),
        (list[dict[str, int]], "a list of tables"),
        (list[Any], "a list of any value"),
        (tuple[float, float], "a list of 2: a number, a number"),
        (tuple[Annotated[int, Meta(ge=1)], ...], "a list of integers >= 1"),
        (Annotated[list[int], Meta(min_length=1)], "a list of integers, at least 1 long"),
        (dict[str, int], "a table"),
        (Mapping[str, Any], "a table"),
        (type(None), "nothing"),
        (Everything, "Everything"),
    ],
)
def test_a_type_is_described_in_words(annotation: Any, words: str) -> None:
    assert describe(annotation) == words


def test_an_option_has_the_description_of_its_mark_even_within_a_union() -> None:
    options = {option.name: option for option in options_of(TrainOptions)}
    assert options["epochs"].description == "number of passes over the training data"
    assert options["batch_size"].description == "examples per step; 'all' puts all of them into one step"
    assert options["batch_size"].expected == "an integer >= 1 or 'all'"
    assert Option("x", int).description == ""


def test_plain_turns_tuples_and_paths_into_what_toml_and_json_hold() -> None:
    value = {"a": (1, (2.5, Path("b"))), 3: [True, None, "text"]}
    assert plain(value) == {"a": [1, [2.5, "b"]], "3": [True, None, "text"]}


# ---- JSON Schema -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "accepted", "refused"),
    [
        (Annotated[int, Meta(ge=1)], [1, 5], [0, "1", True, 1.5]),
        (float, [0.5, 1], ["1", False]),
        (bool, [True], [1, "true"]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (int | Literal["all"], [3, "all"], ["most", 0.5]),
        (tuple[int, ...], [[], [1, 2]], [[1, "2"], 1]),
        (Path, ["a.csv"], [5]),
        (Path | None, ["a.csv", None], [5]),
        (dict[str, int], [{}, {"a": 1}], [{"a": "b"}, []]),
        (Any, [1, "a", None], []),
        (tuple[float, float], [[0.9, 0.99]], [[0.9], [0.9, 0.99, 1.0], 0.9, ["a", "b"]]),
    ],
)
def test_a_schema_accepts_and_refuses_what_the_option_does(
    annotation: Any, accepted: list[Any], refused: list[Any]
) -> None:
    option = Option("x", annotation)
    schema = option.schema()
    Draft7Validator.check_schema(schema)
    for value in accepted:
        option.convert(value, HERE)
        assert Draft7Validator(schema).is_valid(value), value
    for value in refused:
        with pytest.raises(ValueError, match="expected"):
            option.convert(value, HERE)
        assert not Draft7Validator(schema).is_valid(value), value


def test_a_schema_has_description_and_default() -> None:
    option = Option("x", Annotated[tuple[int, ...], Meta(description="the widths")], (64, 64))
    schema = option.schema()
    assert (schema["description"], schema["default"]) == ("the widths", [64, 64])
    assert "default" not in Option("x", int).schema()
    assert "default" not in Option("x", int | None, None).schema()


def test_an_option_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Option("x", int).name = "y"  # type: ignore[misc] # what the test is about


def test_options_are_found_on_any_callable() -> None:
    targets: list[Callable[..., Any]] = [Everything, Net, noisy_loss, Bare]
    assert [len(options_of(target)) for target in targets] == [4, 4, 4, 0]


@pytest.mark.parametrize(
    ("annotation", "is_secret"),
    [
        (Secret, True),
        (Annotated[Secret, Meta(description="a token")], True),
        (Secret | None, True),
        (list[Secret], True),
        (dict[str, Secret], True),
        (str, False),
        (list[str], False),
        (Annotated[str, Meta(description="a name")], False),
    ],
)
def test_a_secret_is_text_that_no_message_shows(annotation: Any, is_secret: bool) -> None:
    option = Option("login", annotation)
    assert option.is_secret == is_secret
    with pytest.raises(ValueError, match="expected") as caught:
        option.convert(1234, Path())
    assert ("1234" not in str(caught.value)) == is_secret


def test_the_schema_of_a_secret_says_that_it_is_only_written() -> None:
    assert Option("login", Secret).schema() == {"type": "string", "writeOnly": True}
    assert Option("login", Secret).convert("1234", Path()) == "1234"
