"""The pages and the data that they show, each an answer to one request."""

from __future__ import annotations

import codecs
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hookline import HooklineError
from hookline.engine import encodable
from hookline.runs import CheckpointRow, Curve, FollowedCurves, GrowingFile, checkpoint_rows, row_of
from hookline.sections import Section, Table, bounded
from hookline_plugins.commands.dashboard.index import Index
from hookline_plugins.drawing.curves import sections_of_curves
from hookline_plugins.drawing.kept import kept_sections
from hookline_plugins.drawing.of_run import facts_of_run, splits_of
from hookline_plugins.drawing.of_runs import comparison_of_runs

_HERE = Path(__file__).parent
_STATIC = (_HERE / "static", _HERE.parents[1] / "drawing" / "static")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".LICENSE": "text/plain"}
_MAX_COLUMNS = 30
_MAX_COMPARED = 50
_MAX_FOLLOWED = 2 * _MAX_COMPARED
"""Runs whose curves are kept; those of others are read again when somebody looks."""
_MAX_LOG = 2**18
"""Bytes of a log in one answer; a page that begins shows the last of them."""


def application(folder: Path) -> Starlette:
    """Return the application that shows the runs of a folder."""
    index = Index(folder)
    # A browser takes longer to open than ten thousand runs to be read.
    threading.Thread(target=index.prepare, daemon=True).start()
    pages = _Pages(index)
    routes = {
        "/api/runs": pages.runs,
        "/api/columns": pages.columns,
        "/api/compare": pages.compare,
        "/api/compare/curves": pages.curves_of_several,
        "/api/runs/{name}": pages.run,
        "/api/runs/{name}/curves": pages.curves,
        "/api/runs/{name}/details": pages.details,
        "/api/runs/{name}/checkpoints": pages.checkpoints,
        "/api/runs/{name}/log": pages.log,
    }
    return Starlette(
        routes=[*(Route(path, endpoint) for path, endpoint in routes.items()), *_static_routes()],
        exception_handlers={HooklineError: _failed, OSError: _failed, HTTPException: _refused},
    )


def _static_routes() -> Iterable[Route]:
    """Yield a route for each file; no other file can be asked for."""
    for path in (path for folder in _STATIC for path in sorted(folder.iterdir()) if path.suffix in _TYPES):
        is_first = path.name == "index.html"
        yield Route("/" if is_first else f"/static/{path.name}", _file(path))


def _file(path: Path) -> Callable[[Request], Response]:
    data, media_type = path.read_bytes(), _TYPES[path.suffix]
    return lambda _: Response(data, media_type=media_type)


def _failed(_: Request, error: Exception) -> Response:
    return _json({"error": encodable(str(error))}, 503)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code)


def _json(value: Any, status: int = 200) -> Response:
    # msgspec writes numbers that are not finite as null.
    return Response(msgspec.json.encode(value), status, media_type="application/json")


class _Followed:
    """The curves of one run, read by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.curves = FollowedCurves(path)
        self._lock = threading.Lock()

    def update(self) -> None:
        """Read what was added."""
        with self._lock:
            self.curves.update()

    def known(self) -> Sequence[Curve]:
        """Return the curves as of the last update."""
        with self._lock:
            return self.curves.curves()


class _Following:
    """The runs whose curves somebody looks at; the one that nobody has looked at for longest is dropped."""

    def __init__(self) -> None:
        self._followed: OrderedDict[Path, _Followed] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: Path) -> _Followed:
        """Return the curves of a run folder, which the caller brings up to date."""
        with self._lock:
            found = self._followed.pop(path, None) or _Followed(path)
            self._followed[path] = found
            if len(self._followed) > _MAX_FOLLOWED:
                self._followed.popitem(last=False)
            return found


class _Pages:
    """The answers with the data of runs, as JSON.

    Args:
        index: The list of runs.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._following = _Following()

    def runs(self, request: Request) -> Response:
        """Return the runs that have changed since ``since``, with the values of each ``column``."""
        columns = request.query_params.getlist("column")[:_MAX_COLUMNS]
        changes = self._index.changes(_number(request, "since"), columns)
        return _json({"folder": encodable(str(self._index.folder.resolve())), "changes": changes})

    def columns(self, _: Request) -> Response:
        """Return the settings and metrics that can be columns."""
        return _json(self._index.columns())

    def run(self, request: Request) -> Response:
        """Return the row of a run in the list."""
        row = self._index.row_of(request.path_params["name"])
        if row is None:
            raise _missing()
        return _json(row)

    def details(self, request: Request) -> Response:
        """Return the sections of a run without its curves; those that need its model if a report has kept them."""
        path = self._path(request.path_params["name"])
        record, artifacts = row_of(path).record, path / "artifacts"
        kept = kept_sections(path, record) if record and not artifacts.is_symlink() else None
        return _json({"sections": [*facts_of_run(path), *(kept or ())]})

    def checkpoints(self, request: Request) -> Response:
        """Return the checkpoints of a run."""
        return _json({"sections": [_checkpoints(checkpoint_rows(self._path(request.path_params["name"])))]})

    def curves(self, request: Request) -> Response:
        """Return the curves of a run, unless they are as in version ``since``."""
        name = request.path_params["name"]
        return self._curves({name: self._path(name)}, request)

    def compare(self, request: Request) -> Response:
        """Return what differs between several runs, and their results."""
        return _json({"sections": comparison_of_runs(list(self._compared(request).values()))})

    def curves_of_several(self, request: Request) -> Response:
        """Return the curves of several runs over each other, unless they are as in version ``since``."""
        return self._curves(self._compared(request), request)

    def _curves(self, paths: Mapping[str, Path], request: Request) -> Response:
        followed = {name: self._following.of(path) for name, path in paths.items()}
        for one in followed.values():
            one.update()
        version = sum(one.curves.version for one in followed.values())
        state = {"version": version, "is_complete": all(one.curves.is_complete for one in followed.values())}
        if version == _number(request, "since", -1):
            return _json(state)
        metrics = dict.fromkeys(name for one in followed.values() for name in one.curves.metrics)
        curves = {encodable(name): one.known() for name, one in followed.items()}
        sections = sections_of_curves(curves, list(metrics), splits_of(list(paths.values())))
        return _json({**state, "sections": sections})

    def _compared(self, request: Request) -> dict[str, Path]:
        names = dict.fromkeys(request.query_params.getlist("run")[:_MAX_COMPARED])
        return {name: self._path(name) for name in names}

    def log(self, request: Request) -> Response:
        """Return the part of the log after ``offset``; without one, the last part."""
        path = self._path(request.path_params["name"]) / "log.txt"
        file = GrowingFile(path, _number(request, "offset"))
        if "offset" not in request.query_params:
            file.skip_to_end(_MAX_LOG)
        first = file.offset
        data, is_new = file.read(_MAX_LOG)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data)
        # A character of several bytes that is not complete yet is read again.
        offset = file.offset - len(decoder.getstate()[0])
        return _json({"text": text, "offset": offset, "is_new": is_new, "is_cut": first > 0})

    def _path(self, name: str) -> Path:
        path = self._index.path_of(name)
        if path is None:
            raise _missing()
        return path


def _missing() -> HTTPException:
    return HTTPException(404, "there is no such run")


def _number(request: Request, name: str, default: int = 0) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else default


def _checkpoints(rows: Sequence[CheckpointRow]) -> Section:
    """Return the checkpoints of a run as a table, the newest last."""
    cells = []
    for row in rows:
        manifest = row.manifest
        known = (manifest.step, manifest.num_epochs) if manifest else (None, None)
        saved = f"{manifest.time:%Y-%m-%d %H:%M:%S} UTC" if manifest else row.problem or ""
        cells.append([row.path.name, *known, row.size, saved])
    columns = ["checkpoint", "step", "epochs", "bytes", "saved"]
    note = "" if rows else "There are none: none was saved yet, or they were removed."
    return bounded(Table(title="Checkpoints", topic="run", columns=columns, rows=cells, note=note))
