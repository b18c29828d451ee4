"""Taking up a run where it was interrupted: its folder, its config, its newest good checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hookline.catalog import Catalog
from hookline.config import OFF, SHOWN, load_config
from hookline.identity import take_up
from hookline.run import Run
from hookline.run_search import find_run
from hookline.rundir import RunFolder
from hookline.watch import Watch


def resume(
    run: str | os.PathLike[str],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    parent: Path = Path("runs"),
    catalog: Catalog | None = None,
    allow_changed_data: bool = False,
    watches: Sequence[Watch] = (),
    shown: Mapping[str, bool] = MappingProxyType({}),
) -> Run:
    """Return a run that goes on from its newest good checkpoint, in its folder; its steps are the caller's to take.

    What is different from before, and what was damaged, stands in ``run.warnings``. Close ``run.folder`` when the run
    is not taken to its end.

    Args:
        run: Its folder, its number or its name.
        overrides: Values by dotted key that win over those of its config.
        parent: Where runs are looked for by number or name.
        catalog: The plugins that may be named; default: those installed.
        allow_changed_data: Go on also with other data than those that the run began with.
        watches: Who looks on at every call of a hook.
        shown: Callbacks that only show the run, and whether it has them: ``{"callbacks.progress": False}``. They come
            on top of its config and beneath ``overrides``, and are no change of the run.

    Raises:
        RunBusyError: When another program works in the folder.
        CheckpointError: When no checkpoint is good, or it is that of another model.
        HooklineError: As ``Run`` does.
    """
    folder = RunFolder.open(find_run(os.fspath(run), parent))
    try:
        added: dict[str, Any] = {
            label.removeprefix("callbacks."): {} for label, is_wanted in shown.items() if is_wanted
        }
        hidden = {label: OFF for label, is_wanted in shown.items() if not is_wanted}
        config = load_config(
            folder.config_path,
            overrides,
            defaults={"callbacks": added},
            switches={SHOWN: hidden},
            catalog=catalog,
        )
        resumed = Run(config, watches=watches)
        resumed.folder = folder
        damaged: list[str] = []
        checkpoint = folder.newest_checkpoint(lambda error: damaged.append(error.message))
        changes = take_up(resumed, checkpoint, allow_changed_data=allow_changed_data, aside=shown) if checkpoint else []
        for text in damaged:
            resumed.warn(f"{text}; an older checkpoint is taken")
        if changes:
            resumed.warn(f"from here on it is another run, for something is not as it was: {'; '.join(changes)}")
    except BaseException:
        folder.close()
        raise
    return resumed
