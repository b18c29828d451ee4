"""The conformance kit: its output and errors, its form for pytest, and the run for observing plugins."""

from __future__ import annotations

import ast
import inspect
import random
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset, get_worker_info

import hookline.testing as kit
from hookline import Catalog, ConfigError, DataSource, Run, hookimpl
from hookline.config import KINDS
from hookline.config.plugins.plugin import Plugin, load_plugin
from hookline.engine.plugin.hook_names import HOOKS
from hookline.testing import CHECKS, RULES, HostedRun, check_plugin, conformance, skip
from hookline.testing.kit import Check, Subject, run_check
from hookline.testing.parts import Recorder
from hookline.testing.report import collecting
from support import ROOT, run

pytest_plugins = ["pytester"]

REFERENCE = (ROOT / "docs" / "reference" / "testing.md").read_text()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # From here, another process cannot import this module.
    monkeypatch.chdir(tmp_path)


class Net(nn.Module):
    """A linear layer after a hidden one."""

    def __init__(self, data: DataSource, width: Annotated[int, Meta(ge=1, description="hidden values")] = 4) -> None:
        super().__init__()
        assert data.in_features
        assert data.out_features
        self.layers = nn.Sequential(nn.Linear(data.in_features, width), nn.Linear(width, data.out_features))

    def forward(self, inputs: Tensor) -> Tensor:
        prediction: Tensor = self.layers(inputs)
        return prediction


class Restless(Net):
    """A net that draws from Python's global generator."""

    def forward(self, inputs: Tensor) -> Tensor:
        random.random()
        return super().forward(inputs)


# ---- check_plugin ---------------------------------------------------------------------------------------------------


def test_a_good_plugin_gives_a_report_and_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = check_plugin("model", Net, width=8)
    count = len(CHECKS["model"])
    reason = f"its module {__name__!r} cannot be imported by name in another process"
    assert capsys.readouterr().out.splitlines() == [
        f"model 'Net': {count - 1} checks ran, 1 skipped, 0 failed",
        f"  skipped import_without_effect: {reason}",
    ]
    assert (*report.ran, "import_without_effect") == (*(n for n in CHECKS["model"] if n in report.ran), *report.skipped)
    assert not report.failed
    assert not report.expected


def test_a_failure_states_the_rule_the_finding_and_the_remedy() -> None:
    with pytest.raises(AssertionError) as raised:
        check_plugin("model", Restless)
    assert str(raised.value) == (
        f"model 'Restless': {len(CHECKS['model']) - 1} checks ran, 1 skipped, 1 failed\n"
        "\n"
        "draws_from_torch_alone\n"
        "  rule: Building and calling the model draw random numbers from torch only, not Python's random or NumPy.\n"
        "  seen: changed: Python's random\n"
        "  do:   draw with torch, which the run seeds"
    )


def test_an_error_in_a_plugin_is_a_failure_with_its_place_and_its_cause() -> None:
    class Fails(Net):
        """A net that cannot be copied."""

        def __deepcopy__(self, memo: object) -> None:
            raise OSError("no copies")

    with pytest.raises(AssertionError, match=rf"it raised OSError: no copies \({__file__}:\d+\)") as raised:
        check_plugin("model", Fails)
    assert isinstance(raised.value.__cause__, OSError)


def test_a_plugin_that_cannot_be_built_fails_once_and_skips_what_needs_a_run() -> None:
    with collecting() as reports, pytest.raises(AssertionError, match="can_be_made"):
        check_plugin("model", Net, width="wide")
    assert list(reports[0].failed) == ["can_be_made", "options_have_schemas"]
    assert "with three class indices: ConfigError" in reports[0].failed["can_be_made"]
    assert reports[0].skipped["output_shape"] == "a run cannot be built with it: see can_be_made"


def test_an_expected_failure_is_not_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    report = check_plugin("model", Restless, expected_failures={"draws_from_torch_alone": "it plays dice"})
    assert report.expected == {"draws_from_torch_alone": "it plays dice"}
    assert "draws_from_torch_alone" in report.ran
    assert "0 failed, 1 failed as expected\n" in capsys.readouterr().out


def test_an_expected_failure_that_passes_is_a_failure() -> None:
    with pytest.raises(AssertionError, match=r"it passed, but was expected to fail: it plays dice"):
        check_plugin("model", Net, expected_failures={"draws_from_torch_alone": "it plays dice"})


def test_an_expected_failure_of_an_unknown_check_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="the kind 'model' has no such check; did you mean 'output_shape'"):
        check_plugin("model", Net, expected_failures={"outputs_shape": "it is flat"})


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown kind 'modle' of plugin; did you mean 'model'"):
        check_plugin("modle", Net)


def test_a_name_that_is_not_installed_is_refused_with_the_nearest() -> None:
    with pytest.raises(LookupError, match="did you mean 'linear'"):
        check_plugin("model", "liner")


def test_an_instance_is_refused_because_each_check_makes_its_own() -> None:
    with pytest.raises(TypeError, match="got an instance of Linear, expected a class, a function or a name"):
        check_plugin("model", nn.Linear(3, 1))


@dataclass
class Ambiguous:
    """Has an option named like an argument of the kit."""

    data: Annotated[str, Meta(description="name of the data")]

    @hookimpl
    def on_run_start(self) -> None:
        assert self.data == "mine"


def test_options_named_like_an_argument_go_into_options() -> None:
    assert not check_plugin("callback", Ambiguous, options={"data": "mine"}).failed
    with pytest.raises(TypeError, match="given twice, as keywords and in options=: width"):
        check_plugin("model", Net, options={"width": 1}, width=2)


def four_features(data: DataSource) -> nn.Module:
    """A linear layer for exactly four features."""
    if data.in_features != 4:
        raise ValueError("it needs four features")
    return nn.Linear(4, 1)


def test_a_plugin_that_needs_particular_data_gets_them() -> None:
    inputs = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    data = DataSource(TensorDataset(inputs, inputs.sum(1, keepdim=True)), in_features=4, out_features=1)
    assert not check_plugin("model", four_features, data=data).failed
    with pytest.raises(AssertionError, match="with a regression: ValueError: it needs four features"):
        check_plugin("model", four_features)
    with pytest.raises(ValueError, match="model= is not for a model plugin"):
        check_plugin("model", "linear", model=lambda data: nn.Linear(3, 1))
    with pytest.raises(ValueError, match="a data plugin, which brings its own data"):
        check_plugin("data", four_features, data=data)


def test_data_are_tried_until_a_run_accepts_them() -> None:
    def index_loss() -> object:
        """Cross-entropy, which takes only class indices."""

        def loss(prediction: Tensor, target: Tensor) -> Tensor:
            if target.is_floating_point():
                raise TypeError("class indices, please")
            return nn.functional.cross_entropy(prediction, target)

        return loss

    assert "class indices" in check_plugin("loss", index_loss).skipped["refuses_broadcast"]


def test_an_installed_plugin_is_given_by_its_entry_too() -> None:
    assert check_plugin("model", Catalog.installed().find("model", "linear")).plugin == "model 'linear'"


def test_a_wrapper_may_change_what_it_wraps() -> None:
    class Noisy:
        """Adds noise to predictions."""

        @hookimpl(wrapper=True)
        def build_model(self) -> Generator[None, nn.Module, nn.Module]:
            model = yield
            return nn.Sequential(model, nn.Dropout(0.5))

    assert "it has build_model" in check_plugin("callback", Noisy).skipped["changes_no_result"]


class Shared(IterableDataset[tuple[Tensor, Tensor]]):
    """Examples that are split between workers."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return ((torch.full((2,), float(i)), torch.zeros(1)) for i in range(first, 10, step))


def shared_stream() -> DataSource:
    """A stream for several workers."""
    return DataSource(Shared(), in_features=2, out_features=1)


class Placed(IterableDataset[tuple[Tensor, Tensor]]):
    """Examples that are shared out, with a state."""

    def __init__(self, first: int = 0, step: int = 1) -> None:
        self.share, self.place = (first, step), 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, step = self.share
        begin, self.place = self.place, 0
        for self.place in range(begin + 1, len(range(first, 10, step)) + 1):
            yield torch.full((2,), float(first + (self.place - 1) * step)), torch.zeros(1)
        self.place = 0

    def shard(self, worker: int, num_workers: int) -> Placed:
        return type(self)(worker, num_workers)

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


class Late(Placed):
    """Counts an example only when the next is read."""

    def state_dict(self) -> dict[str, int]:
        return {"place": max(self.place - 1, 0)}


def placed_stream() -> DataSource:
    """A stream with a state."""
    return DataSource(Placed(), in_features=2, out_features=1)


def late_stream() -> DataSource:
    """A stream whose state is one example late."""
    return DataSource(Late(), in_features=2, out_features=1)


def test_the_state_and_the_shares_of_a_stream_are_checked() -> None:
    report = check_plugin("data", placed_stream)
    assert {"starts_anywhere", "shards_are_disjoint"} <= set(report.ran)
    with pytest.raises(AssertionError, match="different batches when the epoch starts at batch 1"):
        check_plugin("data", late_stream)


def test_a_stream_is_checked_as_far_as_it_can_be() -> None:
    report = check_plugin("data", shared_stream)
    assert "shards_are_disjoint" in report.ran
    assert {"starts_anywhere", "length_is_true", "order_follows_the_epoch"} <= report.skipped.keys()


def test_output_and_files_of_a_plugin_are_hidden(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    class Loud:
        """Prints, and writes to the current folder."""

        @hookimpl
        def on_run_end(self) -> None:
            print("loud")
            Path("loud.txt").touch()

    state = torch.get_rng_state()
    check_plugin("callback", Loud)
    assert "loud" not in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_check_can_be_skipped_with_a_reason() -> None:
    def not_for_it(subject: Subject) -> None:
        skip(f"not for {subject}")

    subject = Subject(Plugin("model", "Net", Net), {}, None, Path())
    finding = run_check(Check("nothing", "It has no rule.", not_for_it), subject, {})
    assert (finding.verdict, finding.text) == ("skipped", "not for model 'Net'")


# ---- under pytest ---------------------------------------------------------------------------------------------------

# Without plugins that slow down the start.
BARE = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")

MODULE = """
import random
from hookline.testing import conformance
from hookline import hookimpl

class Quiet:
    '''Does nothing at all.'''

    @hookimpl
    def on_run_end(self):
        pass

class Dice(Quiet):
    '''Draws from the global generator.'''

    @hookimpl
    def on_step_end(self):
        random.random()

@conformance("callback", Quiet)
def test_quiet(check):
    check()

@conformance("callback", Dice)
def test_dice(check):
    check()

@conformance("callback", Dice, expected_failures={"changes_no_result": "it plays dice"})
def test_expected(check):
    check()

def test_watched(run_host):
    run = run_host(Quiet(), epochs=0)
    run.fit()
    assert run.transcript == ["on_run_start", "on_save_point 0 last", "on_run_end completed"]
"""


def test_the_parametrised_form_makes_a_test_of_each_check(pytester: pytest.Pytester) -> None:
    # In a subfolder, where another process cannot import it, which would take the time of importing torch.
    file = pytester.mkdir("suite") / "test_quiet.py"
    file.write_text(MODULE)
    result = pytester.runpytest_inprocess("-v", "-rsxf", *BARE, str(file))
    count = len(CHECKS["callback"])
    # Each of the three tests skips the checks of state and import.
    result.assert_outcomes(passed=3 * (count - 3) - 2 + 1, skipped=9, failed=1, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "*::test_quiet[[]changes_no_result[]] PASSED*",
            "*::test_quiet[[]state_round_trip[]] SKIPPED*",
            "*::test_dice[[]changes_no_result[]] FAILED*",
            "*::test_expected[[]changes_no_result[]] XFAIL*",
            "E * AssertionError: callback 'Dice': changes_no_result",
            "E *seen: changed: the state of Python's random",
            f"hookline: {3 * (count - 3)} checks ran, 9 skipped, 1 failed",
            "SKIPPED [[]2[]] *: it has no state_dict and load_state_dict",
            "XFAIL *::test_expected[[]changes_no_result[]] - it plays dice",
        ]
    )


def test_the_decorator_names_each_parameter_after_its_check() -> None:
    mark = conformance("model", Net).mark
    assert mark.name == "parametrize"
    assert mark.args[0] == "check"
    assert tuple(mark.kwargs["ids"]) == CHECKS["model"]


def test_a_session_without_checks_has_no_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing():\n    pass\n")
    assert "hookline:" not in str(pytester.runpytest_inprocess(*BARE).stdout)


@pytest.mark.parametrize(
    ("module", "heavy"), [("hookline.testing", {"torch", "pytest"}), ("hookline.testing.pytest_plugin", {"torch"})]
)
def test_the_import_is_light(module: str, heavy: set[str]) -> None:
    done = run([sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"])
    assert done.returncode == 0, done.stderr
    assert not heavy & set(done.stdout.split())


# ---- the run in which a plugin is observed --------------------------------------------------------------------------


class Stops:
    """Stops a run in its third step."""

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        if run.step == 3:
            run.request_stop("three are enough")


class Fails:
    """Fails in its first step."""

    @hookimpl
    def on_step_end(self) -> None:
        raise RuntimeError("no")


def test_a_hosted_run_has_a_transcript(run_host: type[HostedRun]) -> None:
    run = run_host(Stops(), epochs=5)
    assert run.fit().stop_reason == "three are enough"
    assert run.transcript == [
        "on_run_start",
        "on_epoch_start 1",
        "on_step_end 1",
        "on_save_point 1",
        "on_step_end 2",
        "on_save_point 2",
        "on_evaluation_start 1",
        "on_evaluation_end 1",
        "on_epoch_end 1",
        "on_save_point 2",
        "on_epoch_start 2",
        "on_step_end 3",
        "on_save_point 3",
        "on_evaluation_start 2",
        "on_evaluation_end 2",
        "on_epoch_end 2",
        "on_save_point 3",
        "on_save_point 3 last",
        "on_run_end stopped",
    ]


def test_a_transcript_has_the_event_in_which_a_plugin_fails(run_host: type[HostedRun]) -> None:
    run = run_host({"callbacks.fails": Fails})
    with pytest.raises(RuntimeError, match="no"):
        run.fit()
    assert run.transcript == [
        "on_run_start",
        "on_epoch_start 1",
        "on_step_end 1",
        "on_run_error RuntimeError",
        "on_run_end failed",
    ]


def test_a_hosted_run_takes_any_part_with_options(run_host: type[HostedRun]) -> None:
    run = run_host({"model": Net}, config={"train": {"epochs": 2, "evaluate": []}}, overrides={"model.width": 7})
    assert isinstance(run.model, Net)
    assert run.model.layers[0].out_features == 7
    assert run.fit().epochs == 2


def test_a_hosted_run_ignores_installed_plugins(run_host: type[HostedRun]) -> None:
    with pytest.raises(ConfigError, match="the configuration has 1 fault"):
        run_host(overrides={"model": "mlp"})


def test_the_transcript_has_every_event() -> None:
    recorded = {name for name in vars(Recorder) if name.startswith("on_")}
    assert recorded == {name for name in HOOKS if name.startswith("on_")} - {"on_model_built"}  # it precedes the run


# ---- guards ---------------------------------------------------------------------------------------------------------


def test_the_kit_offers_the_names_that_it_lists() -> None:
    assert dir(kit) == sorted(kit.__all__)
    for name in kit.__all__:
        assert getattr(kit, name) is not None
        assert f"`{name}" in REFERENCE, name
    with pytest.raises(AttributeError, match="no attribute 'chekc_plugin'"):
        _ = kit.chekc_plugin  # type: ignore[attr-defined] # the point of the test


def test_the_types_that_checkers_see_are_those_that_programs_get() -> None:
    tree = ast.parse(inspect.getsource(kit))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {a.name for node in block.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert imported == set(kit.__all__)


@pytest.mark.parametrize("kind", KINDS)
def test_every_check_is_documented_with_its_rule_under_its_kind(kind: str) -> None:
    of_all = set.intersection(*(set(names) for names in CHECKS.values()))
    for name in CHECKS[kind]:
        heading = "every kind" if name in of_all else f"`{kind}`"
        section = REFERENCE.partition(f"### Checks of {heading}\n")[2].partition("\n### ")[0]
        assert f"| `{name}` | {RULES[name]} |" in section, name


def test_every_rule_is_a_different_sentence() -> None:
    assert all(rule.endswith(".") and len(rule) > 20 for rule in RULES.values())
    assert len(set(RULES.values())) == len(RULES)


def test_an_instance_of_an_installed_plugin_takes_part_in_the_run_itself() -> None:
    entry = Catalog.installed().find("callback", "early-stopping")
    subject = Subject(load_plugin(entry), {"patience": 2}, None, ROOT)
    instance = subject.make()
    members = subject.run(plugins={subject.table: instance}).members
    assert [member.instance for member in members if member.table == subject.table] == [instance]
