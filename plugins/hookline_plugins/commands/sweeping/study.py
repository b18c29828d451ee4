"""The trials of a sweep, in Optuna's study: chosen, told, listed.

The values of a trial depend on the seed, its number and the results at the time, and on nothing else: each value gets
a sampler with a seed of its own. So a sweep that was killed chooses the same values when it goes on, also for a trial
of which only some values had been written.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from hookline import ConfigError
from hookline_plugins.commands.sweeping.definition import Definition, Sweep
from hookline_plugins.commands.sweeping.journal import JOURNAL, open_journal
from hookline_plugins.commands.sweeping.space import Dimension
from hookline_plugins.optional import optional_package

_DEFINITION, _SIZE = "hookline", "size"
"""The attributes of the study that hold the definition of its sweep, and the number of its trials and jobs."""


@dataclass(frozen=True)
class TrialRow:
    """A trial of a sweep.

    Attributes:
        number: Its number, from 0.
        state: ``running``, ``complete``, ``pruned`` or ``fail``.
        run: Name of its run folder; empty if there is none yet.
        values: Its objectives; empty before its end. Of a pruned trial, the last value.
        params: The values of the options, as in overrides.
        error: The reason that it failed.
        seconds: The time since its start, or from start to end; None if it has not started.
    """

    number: int
    state: str
    run: str
    values: tuple[float, ...]
    params: dict[str, str]
    error: str
    seconds: float | None


class Study:
    """The study of a sweep in its folder.

    Attributes:
        folder: The folder.
        definition: What makes the sweep the same one.
    """

    def __init__(self, folder: Path, definition: Definition, study: Any, storage: Any) -> None:
        self.folder, self.definition, self._study, self._storage = folder, definition, study, storage

    @classmethod
    def open(cls, folder: Path) -> Study:
        """Return the study in a folder.

        Raises:
            ConfigError: When there is none, or it cannot be read.
        """
        if not (folder / JOURNAL).is_file():
            raise ConfigError(f"{folder} is not the folder of a sweep: there is no {JOURNAL}")
        storage = open_journal(folder)
        names = [study.study_name for study in storage.get_all_studies()]
        if not names:
            raise ConfigError(f"{folder} has no sweep yet", hint="start it again with the same command")
        optuna = optional_package("optuna", "a sweep needs", "sweep")
        study = optuna.load_study(study_name=names[0], storage=storage)
        try:
            definition = msgspec.convert(study.user_attrs[_DEFINITION], Definition)
        except (KeyError, msgspec.ValidationError) as error:
            raise ConfigError(f"{folder / JOURNAL} was not written by hookline sweep: {error}") from error
        return cls(folder, definition, study, storage)

    @classmethod
    def begin(cls, folder: Path, sweep: Sweep) -> Study:
        """Return the study of a sweep in a folder, a new one unless there is one with the same definition.

        Raises:
            ConfigError: When another sweep is in the folder; carries every difference.
        """
        optuna = optional_package("optuna", "a sweep needs", "sweep")
        storage, definition = open_journal(folder), sweep.definition
        maximized = ["maximize"] * len(definition.maximize)
        directions = ["minimize"] * (len(definition.minimize) or (not maximized)) + maximized
        study = optuna.create_study(
            study_name=folder.resolve().name, storage=storage, directions=directions, load_if_exists=True
        )
        if _DEFINITION not in study.user_attrs:
            study.set_user_attr(_DEFINITION, msgspec.to_builtins(definition))
        found = cls.open(folder)
        if changes := found.definition.changes(definition):
            hint = "choose another folder with --folder, or repeat the command that started this one"
            raise ConfigError(f"{folder} has another sweep", faults=changes, hint=hint)
        size = {"trials": sweep.num_trials, "jobs": sweep.num_jobs}
        if study.user_attrs.get(_SIZE) != size:
            study.set_user_attr(_SIZE, size)
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the sweep, as options of its command."""
        one = self.definition
        chosen = {name: getattr(one, name) for name in ("sampler", "seed", "minimize", "maximize", "prune")}
        return {**self._study.user_attrs.get(_SIZE, {}), **chosen}

    @property
    def directions(self) -> list[str]:
        """``minimize`` or ``maximize`` for each objective."""
        return [direction.name.lower() for direction in self._study.directions]

    @property
    def unfinished(self) -> list[int]:
        """The numbers of the trials that have begun and not ended."""
        return [trial.number for trial in self._trials() if not trial.state.is_finished()]

    @property
    def num_trials(self) -> int:
        """Number of trials, the unfinished ones included."""
        return len(self._trials())

    def choose(self, number: int, sweep: Sweep) -> list[str]:
        """Return the overrides of a trial; the next number makes a new trial."""
        from optuna.trial import Trial

        sampler = partial(_sampler, self.definition, number, sweep.dimensions)
        self._study.sampler = sampler()
        trials = self._trials()
        trial = Trial(self._study, trials[number]._trial_id) if number < len(trials) else self._study.ask()  # noqa: SLF001 - Optuna has no other way to continue a trial
        assert isinstance(trial.relative_params, dict)  # chosen together, before the others
        chosen = []
        for one in sweep.dimensions:
            self._study.sampler = sampler(one.key)
            chosen.append(f"{one.key}={_suggest(trial, one, is_integer=one.key in sweep.integers)}")
        return chosen

    def tell(self, number: int, values: Sequence[float], *, run: str, is_pruned: bool = False) -> None:
        """Save the result of a trial."""
        from optuna.trial import TrialState

        self._note(number, run=run)
        state = TrialState.PRUNED if is_pruned else TrialState.COMPLETE
        self._study.tell(number, None if is_pruned else list(values), state=state)

    def tell_failure(self, number: int, error: str, *, run: str) -> None:
        """Save that a trial failed."""
        from optuna.trial import TrialState

        self._note(number, run=run, error=error)
        self._study.tell(number, state=TrialState.FAIL)

    def is_pruned(self, number: int) -> bool:
        """Return whether a trial was asked to end early."""
        return "pruned" in self._trials()[number].user_attrs

    def rows(self) -> list[TrialRow]:
        """Return all trials."""
        return [_row(trial) for trial in self._trials()]

    def best(self) -> list[TrialRow]:
        """Return the best trial; of several objectives, each trial that no other one surpasses in all of them."""
        complete = [row for row in self.rows() if row.state == "complete"]
        signs = [-1 if direction == "maximize" else 1 for direction in self.directions]
        worth = {row.number: [s * v for s, v in zip(signs, row.values, strict=True)] for row in complete}
        if len(signs) == 1:
            return sorted(complete, key=lambda row: worth[row.number])[:1]
        return [row for row in complete if not any(_surpasses(worth[o.number], worth[row.number]) for o in complete)]

    def importance(self) -> dict[str, float]:
        """Return how much each option matters to the first objective, by PED-ANOVA; empty for too few trials."""
        from optuna.importance import get_param_importances

        if len([row for row in self.rows() if row.state == "complete"]) < 2:
            return {}
        sign = -1 if self.directions[0] == "maximize" else 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it is the importance for low values
            found: dict[str, float] = get_param_importances(self._study, target=lambda trial: sign * trial.values[0])
        return found

    def _note(self, number: int, **texts: str) -> None:
        trial = self._trials()[number]
        for name, text in texts.items():
            if trial.user_attrs.get(name) != text:
                self._storage.set_trial_user_attr(trial._trial_id, name, text)  # noqa: SLF001 - see choose

    def _trials(self) -> list[Any]:
        trials: list[Any] = self._study.get_trials(deepcopy=False)
        return trials


def _surpasses(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and list(one) != list(other)


def _row(trial: Any) -> TrialRow:
    start, end = trial.datetime_start, trial.datetime_complete
    return TrialRow(
        number=trial.number,
        state=trial.state.name.lower(),
        run=trial.user_attrs.get("run", ""),
        values=tuple(trial.values or ()),
        params={key: str(value) for key, value in trial.params.items()},
        error=trial.user_attrs.get("error", ""),
        seconds=(end - start).total_seconds() if start and end else None,
    )


def _suggest(trial: Any, dimension: Dimension, *, is_integer: bool) -> str:
    """Return a value of an option as in an override; one that was chosen before stays."""
    if dimension.function == "choice":
        return str(trial.suggest_categorical(dimension.key, list(dimension.values)))
    low, high, *step = dimension.numbers
    is_log = dimension.function == "log"
    if step:
        return str(trial.suggest_int(dimension.key, low, high, step=step[0]))
    suggest = trial.suggest_int if is_integer else trial.suggest_float
    return str(suggest(dimension.key, low, high, log=is_log))


def _sampler(definition: Definition, number: int, dimensions: Sequence[Dimension], key: str = "") -> Any:
    """Return the sampler of a trial: of the values that are chosen together, or of those of a key."""
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler

    seed = int.from_bytes(hashlib.sha256(f"{definition.seed} {number} {key}".encode()).digest()[:4], "big")
    if definition.sampler == "tpe":
        return TPESampler(seed=seed)
    if definition.sampler == "random":
        return RandomSampler(seed=seed)

    class Grid(BaseSampler):  # type: ignore[misc] # optuna has no types here
        """All combinations in their order. Optuna's own grid shuffles them, and ends by an error."""

        def infer_relative_search_space(self, *_: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, *_: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, *given: Any) -> Any:
            _study, _trial, name, distribution = given
            value = dict(_combination(dimensions, number))[name]
            return value if hasattr(distribution, "choices") else int(value)

    return Grid()


def _combination(dimensions: Sequence[Dimension], number: int) -> Iterator[tuple[str, str]]:
    """Yield the values of a combination of a grid, by key; the last option changes fastest."""
    for at, dimension in enumerate(dimensions):
        size = math.prod(len(one.values) for one in dimensions[at + 1 :])
        yield dimension.key, dimension.values[number // size % len(dimension.values)]
