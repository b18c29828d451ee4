"""What a plugin author writes: one plugin of each kind, and wrappers; mypy in strict mode has nothing to say to it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import TensorDataset

from hookline import DataSource, Metric, Outcome, Predictor, Run, hookimpl
from hookline.engine import Evaluated, Guard, Parallel, Trial, count_examples
from hookline.sections import Section, Table


class Bounded(Guard):
    """A check that refuses large losses."""

    def accepts_loss(self, loss: Tensor, batch: Any = None) -> bool:
        return loss.item() < 10 and super().accepts_loss(loss, batch)


@dataclass
class Circles:
    """A data source."""

    num_examples: Annotated[int, Meta(ge=1, description="number of examples")] = 64

    @hookimpl
    def build_data(self, run: Run) -> DataSource:
        inputs = torch.randn(self.num_examples, 2, generator=run.generator("circles"))
        targets = (inputs.norm(dim=1, keepdim=True) < 1).float()
        return DataSource(TensorDataset(inputs, targets), in_features=2, out_features=1)

    @hookimpl
    def build_predictor(self, run: Run, data: DataSource) -> Predictor:
        return Points()

    @hookimpl
    def build_report(self, run: Run, split: str, evaluated: Evaluated | None) -> Sequence[Section]:
        rows = (
            [(name, value) for name, value in evaluated.numbers.items() if isinstance(value, float)]
            if evaluated
            else []
        )
        return [Table(title=f"Numbers of {split}", columns=["name", "value"], rows=rows)]


class Points:
    """Reads two numbers from each line of a file."""

    def read(self, path: Path, batch_size: int) -> Iterator[Tensor]:
        rows = [[float(cell) for cell in line.split()] for line in path.read_text().splitlines()]
        yield from torch.tensor(rows).split(batch_size)  # type: ignore[no-untyped-call] # torch has no types for it

    def columns(self, prediction: Tensor) -> Mapping[str, list[float]]:
        return {"inside": prediction[:, 0].tolist()}


@dataclass
class Perceptron:
    """A model."""

    hidden: Annotated[int, Meta(ge=1, description="width of the hidden layer")] = 8

    @hookimpl
    def build_model(self, data: DataSource) -> nn.Module:
        assert data.in_features is not None
        return nn.Sequential(nn.Linear(data.in_features, self.hidden), nn.Tanh(), nn.Linear(self.hidden, 1))


class PlainNet(nn.Module):
    """A model that is no plugin class: it asks for the data by name, and its other parameters are options."""

    def __init__(self, data: DataSource, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(data.in_features or 1, data.out_features or 1, bias)

    def forward(self, inputs: Tensor) -> Tensor:
        prediction: Tensor = self.layer(inputs)
        return prediction


@dataclass
class Hinge:
    """A loss with a metric."""

    margin: Annotated[float, Meta(gt=0, description="distance from the border that costs nothing")] = 1.0

    @hookimpl
    def build_loss(self, run: Run, data: DataSource) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda prediction, target: (self.margin - prediction * (2 * target - 1)).clamp_min(0).mean()

    @hookimpl
    def build_metrics(self) -> Mapping[str, Metric]:
        return {"largest": Largest()}


class Largest:
    """A metric."""

    def __init__(self) -> None:
        self.value = 0.0

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.value = max(self.value, float(prediction.max()))

    def compute(self) -> float:
        return self.value

    def reset(self) -> None:
        self.value = 0.0


@dataclass
class SignSGD:
    """An optimizer."""

    lr: Annotated[float, Meta(gt=0, description="size of a step")] = 0.01

    @hookimpl
    def build_optimizer(self, model: nn.Module) -> Optimizer:
        return torch.optim.Rprop(model.parameters(), lr=self.lr)


class Summed:
    """A strategy of several ranks."""

    @hookimpl
    def build_parallel(self, run: Run, model: nn.Module) -> Parallel:
        return Parallel(model, synchronize=lambda: run.ranks.gather(None))


@dataclass
class Diary:
    """A callback with every event."""

    path: Path | None = None

    def __post_init__(self) -> None:
        self.lines: list[str] = []

    @hookimpl
    def build_evaluation(self, run: Run) -> Callable[[Any], Evaluated]:
        def evaluation(batch: Any) -> Evaluated:
            inputs, target = batch
            prediction = run.model(inputs)
            return Evaluated(prediction.mean(), None, prediction, target, {"size": inputs.norm()})

        return evaluation

    @hookimpl
    def on_model_built(self, run: Run, trial: Trial) -> None:
        self.lines.append(f"{count_examples(trial.first('train'))} examples of {trial.num_examples['train']}")

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        self.lines.append(f"{run.config.train.epochs} epochs of {run.steps_per_epoch} steps")

    @hookimpl
    def on_epoch_start(self, run: Run) -> None:
        self.lines.append(f"epoch {run.epoch}")

    @hookimpl
    def on_step_end(self, run: Run, loss: Tensor) -> None:
        if run.step == 1:
            self.lines.append(f"first loss {loss.item():.1f}")
        run.log("loss", loss)
        run.log("steps", 1, reduce="sum")

    @hookimpl
    def on_log(self, run: Run, values: Mapping[str, float]) -> None:
        self.lines.append(", ".join(values))

    @hookimpl
    def on_save_point(self, run: Run, is_last: bool) -> None:
        self.state = run.state_dict() if is_last else {"position": run.position}

    @hookimpl
    def on_checkpoint_saved(self, run: Run, path: Path) -> None:
        self.lines.append(f"step {run.step} is in {path.name}")

    @hookimpl
    def on_evaluation_start(self, run: Run) -> None:
        self.lines.append(f"evaluated after step {run.step}")

    @hookimpl
    def on_warning(self, run: Run, message: str) -> None:
        self.lines.append(f"{message}, the {len(run.warnings)}th")

    @hookimpl
    def on_evaluation_end(self, metrics: Mapping[str, float]) -> None:
        self.lines.append(", ".join(metrics))

    @hookimpl
    def on_epoch_end(self, run: Run, metrics: Mapping[str, float]) -> None:
        if metrics["train/running_loss"] < 1e-6:
            run.request_stop("it cannot get better")

    @hookimpl
    def on_run_error(self, error: BaseException) -> None:
        self.lines.append(f"failed: {error}")

    @hookimpl
    def on_run_end(self, run: Run, outcome: Outcome) -> None:
        self.lines.append(outcome)
        run.report("diary", [{"line": number, "text": text} for number, text in enumerate(self.lines, 1)])


@dataclass
class Averaged:
    """A wrapper of build_model: the run trains what it returns."""

    decay: Annotated[float, Meta(ge=0, lt=1, description="share of the old average that is kept")] = 0.9

    @hookimpl(wrapper=True)
    def build_model(self) -> Generator[None, nn.Module, nn.Module]:
        model = yield
        self.average = copy.deepcopy(model)
        return model

    @hookimpl
    @torch.no_grad()
    def on_step_end(self, run: Run) -> None:
        for mean, value in zip(self.average.parameters(), run.model.parameters(), strict=True):
            mean.lerp_(value, 1 - self.decay)


@dataclass
class Scaled:
    """A wrapper of build_step: a callable around the step, made once for each run."""

    factor: float = 0.5

    @hookimpl(wrapper=True)
    def build_step(self, run: Run) -> Generator[None, Callable[[Any], Tensor], Callable[[Any], Tensor]]:
        step = yield

        def scaled(batch: Any) -> Tensor:
            inputs, target = batch
            return step((inputs * self.factor, target))

        return scaled


@dataclass
class Careful:
    """Wrappers of the parts of a step and of its reader, and an order of the examples."""

    bound: Annotated[float, Meta(gt=0, description="largest value of a gradient")] = 1.0

    @hookimpl
    def build_order(self, run: Run, data: DataSource) -> Callable[[int], Tensor]:
        num_examples = 64
        return lambda epoch: torch.randperm(num_examples, generator=run.generator(f"order {epoch}"))

    @hookimpl
    def build_evaluated_weights(self, run: Run) -> Callable[[], list[tuple[Tensor, Tensor]]]:
        return lambda: [(weight, weight.nan_to_num()) for weight in run.model.parameters()]

    @hookimpl
    def build_guard(self, run: Run) -> Guard:
        return Guard() if run.device.type == "cpu" else Bounded()

    @hookimpl(wrapper=True)
    def build_backward(self) -> Generator[None, Callable[[Tensor], None], Callable[[Tensor], None]]:
        backward = yield

        def doubled(loss: Tensor) -> None:
            backward(2 * loss)

        return doubled

    @hookimpl(wrapper=True)
    def build_update(self, run: Run) -> Generator[None, Callable[[], None], Callable[[], None]]:
        update = yield

        def clipped() -> None:
            torch.nn.utils.clip_grad_value_(run.model.parameters(), self.bound)
            update()

        return clipped

    @hookimpl(wrapper=True)
    def build_reader(
        self, run: Run
    ) -> Generator[None, Callable[[int, int], Iterator[Any]], Callable[[int, int], Iterator[Any]]]:
        read = yield

        def counted(epoch: int, start: int) -> Iterator[Any]:
            for number, batch in enumerate(read(epoch, start), start):
                run.shared["last batch"] = number
                yield batch

        return counted
