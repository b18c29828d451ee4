"""The check that callbacks take changed options when a run resumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from hookline.config.plugins.options import Option, is_plain, plain
from hookline.engine.errors import HooklineError
from hookline.engine.loop.run import Run
from hookline.testing.kit import Broken, Subject, check, new_folder, skip, whole_error

_ADVICE = "keep nothing in state_dict that follows from the options, or compare it when the state is loaded"
_ABSENT = object()


@check
def changed_options_take_effect(subject: Subject) -> str:
    """An option that is changed when a run resumes takes effect: no state holds what follows from the options."""
    target = subject.plugin.target
    if not (hasattr(target, "state_dict") and hasattr(target, "load_state_dict")):
        skip("it has no state_dict and load_state_dict")
    first, second = _states(subject, 1), _states(subject, 2)
    state = _run_to(subject, 1)
    changed = []
    for option in subject.plugin.options:
        for value in _other_values(option, subject):
            other = replace(subject, options={**subject.options, option.name: value}, given_data=subject.data)
            if other.refusals:
                continue
            try:
                expected = _states(other, 1), _states(other, 2)
            except HooklineError:
                continue  # the plugin rejects this value when the run starts
            changed.append(option.name)
            _compare(other, option.name, state, (first, second), expected)
            break
    if not changed:
        skip("no option could be changed")
    return f"changed: {', '.join(changed)}"


def _compare(
    other: Subject,
    name: str,
    state: Mapping[str, Any],
    before: tuple[Mapping[str, Any], Mapping[str, Any]],
    after: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> None:
    """Resume with an option changed, and check the parts of the state that are constant and follow from it."""
    value = other.options[name]
    try:
        with new_folder():
            resumed = other.run()
            resumed.load_state_dict(state)
            loaded = _flat(_after_step(resumed, 2)["plugins"].get(other.table))
    except Exception as error:
        seen = f"with {name} = {value!r}, the resumed run raised {whole_error(error)}"
        raise Broken(seen, "accept the state of a run with other options in load_state_dict") from error
    instance = next(member.instance for member in resumed.members if member.table == other.table)
    if getattr(instance, name, value) != other.typed_options()[name]:
        raise Broken(f"with {name} = {value!r}, the resumed run has {getattr(instance, name)!r}", _ADVICE)
    for path in sorted(before[0].keys() | after[0].keys()):
        then, now = ([part.get(path, _ABSENT) for part in parts] for parts in (before, after))
        follows = then[0] == then[1] and now[0] == now[1] and then[0] != now[0]
        if follows and loaded.get(path, _ABSENT) != now[0]:
            seen = f"with {name} = {value!r}, {path} of its state is {loaded.get(path)!r} instead of {now[0]!r}"
            raise Broken(seen, _ADVICE)


def _states(subject: Subject, step: int) -> dict[str, Any]:
    return _flat(_run_to(subject, step)["plugins"].get(subject.table))


def _run_to(subject: Subject, step: int) -> Mapping[str, Any]:
    with new_folder():
        return _after_step(subject.run(), step)


def _after_step(run: Run, number: int) -> Mapping[str, Any]:
    state = next((run.state_dict() for step in run.steps() if step.step == number), None)
    if state is None:
        skip(f"it ends the run before step {number}")
    return state


def _flat(state: Any, path: str = "") -> dict[str, Any]:
    """Return the plain values of a state by their paths, without tensors."""
    if isinstance(state, Mapping | list | tuple):
        items = state.items() if isinstance(state, Mapping) else enumerate(state)
        return {key: value for name, part in items for key, value in _flat(part, f"{path}/{name}").items()}
    return {path: state} if state is None or isinstance(state, str | int | float) else {}


def _other_values(option: Option, subject: Subject) -> Iterator[Any]:
    """Yield values to try instead of the current one: flags, numbers, the other choices, names of metrics."""
    current = plain(subject.typed_options()[option.name])
    schema = option.schema()
    choices = [choice for part in (schema, *schema.get("anyOf", ())) for choice in part.get("enum", ())]
    if isinstance(current, bool):
        candidates: list[Any] = [not current]
    elif choices:
        candidates = choices
    elif isinstance(current, int | float):
        candidates = [current + 1, current * 2, current / 2, current - 1]
    else:
        metrics = subject.run().metric_names
        candidates = list(metrics) if current in metrics else []
    for value in candidates:
        number = int(value) if isinstance(current, int) and isinstance(value, float) and value.is_integer() else value
        if is_plain(number) and number != current:
            yield number
