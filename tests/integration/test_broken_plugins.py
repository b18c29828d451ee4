"""Plugins that are broken, each in one way, and the expected errors.

The distributions are actually built and installed; metadata is damaged afterwards.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from support import FIXTURES, Environment, make_environment, run


@dataclass(frozen=True)
class Row:
    """A command and its expected result.

    Attributes:
        id: The defect.
        words: The words after ``hookline``, as in a shell.
        code: The exit code.
        stderr: Text expected on standard error; if empty and the exit code is 0, standard error must be empty.
        stdout: Text expected on standard output.
        leaves: The files that it creates, with their text; no others.
        never: Text that must not be on standard error.
        before: Text that the plugin writes to standard error before the error.
    """

    id: str
    words: str
    code: int
    stderr: tuple[str, ...] = ()
    stdout: tuple[str, ...] = ()
    leaves: Mapping[str, str] = field(default_factory=dict)
    never: tuple[str, ...] = ()
    before: str = ""


FAULTS = "acme-faults 0.4.0"
FORM = "write result = yield, then return the result or a replacement"

IMPORTS = (
    Row(
        "a library is missing",
        "check model=cannot-import",
        3,
        (f"model 'cannot-import' ({FAULTS}) cannot be imported", "No module named 'libacme'", "cannot_import.py:3"),
    ),
    Row("a syntax error", "check model=bad-syntax", 3, (f"({FAULTS})", "SyntaxError: expected ':'", "bad_syntax.py:3")),
    Row("the import exits with 0", "check model=exits", 3, (f"({FAULTS})", "SystemExit: 0", "exits.py:5")),
    Row("the import raises no Exception", "check model=cancels", 3, (f"({FAULTS})", "CancelledError: not now")),
    Row(
        "the import reads from a terminal",
        "check model=reads-input",
        3,
        (f"({FAULTS})", "reads_input.py:3"),
        before="name of the model? ",
    ),
    Row(
        "the module is missing",
        "check model=no-module",
        3,
        (f"model 'no-module' ({FAULTS})", "No module named 'acme_faults.no_such_module'", "uninstall acme-faults"),
        never=("importlib",),
    ),
    Row(
        "the attribute is missing",
        "check model=no-attribute",
        3,
        (f"model 'no-attribute' ({FAULTS})", "has no attribute 'NoSuchModel'", "uninstall acme-faults"),
        never=("importlib",),
    ),
    Row("two at once", "check model=exits loss=no-such optimizer.rl=1", 2, ("SystemExit: 0", "did you mean 'lr'?")),
    Row("show imports it, too", "show model bad-syntax", 3, (f"({FAULTS})", "bad_syntax.py:3")),
)

# `plugins --order` creates the plugins of a run, but builds nothing.
HOOKS = (
    Row(
        "a number for a model",
        "plugins --order model=number",
        3,
        (f"model 'number' ({FAULTS})", "an int", "not a plugin"),
    ),
    Row("a number for a callback", "plugins --order callbacks.number.use=number", 3, (f"({FAULTS})", "@hookimpl")),
    Row("a callback without a hook", "plugins --order callbacks.a=no-plugin", 3, ("has no hooks", "@hookimpl")),
    Row(
        "a model without its hook",
        "plugins --order model=no-hook",
        3,
        ("has no hook 'build_model'", "build_model(self, run, data)"),
    ),
    Row(
        "a misspelt hook",
        "plugins --order callbacks.a=misspelt",
        3,
        (f"callback 'misspelt' ({FAULTS})", "'on_epoch_ends'", "did you mean 'on_epoch_end'?"),
    ),
    Row(
        "a hook without a mark", "plugins --order callbacks.a=unmarked", 3, ("'on_epoch_end'", "mark it with @hookimpl")
    ),
    Row(
        "an argument that the hook does not give",
        "plugins --order callbacks.a=strange-argument",
        3,
        ("'on_epoch_end' takes 'scores'", "on_epoch_end(self, run, metrics)"),
    ),
    Row(
        "an argument with a default",
        "plugins --order callbacks.a=optional-argument",
        3,
        ("has a default for 'loss'", "remove the default"),
    ),
    Row("an async hook", "plugins --order callbacks.a=async", 3, ("'on_epoch_end' is async", "write it as def")),
    Row("a hook with a yield", "plugins --order callbacks.a=generator", 3, ("has a yield", "@hookimpl(wrapper=True)")),
    Row(
        "a static method", "plugins --order callbacks.a=static", 3, ("not a plain method", "write it as def, with self")
    ),
    Row(
        "a wrapper of an event", "plugins --order callbacks.a=event-wrapper", 3, ("cannot be a wrapper", "build_model")
    ),
    Row("pluggy's older wrapper", "plugins --order callbacks.a=old-wrapper", 3, ("'build_model'", "wrapper=True")),
    Row("a wrapper that is no generator", "plugins --order callbacks.a=no-yield-at-all", 3, ("has no yield", FORM)),
    Row(
        "two faults",
        "plugins --order callbacks.a=many-faults",
        3,
        ("'on_run_begin'", "did you mean 'on_run_end'?", "takes 'result'", "on_run_end(self, run, outcome)"),
    ),
    Row(
        "two broken plugins",
        "plugins --order callbacks.a=misspelt callbacks.b=unmarked",
        3,
        ("2 plugins cannot be used", "callback 'misspelt'", "callback 'unmarked'"),
    ),
    Row(
        "an argument that is renamed in no release",
        "plugins --order callbacks.a=old-argument",
        3,
        ("takes 'scores', which the hook does not provide",),
    ),
)

BUILDS = (
    Row("data that are a list", "check data=list-data", 4, ("returned a list", "a DataSource", "hookline.DataSource(")),
    Row("no model", "check model=none-model", 4, (f"model 'none-model' ({FAULTS}) returned nothing", "return?")),
    Row("a model that is a function", "check model=function-model", 4, ("returned a function", "Module")),
    Row(
        "a loss that is a number",
        "check loss=number-loss",
        4,
        (f"build_loss of loss 'number-loss' ({FAULTS}) returned a float", "must return"),
    ),
    Row("a loss for each example", "check loss=vector-loss", 4, (f"({FAULTS}) returned [10, 1] float32", "a scalar")),
    Row(
        "an optimizer that is a table", "check optimizer=table-optimizer", 4, ("returned a dict", "return an Optimizer")
    ),
    Row("a metric called loss", "check callbacks.a=metric-twice", 4, (f"callback 'metric-twice' ({FAULTS})", "'loss'")),
    Row(
        "a build hook that raises",
        "check model=raising-model",
        1,
        ("RuntimeError: no weights", f"in hook 'build_model' of model 'raising-model' ({FAULTS})", "--traceback"),
    ),
    Row("a build hook that exits with 0", "check model=exiting-model", 1, (f"({FAULTS})", "SystemExit(0)")),
    Row(
        "a wrapper that does not yield", "check callbacks.a=no-yield", 3, (f"'no-yield' ({FAULTS}) did not yield", FORM)
    ),
    Row("a wrapper that yields twice", "check callbacks.a=two-yields", 3, (f"({FAULTS}) yielded twice", FORM)),
    Row("a wrapper that forgets the model", "check callbacks.a=no-return", 3, (f"({FAULTS}) returned nothing", FORM)),
)

OPTIONS = (
    Row(
        "a value that the plugin refuses",
        "plugins --order optimizer=refuses-value optimizer.lr=2.0",
        2,
        (f"optimizer 'refuses-value' ({FAULTS}): lr = 2.0 is more than 1", "command line"),
    ),
    Row(
        "a constructor that raises",
        "plugins --order optimizer=cannot-be-made",
        3,
        (f"({FAULTS}) cannot be created: KeyError: 'ACME_TOKEN'", "options.py:"),
    ),
    Row(
        "a constructor that exits with 0", "plugins --order optimizer=exits-when-made", 3, (f"({FAULTS})", "SystemExit")
    ),
    Row(
        "an option is missing", "check callbacks.needy.use=needy", 2, ("'callbacks.needy.patience'", "an integer >= 1")
    ),
    Row(
        "an unknown option",
        "check callbacks.needy.patience=1 callbacks.needy.wrod=x",
        2,
        ("'callbacks.needy.wrod'", "did you mean 'word'?"),
    ),
    Row(
        "an option of another type", "check callbacks.needy.patience=soon", 2, ("expected an integer >= 1, got 'soon'",)
    ),
    Row("an option out of range", "check callbacks.needy.patience=0", 2, ("expected an integer >= 1, got 0",)),
    Row("an option named use", "check callbacks.a=option-use", 3, (f"({FAULTS}) has an option 'use'", "rename it")),
    Row("an option named on_error", "check callbacks.a=option-on-error", 3, ("has an option 'on_error'", "rename it")),
    Row("an option of an unknown type", "check callbacks.a=unknown-type", 3, (f"({FAULTS})", "name 'Size'")),
    Row(
        "warn for a plugin that builds",
        "check callbacks.compiled.on_error=warn",
        2,
        ("'callbacks.compiled.on_error'", "'build_model'", "remove the key"),
    ),
    Row("another word than warn", "check callbacks.raises.on_error=ignore", 2, ("'ignore'", "one of 'fail', 'warn'")),
    Row("warn for a model", "check model.on_error=warn", 2, ("unknown key 'model.on_error'",)),
)

EVENTS = (
    Row(
        "an event raises",
        "train --quiet callbacks.raises.event=on_step_end callbacks.closes.use=closes",
        1,
        (
            "KeyError: 'reward'",
            f"in hook 'on_step_end' of callback 'raises' ({FAULTS})",
            "in epoch 1 of 3, after 3 steps",
        ),
        leaves={"closed.txt": "failed after 3 steps"},
    ),
    Row(
        "an event exits with 0",
        "train --quiet callbacks.raises.error=SystemExit callbacks.closes.use=closes",
        1,
        (f"callback 'raises' ({FAULTS}) raised SystemExit(0) in hook 'on_step_end'", "run.request_stop(reason)"),
        leaves={"closed.txt": "failed after 3 steps"},
    ),
    Row(
        "an event raises no Exception",
        "train --quiet callbacks.raises.error=CancelledError callbacks.closes.use=closes",
        1,
        ("CancelledError", f"callback 'raises' ({FAULTS})", "in epoch 1 of 3, after 3 steps"),
        leaves={"closed.txt": "failed after 3 steps"},
    ),
    Row(
        "on_run_end raises and the next one is called",
        "train --quiet train.epochs=1 callbacks.raises.event=on_run_end callbacks.closes.use=closes",
        1,
        ("KeyError: 'reward'", f"in hook 'on_run_end' of callback 'raises' ({FAULTS})"),
        leaves={"closed.txt": "completed after 100 steps"},
    ),
    Row(
        "an event of an observer raises",
        "train --quiet train.epochs=1 callbacks.raises.on_error=warn callbacks.closes.use=closes",
        0,
        (
            "warning: callbacks.raises failed and is disabled for the rest of the run: KeyError: 'reward'",
            f"'raises' ({FAULTS})",
        ),
        leaves={"closed.txt": "completed after 100 steps"},
    ),
    Row(
        "an event of an observer exits with 0",
        "train train.epochs=1 callbacks.raises.on_error=warn callbacks.raises.error=SystemExit",
        0,
        stdout=("warning: callbacks.raises failed", "raised SystemExit(0) in hook 'on_step_end'\n", "100 steps"),
    ),
    Row(
        "the start of an observer raises",
        "train --quiet train.epochs=1 callbacks.raises.on_error=warn callbacks.raises.event=on_run_start",
        0,
        ("warning: callbacks.raises failed", "in hook 'on_run_start'"),
    ),
)

NAMES = (
    Row(
        "a name of two distributions",
        "check model=linear",
        3,
        ("acme-namesake 6.6.6 and hookline 0.1.0", "'acme-namesake/linear' or 'hookline/linear'"),
    ),
    Row("a default's name, named", "check loss=mse", 3, ("'acme-namesake/mse' or 'hookline/mse'",)),
    Row("a default's name, in full", "show loss hookline/mse", 0, stdout=('use = "hookline/mse"',)),
    Row("a default's name, unnamed", "explain optimizer", 0, stdout=('"sgd"', "from default")),
    Row("a name in a distribution that has none", "check model=acme-nowhere/plain", 2, ("'acme-nowhere/plain'",)),
    Row("a dotted name", "check model=os.system", 2, ("no model plugin named 'os.system' is installed", "known:")),
    Row("an object reference", "check model=a:b", 2, ("no model plugin named 'a:b' is installed", "known:")),
    Row("a path", "check model=../x", 2, ("no model plugin named '../x' is installed", "known:")),
    Row(
        "an expression",
        """check "model=__import__('os')" """,
        2,
        ("no model plugin named", "__import__('os')", "known:"),
    ),
    Row("an installed module", "check callbacks.acme_future={}", 2, ("no callback plugin named 'acme_future'",)),
    Row("an installed object", "check model=acme_future:Model", 2, ("no model plugin named 'acme_future:Model'",)),
    Row("an installed attribute", "check loss=acme_future.Model", 2, ("no loss plugin named 'acme_future.Model'",)),
    Row("show takes no object, either", "show model acme_future:Model", 2, ("no model plugin named",)),
)

RULES = (
    Row(
        "a plugin for a later Hookline",
        "check model=future",
        3,
        (
            "model 'future' (acme-future 3.0.0) requires hookline>=99",
            "Hookline 0.1.0 is installed",
            "install a release",
        ),
    ),
    Row(
        "denied by the command",
        "check model=plain --deny acme-plain",
        3,
        ("--deny forbids acme-plain", "if you trust acme-plain"),
    ),
    Row(
        "not allowed by the command",
        "check model=plain --allow acme-faults",
        3,
        ("--allow forbids acme-plain", "if you trust acme-plain"),
    ),
    Row(
        "denied by the config",
        """check model=plain "plugins.deny=['Acme_Plain']" """,
        3,
        ("plugins.deny forbids acme-plain", "if you trust acme-plain"),
    ),
    Row(
        "not allowed by the config",
        """check model=plain "plugins.allow=['acme-faults']" """,
        3,
        ("plugins.allow forbids acme-plain", "if you trust acme-plain"),
    ),
    Row("a denied plugin is not imported", "check model=future --deny acme-future", 3, ("--deny forbids acme-future",)),
    Row("the rival denied", "explain model --deny acme-namesake model=linear", 0, stdout=('model.use = "linear"',)),
    Row(
        "a requirement that is not met",
        """check "plugins.require=['acme-plain>=2', 'acme-nowhere']" """,
        3,
        ("acme-plain 1.0.0 is installed", "acme-nowhere is not installed", "pip install 'acme-plain>=2'"),
    ),
    Row(
        "a malformed requirement",
        """check "plugins.require=['acme-plain>>2']" """,
        2,
        ("'acme-plain>>2' is not a requirement like",),
    ),
    Row("a requirement that is no list", "check plugins.require=acme-plain", 2, ("expected a list of text",)),
    Row("a misspelt rule", "check plugins.denny=[]", 2, ("'plugins.denny'", "did you mean 'deny'?")),
    Row(
        "requires in no form",
        "check model=unrequirable",
        3,
        ("cannot read the requirements of model 'unrequirable'", "'hookline >>> 3'"),
    ),
)

METADATA = (
    Row(
        "all of it listed",
        "plugins model",
        0,
        ("acme_garbled", "acme_nameless", "acme_unlabelled"),
        ("linear", "acme-plain", "bumps"),
    ),
    Row(
        "no object reference",
        "check model=malformed",
        3,
        ("model 'malformed' (acme-malformed 1.0.0)", "'no module: at all'"),
        never=("catalog.py",),
    ),
    Row("METADATA that is no text", "check model=garbled", 2, ("no model plugin named 'garbled'", "acme_garbled")),
    Row("METADATA without a name", "check model=nameless", 2, ("no model plugin named 'nameless'", "acme_nameless")),
    Row("METADATA is gone", "check model=unlabelled", 2, ("no model plugin named 'unlabelled'", "acme_unlabelled")),
    Row("METADATA without a version", "show model unversioned", 0, stdout=("model 'unversioned' (acme-unversioned)",)),
    Row(
        "a version required where there is none",
        """check "plugins.require=['acme-unversioned>=1']" """,
        3,
        ("plugins.require has 'acme-unversioned>=1'", "acme-unversioned is installed without a version"),
    ),
    Row(
        "RECORD is gone",
        "lock model=unrecorded",
        3,
        ("model 'unrecorded' (acme-unrecorded 1.0.0) cannot be locked", "RECORD", "install acme-unrecorded again"),
    ),
)

LOCKS = (
    Row(
        "a file was changed",
        "train model=changed --locked changed.lock",
        3,
        (
            "model 'changed' (acme-changed 1.0.0)",
            "acme_changed/__init__.py of acme-changed was changed",
            "hookline lock",
        ),
    ),
    Row(
        "a version was changed",
        "train model=upgraded --locked upgraded.lock",
        3,
        ("acme-upgraded 1.0.0 is locked, but 2.0.0 is installed",),
    ),
    Row(
        "a lock of a name that nobody offers",
        "lock model=no-such",
        2,
        ("no model plugin named 'no-such' is installed",),
    ),
    Row("a lock of a name of two", "lock model=linear", 3, ("'acme-namesake/linear' or 'hookline/linear'",)),
    Row("a lock of what is denied", "lock model=plain --deny acme-plain", 3, ("--deny forbids acme-plain",)),
    Row("not in the lock", "train model=plain --locked changed.lock", 3, ("acme-plain is not in the lock",)),
    Row("no such lock", "train --locked missing.lock", 2, ("'missing.lock'", "No such file", "hookline lock")),
    Row("no lock", "train --locked text.lock", 2, ("'text.lock' is not a valid lock", "hookline lock")),
    Row("an empty lock", "train --locked empty.lock", 2, ("'empty.lock' is not a valid lock", "hookline lock")),
    Row("a lock of a later form", "train --locked later.lock", 2, ("'later.lock'", "format", "hookline lock")),
    Row("a folder for a lock", "train --locked folder", 2, ("'folder'", "Is a directory", "hookline lock")),
)

PLUGIN_FILES = (
    Row("no such file", "check --plugin missing.py", 2, ("'missing.py'", "such as ./net.py")),
    Row("no Python file", "check --plugin net.txt", 2, ("'net.txt' is not a Python file", ".py")),
    Row("a folder", "check --plugin folder", 2, ("no plugin file 'folder'",)),
    Row(
        "a library is missing for the file", "check --plugin cannot_import.py", 3, ("'libacme'", "cannot_import.py:3)")
    ),
    Row("a file that is no Python", "check --plugin bad_syntax.py", 3, ("SyntaxError", "bad_syntax.py:1)")),
    Row("a file that exits with 0", "check --plugin exits.py", 3, ("exits.py cannot be imported", "SystemExit: 0")),
    Row(
        "a file without a plugin", "check --plugin nothing.py", 3, ("nothing.py offers no plugin", "@hookline.plugin(")
    ),
    Row(
        "an unknown kind",
        "check --plugin unknown_kind.py",
        3,
        ("'modle' is not a kind of plugin; did you mean 'model'?", "unknown_kind.py:3)"),
    ),
    Row("a name with a space", "check --plugin spaced.py", 3, ("'my net' is not a valid plugin name", "spaced.py:3)")),
    Row("two of one name", "check --plugin twins.py", 3, ("twins.py offers model 'net' twice", "rename one")),
    Row(
        "its neighbour imported",
        "check --plugin neighbourly.py",
        3,
        ("cannot import neighbour.py from its own folder", "neighbourly.py:1)"),
    ),
    Row(
        "two broken files",
        "check --plugin nothing.py --plugin twins.py",
        3,
        ("nothing.py offers no plugin", "twins.py offers model 'net' twice"),
    ),
    Row(
        "a name that is installed, too",
        "check --plugin mlp.py model=mlp",
        3,
        ("mlp.py", "hookline 0.1.0", "'mlp.py/mlp'"),
    ),
    Row(
        "a hook misspelt in a file",
        "plugins --order --plugin local.py callbacks.a=local",
        3,
        ("'on_run_ends'", "local.py"),
    ),
)

GOOD = (
    Row(
        "a good plugin among all these",
        "train train.epochs=1 callbacks.worst-error.use=worst-error",
        0,
        stdout=("train/worst_error", "worst error of completed run, 100 steps"),
    ),
)

ROWS = (*IMPORTS, *HOOKS, *BUILDS, *OPTIONS, *EVENTS, *NAMES, *RULES, *METADATA, *LOCKS, *PLUGIN_FILES, *GOOD)

NET = '@hookline.plugin("model", "net")\ndef {}(data):\n    """Never called."""\n\n\n'
FILES = {
    "cannot_import.py": "import hookline\n\nimport libacme\n",
    "bad_syntax.py": "def net(:\n    pass\n",
    "exits.py": "import sys\n\nsys.exit(0)\n",
    "nothing.py": "import hookline\n",
    "unknown_kind.py": "import hookline\n\n" + NET.format("net").replace("model", "modle"),
    "spaced.py": "import hookline\n\n" + NET.format("net").replace('"net"', '"my net"'),
    "twins.py": "import hookline\n\n" + NET.format("one") + NET.format("two"),
    "net.txt": "import hookline\n\n" + NET.format("net"),
    "mlp.py": "import hookline\n\n" + NET.format("net").replace('"net"', '"mlp"'),
    "neighbourly.py": "import neighbour\n",
    "neighbour.py": "",
    "local.py": (
        "import hookline\n\n"
        '@hookline.plugin("callback", "local")\n'
        "class Local:\n"
        "    @hookline.hookimpl\n"
        "    def on_run_ends(self):\n"
        '        """Never called."""\n'
    ),
    "text.lock": "no lock\n",
    "empty.lock": "{}\n",
    "later.lock": json.dumps({"hookline": "9", "hook_api": "9", "plugins": {}, "distributions": {}, "format": 2}),
    "folder/inside.txt": "",
}


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "garbled": lambda info: (info / "METADATA").write_bytes(b"\xff\xfeName: acme-garbled\n"),
    "nameless": lambda info: rewrite(info / "METADATA", "Name: acme-nameless\n", ""),
    "unlabelled": lambda info: (info / "METADATA").unlink(),
    "unversioned": lambda info: rewrite(info / "METADATA", "Version: 1.0.0\n", ""),
    "unrequirable": lambda info: rewrite(info / "METADATA", "Requires-Dist: hookline", "Requires-Dist: hookline >>> 3"),
    "unrecorded": lambda info: (info / "RECORD").unlink(),
    "malformed": lambda info: rewrite(info / "entry_points.txt", "acme_malformed:malformed", "no module: at all"),
    "unparsable": lambda info: rewrite(info / "entry_points.txt", "unparsable = ", "unparsable "),
    "changed": lambda info: rewrite(info.parent / "acme_changed" / "__init__.py", "A linear layer", "Another layer"),
    "upgraded": lambda info: rewrite(info / "METADATA", "Version: 1.0.0", "Version: 2.0.0"),
}
"""Damage to a copy of the distribution acme-plain after its installation, given its ``.dist-info`` folder."""


@dataclass(frozen=True)
class Workplace:
    """The broken distributions and files.

    Attributes:
        environment: An environment with all broken distributions except one.
        folder: The files that commands name.
        apart: A folder with the metadata of that distribution.
    """

    environment: Environment
    folder: Path
    apart: Path


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    environment = make_environment(tmp_path_factory.mktemp("broken"))
    sources, folder = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("files")
    names = ("plugins", "rival", "faults", "future", "namesake", "plain")
    environment.install(*(FIXTURES / f"acme_{name}" for name in names), *(copied(name, sources) for name in DAMAGES))
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for name in ("changed", "upgraded"):
        done = environment.hookline("lock", f"model={name}", "-o", f"{name}.lock", cwd=folder)
        assert done.returncode == 0, done.stderr
    for name, damage in DAMAGES.items():
        damage(metadata_of(name, environment))
    apart = tmp_path_factory.mktemp("apart")
    info = metadata_of("unparsable", environment)
    info.rename(apart / info.name)
    return Workplace(replace(environment, is_warm=True), folder, apart)


def metadata_of(name: str, environment: Environment) -> Path:
    return next(environment.python.parent.parent.glob(f"lib/*/site-packages/acme_{name}-*.dist-info"))


def copied(name: str, folder: Path) -> Path:
    """Return a copy of the source of acme-plain under another name."""
    source = folder / f"acme_{name}"
    shutil.copytree(FIXTURES / "acme_plain", source)
    (source / "src" / "acme_plain").rename(source / "src" / f"acme_{name}")
    for path in (source / "pyproject.toml", source / "src" / f"acme_{name}" / "__init__.py"):
        path.write_text(path.read_text().replace("plain", name))
    return source


@pytest.fixture
def hookline_there(workplace: Workplace, tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Return the command ``hookline`` of that environment, run in a copy of the folder."""
    shutil.copytree(workplace.folder, tmp_path, dirs_exist_ok=True)
    return lambda words: workplace.environment.hookline(*shlex.split(words), cwd=tmp_path)


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"__pycache__"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_defect_is_reported_with_its_exit_code_and_without_a_traceback(
    row: Row, hookline_there: Callable[[str], subprocess.CompletedProcess[str]], workplace: Workplace, tmp_path: Path
) -> None:
    done = hookline_there(row.words)
    assert done.returncode == row.code, done.stderr
    assert "Traceback" not in done.stderr
    if row.code:
        assert done.stderr.startswith(f"{row.before}error: ")
    elif not row.stderr:
        assert done.stderr == ""
    for words in row.stderr:
        assert words in done.stderr
    for words in row.never:
        assert words not in done.stderr
    for words in row.stdout:
        assert words in done.stdout
    # A plugin that must not be imported creates a file when it is; a run that began has a folder.
    assert files_in(tmp_path) - files_in(workplace.folder) - {"runs"} == row.leaves.keys()
    for name, text in row.leaves.items():
        assert (tmp_path / name).read_text() == text


def test_every_broken_plugin_has_a_row() -> None:
    groups = tomllib.loads((FIXTURES / "acme_faults" / "pyproject.toml").read_text())["project"]["entry-points"]
    values = {word.partition("=")[2] for row in ROWS for word in shlex.split(row.words)}
    values |= {word for row in ROWS for word in row.words.replace("=", " ").replace(".", " ").split()}
    for names in groups.values():
        assert names.keys() <= values


def test_no_two_rows_are_of_one_name_or_one_command() -> None:
    assert len({row.id for row in ROWS}) == len({row.words for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("module", ["acme_future", "acme_namesake"])
def test_a_module_that_must_not_be_imported_would_leave_a_file(
    module: str, workplace: Workplace, tmp_path: Path
) -> None:
    run([str(workplace.environment.python), "-c", f"import {module}"], cwd=tmp_path)
    assert files_in(tmp_path) == {f"{module.replace('_', '-')}-was-imported"}


def epochs(done: subprocess.CompletedProcess[str]) -> Iterator[Mapping[str, float]]:
    assert (done.returncode, done.stderr) == (0, "")
    for line in done.stdout.splitlines():
        event = json.loads(line)
        if event["event"] == "epoch_end":
            yield event["metrics"]


def test_foreign_plugins_with_the_names_of_defaults_change_nothing(
    hookline_there: Callable[[str], subprocess.CompletedProcess[str]],
    hookline: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    here, there = list(epochs(hookline("train", "--json"))), list(epochs(hookline_there("train --json")))
    assert len(here) == 3
    assert there == here
    assert "acme-namesake-was-imported" not in files_in(tmp_path)


def test_options_of_a_default_can_be_set_even_if_its_name_is_taken(
    hookline_there: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    done = hookline_there("explain optimizer.lr optimizer.lr=0.5 --quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0.5\n", "")


def test_a_list_for_programs_is_complete_despite_damaged_distributions(
    hookline_there: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    done = hookline_there("plugins --json")
    states = {f"{e['kind']} {e['name']}": e["state"] for e in json.loads(done.stdout)}
    assert states["model hookline/linear"] == ["active", "conflict"]
    assert states["model acme-namesake/linear"] == ["conflict"]
    assert states["model no-module"] == []
    assert not {"model garbled", "model nameless", "model unlabelled"} & states.keys()


def test_output_of_an_import_does_not_corrupt_output_for_programs(
    hookline_there: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    done = hookline_there("check --json model=reads-input")
    assert done.returncode == 3
    assert json.loads(done.stdout)["event"] == "error"


@pytest.mark.parametrize(
    ("words", "code"), [("plugins model", 0), ("check model=unparsable", 2), ("lock model=unparsable", 2), ("check", 1)]
)
def test_unreadable_entry_points_are_reported_by_each_affected_command(
    words: str, code: int, workplace: Workplace, tmp_path: Path
) -> None:
    # Not in the environment of the others: torch reads all entry points, so it could not be imported there.
    program = str(workplace.environment.python.parent / "hookline")
    done = run([program, *shlex.split(words)], cwd=tmp_path, PYTHONPATH=str(workplace.apart))
    assert done.returncode == code, done.stderr
    assert "acme_unparsable-1.0.0.dist-info" in done.stderr
    assert "Traceback" not in done.stderr


RENAMING = """
import sys
from hookline.config.plugins import hook_checks
hook_checks.RENAMED["on_epoch_end"] = {{"scores": hook_checks.Renamed(new="metrics", since="0.1", removed_in="0.3")}}
sys.argv = ["hookline", *{words!r}]
from hookline.cli import main
main()
"""


def test_an_argument_by_its_old_name_is_passed_with_a_warning_that_names_its_removal(
    workplace: Workplace, tmp_path: Path
) -> None:
    words = ["train", "train.epochs=1", "callbacks.a=old-argument"]
    done = run([str(workplace.environment.python), "-c", RENAMING.format(words=words)], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for text in [
        f"warning: callback 'old-argument' ({FAULTS}) takes 'scores'",
        "renamed to 'metrics' in 0.1",
        "from 0.3",
    ]:
        assert text in done.stdout
    head, values = done.stdout.partition("\nscores\n")[2].splitlines()[:2]
    assert "train/running_loss" in head, "the plugin was given the metrics, and reported them"
    assert float(values.split()[0]) > 0
