"""Export a trained model in a format that a plugin adds, an ``ExportFormat``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hookline.config.loading import load_choice
from hookline.config.packed import SUFFIX
from hookline.config.plugins.catalog import EXPORT, Catalog, Entry
from hookline.config.plugins.options import copied
from hookline.config.plugins.plugin import Plugin
from hookline.engine.errors import ConfigError, ContractError, HooklineError
from hookline.runs.record import read_record
from hookline.trained.target_file import check_target, folder_written_whole, written_whole

if TYPE_CHECKING:
    from hookline.trained.comparing import Comparison
    from hookline.trained.exportable import Description
    from hookline.trained.model import Trained


class ExportFormat(Protocol):
    """A format of exported models: the class that an entry point in the group ``hookline.export`` names.

    Its fields are its options, ``export.NAME=VALUE`` on the command line. A method ``publish(path)`` is optional: it is
    called with the complete file or folder, and returns a sentence for people, such as the place of an upload.
    """

    @property
    def suffix(self) -> str:
        """Suffix of its files, such as ``.onnx``; empty if it writes a folder."""

    def export(self, trained: Trained, target: Path) -> Comparison | None:
        """Write a model.

        Args:
            trained: The model.
            target: A new file with the suffix, which does not exist; for a folder, an empty one. It is renamed when it
                is complete, and removed when an error is raised.

        Returns:
            The comparison of what was written with the model, from ``Subject.compared``; None if there is none.
        """


@dataclass(frozen=True)
class Format:
    """An export format with its options.

    Attributes:
        plugin: Its plugin.
        made: The object that exports.
    """

    plugin: Plugin
    made: ExportFormat


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        path: The file or folder.
        comparison: The comparison of its outputs with the model's; None if there was none.
        published: A sentence of the format about what it did with the complete file; empty if it did nothing.
    """

    path: Path
    comparison: Comparison | None
    published: str = ""


def load_format(
    name: str,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    catalog: Catalog | None = None,
    vet: Callable[[Entry], None] | None = None,
) -> Format:
    """Return an export format by its name. Only its plugin is imported.

    Args:
        name: Its name, perhaps with its distribution: ``acme-formats/tar``.
        overrides: Its options by dotted key, ``{"export.bare": True}``, or words ``export.bare=true``.
        catalog: The plugins that may be used; default: the installed ones.
        vet: As for ``load_config``.

    Raises:
        ConfigError: When there is no such format, or an option is wrong; carries every fault.
        PluginError: When its plugin may not be used, is ambiguous, or is not an export format.
    """
    choice = load_choice(EXPORT, name, overrides, catalog=catalog, vet=vet)
    plugin = choice.plugin
    try:
        made: Any = plugin.called(copied(choice.options)) if inspect.isclass(plugin.target) else plugin.target
    except ValueError as error:
        raise ConfigError(f"{plugin}: {error}") from error
    if not (isinstance(getattr(made, "suffix", None), str) and callable(getattr(made, "export", None))):
        hint = "its class needs a text `suffix` and a method `export(trained, target)`"
        raise plugin.error(f"{plugin} is not an export format", hint=hint)
    return Format(plugin, made)


def export_model(
    trained: Trained, to: str | Format, target: str | os.PathLike[str] | None = None, *, force: bool = False
) -> Exported:
    """Export a trained model to a file or a folder, which is written whole or not at all.

    The model is exported with the wrappers that belong to it, in eval mode.

    Args:
        trained: The model.
        to: The format, or the name of one without options.
        target: The file or folder; default: the name of the run with the suffix of the format, in the working
            directory.
        force: Whether an existing one may be replaced.

    Raises:
        ConfigError: When there is no such format, or the target exists or cannot be written.
        ContractError: When the model cannot be exported, or its outputs differ too much.
        PluginError: When a required library is not installed.
    """
    form = load_format(to) if isinstance(to, str) else to
    suffix = form.made.suffix
    target = Path(target or f"{trained.path.name.removesuffix(SUFFIX)}{suffix}")
    check_target(target, force=force, is_folder=not suffix)

    import torch  # after the checks

    from hookline.engine.rng import preserved_rng

    written = written_whole if suffix else folder_written_whole
    with written(target, force=force) as new:
        try:
            with preserved_rng(), torch.no_grad():
                comparison = form.made.export(trained, new)
        except HooklineError:
            raise
        except Exception as error:
            error.add_note(f"raised in {form.plugin}")
            raise
        if not (new.is_file() if suffix else any(new.iterdir())):
            raise ContractError(f"{form.plugin} wrote nothing")
    publish = getattr(form.made, "publish", None)
    return Exported(target, comparison, str(publish(target) or "") if publish else "")


def model_metadata(trained: Trained, description: Description | None = None) -> dict[str, str]:
    """Return texts about a trained model for the metadata of a file: run, weights, options of the model, data.

    Args:
        trained: The model.
        description: The description of its raw inputs; None if it takes inputs as in training.
    """
    from hookline.runs.disk.data_file import to_kept
    from hookline.runs.disk.encoding import to_json
    from hookline.trained.exportable import ENTRY

    settings = read_record(trained.path).identity.get("settings", {})
    model = {key: value for key, value in settings.items() if key.startswith("model.")}
    return {
        "format": "pt",
        "hookline": version("hookline"),
        "run": trained.path.name,
        "weights": trained.weights,
        "step": str(trained.step),
        "model": to_json(model).decode(),
        "data": to_kept(trained.data).decode(),
        "inputs": "raw" if description else "prepared",
        **({ENTRY: description.text()} if description else {}),
    }
