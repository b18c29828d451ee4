"""Callback ``notify``: a command or a webhook when a run ends."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from hookline import Secret, hookimpl
from hookline.config import FromUser
from hookline.engine import encodable, error_text
from hookline.runs import Redaction, folder_of
from hookline.trained import only_watches
from hookline_plugins.callback_parts.delivery import deliver, fault_of_url, post
from hookline_plugins.callback_parts.fitting import by_relevance

if TYPE_CHECKING:
    from hookline import Outcome, RunView

_VARIABLE = "HOOKLINE_NOTIFY_URL"
_NUM_METRICS = 3
_MAX_ERROR = 2000
_PLACE = re.compile(r"\{([^{}]+)\}")


@dataclass(kw_only=True)
class Notify:
    """Runs a command or calls a webhook when a run ends, once its files are complete.

    Both get a JSON object (RFC 8259) with ``outcome``, ``text``, ``name``, ``folder``, ``host``, ``epoch``, ``step``,
    ``duration_s`` (of this attempt, in seconds), ``metrics`` (those of the last epoch), ``reason`` and ``error``: the
    command as its standard input, the webhook as the body of a POST. In the words of the command, and in the texts of
    ``body``, each ``{key}`` and each ``{metric}`` is replaced.

    Without ``command`` and ``url``, the address is that in the variable ``HOOKLINE_NOTIFY_URL`` of the environment.

    A failure is a warning: it changes neither the run nor its exit code. Nobody is notified of a run that fails before
    it starts, as by a fault of its config, or whose process is killed.
    """

    script = only_watches
    ranks: ClassVar = "zero"

    command: Annotated[
        FromUser[tuple[str, ...]],
        Meta(description="program to run, and its arguments, such as ['notify-send', '{text}']; no shell"),
    ] = ()
    url: Annotated[
        FromUser[Secret],
        Meta(description="address to post to, never written; empty: HOOKLINE_NOTIFY_URL of the environment"),
    ] = ""
    on: Annotated[
        tuple[Literal["completed", "stopped", "interrupted", "failed"], ...],
        Meta(description="the outcomes to notify of"),
    ] = ("completed", "stopped", "interrupted", "failed")
    body: Annotated[
        dict[str, Any], Meta(description="JSON object to post in place of all facts, such as {content = '{text}'}")
    ] = field(default_factory=dict)
    # Docker gives a container 10 s to end: https://docs.docker.com/reference/cli/docker/container/stop/
    timeout_s: Annotated[
        float, Meta(gt=0, description="seconds that the command, and the webhook, may take; below Docker's 10")
    ] = 5.0
    allow_http: Annotated[bool, Meta(description="post without encryption to other machines, too")] = False

    def __post_init__(self) -> None:
        # The environment is the user's own, and no other user of the machine can read it.
        self._url = self.url or ("" if self.command else os.environ.get(_VARIABLE, ""))
        faults = [fault_of_url(self._url, allow_http=self.allow_http)] if self._url else []
        if self.command and shutil.which(self.command[0]) is None:
            faults.append(f"'command': there is no program {self.command[0]!r}")
        if any(faults):
            raise ValueError("; ".join(filter(None, faults)))
        self._start = 0.0
        self._error: str | None = None

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Begin to measure the time."""
        self._start, self._error = time.perf_counter(), None
        if not (self.command or self._url):
            table = next(member.table for member in run.members if member.instance is self)
            options = f"{table}.command or {table}.url where it is started, or {_VARIABLE} in the environment"
            run.warn(f"nobody is notified of this run: set {options}")

    @hookimpl
    def on_run_error(self, error: BaseException) -> None:
        """Keep the text of the error."""
        self._error = encodable(error_text(error))[:_MAX_ERROR]

    # Last, so that the files of the run are complete.
    @hookimpl(trylast=True)
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Run the command, and call the webhook."""
        if outcome not in self.on:
            return
        redaction = Redaction.of(run.config)
        facts = redaction.messages(self._facts(run, outcome))
        before = run.interrupt_reason

        def is_unwanted() -> bool:
            return run.interrupt_reason != before

        if self.command:
            words = [_filled(word, facts) for word in self.command]
            self._warn(run, "command", deliver(words, msgspec.json.encode(facts), self.timeout_s, is_unwanted))
        if self._url:
            body = msgspec.json.encode(_filled(self.body, facts) or facts)
            self._warn(run, "webhook", post(self._url, body, self.timeout_s, is_unwanted))

    def _facts(self, run: RunView, outcome: Outcome) -> dict[str, Any]:
        folder = folder_of(run)
        seconds = time.perf_counter() - self._start
        metrics = dict(run.history[-1]) if run.history else {}
        name = folder.path.name if folder else "a run"
        reason = run.interrupt_reason if outcome == "interrupted" else run.stop_reason
        shown = [f"{key} {metrics[key]:.6g}" for key in by_relevance(run) if key in metrics][:_NUM_METRICS]
        details = [*([reason] if reason else []), *([self._error] if self._error else []), *shown]
        return {
            "outcome": outcome,
            "text": f"{name} {outcome} after {run.step} steps in {_time(seconds)}"
            + (f": {', '.join(details)}" if details else ""),
            "name": name,
            "folder": encodable(str(folder.path)) if folder else None,
            "host": platform.node(),
            "epoch": run.epoch,
            "step": run.step,
            "duration_s": round(seconds, 3),
            "metrics": metrics,
            "reason": reason,
            "error": self._error,
        }

    def _warn(self, run: RunView, receiver: str, why: str) -> None:
        if why:
            run.warn(f"the {receiver} of notify failed: {Redaction.of(run.config).text(encodable(why))}")


def _filled(value: Any, facts: Mapping[str, Any]) -> Any:
    """Return a value in whose texts each ``{key}`` of a fact or a metric is replaced."""
    if isinstance(value, Mapping):
        return {key: _filled(item, facts) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(item, facts) for item in value]
    known = {**facts["metrics"], **facts}
    return _PLACE.sub(lambda match: _text(known.get(match[1], match[0])), value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def _time(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.1f} s" if seconds < 100 else f"{minutes:.1f} min" if minutes < 100 else f"{hours:.1f} h"
