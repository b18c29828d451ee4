"""The pages and the data that they show, each an answer to one request."""

from __future__ import annotations

import codecs
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
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
from hookline.runs import CheckpointRow, Curve, FollowedCurves, GrowingFile, checkpoint_rows, differences, read_record
from hookline.sections import Curves, Section, Series, Table
from hookline_plugins.dashboard.index import Index, cell

_HERE = Path(__file__).parent
_STATIC = (_HERE / "static", _HERE.parent / "drawing" / "static")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".LICENSE": "text/plain"}
_MAX_COLUMNS = 30
_MAX_COMPARED = 50
_MAX_FOLLOWED = 32
"""Runs whose curves are kept; those of others are read again when somebody looks."""
_MAX_LOG = 2**18
"""Bytes of a log in one answer; a page that begins shows the last of them."""


def application(folder: Path) -> Starlette:
    """Return the application that shows the runs of a folder."""
    pages = _Pages(Index(folder))
    routes = {
        "/api/runs": pages.runs,
        "/api/columns": pages.columns,
        "/api/runs/{name}": pages.run,
        "/api/runs/{name}/curves": pages.curves,
        "/api/runs/{name}/log": pages.log,
        "/api/compare": pages.compare,
    }
    return Starlette(
        routes=[*(Route(path, endpoint) for path, endpoint in routes.items()), *_static_routes()],
        exception_handlers={HooklineError: _failed, HTTPException: _refused},
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
    """The curves of one run; a lock for its readers."""

    def __init__(self, path: Path) -> None:
        self.curves = FollowedCurves(path)
        self.lock = threading.Lock()


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
        """Return the details of a run: its sections, without the curves."""
        path = self._path(request.path_params["name"])
        return _json({"sections": [checkpoints(checkpoint_rows(path))]})

    def curves(self, request: Request) -> Response:
        """Return the curves of a run, unless they are as in version ``since``."""
        followed = self._following.of(self._path(request.path_params["name"]))
        with followed.lock:
            followed.curves.update()
            state = {"version": followed.curves.version, "is_complete": followed.curves.is_complete}
            if state["version"] == _number(request, "since"):
                return _json(state)
            return _json({**state, "sections": curve_sections(followed.curves.curves())})

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

    def compare(self, request: Request) -> Response:
        """Return the sections that compare each ``run``."""
        paths = [self._path(name) for name in request.query_params.getlist("run")[:_MAX_COMPARED]]
        return _json({"sections": [difference(paths[0], paths[1])] if len(paths) == 2 else []})

    def _path(self, name: str) -> Path:
        path = self._index.path_of(name)
        if path is None:
            raise HTTPException(404, "there is no such run")
        return path


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else 0


def checkpoints(rows: Sequence[CheckpointRow]) -> Section:
    """Return the checkpoints of a run as a table, the newest last."""
    cells = []
    for row in rows:
        manifest = row.manifest
        known = (manifest.step, manifest.num_epochs) if manifest else (None, None)
        saved = f"{manifest.time:%Y-%m-%d %H:%M:%S} UTC" if manifest else encodable(row.problem or "")
        cells.append([encodable(row.path.name), *known, row.size, saved])
    return Table(
        title="Checkpoints", topic="run", columns=["checkpoint", "step", "epochs", "bytes", "saved"], rows=cells
    )


def difference(first: Path, second: Path) -> Section:
    """Return the differences between two runs as a table.

    Raises:
        ConfigError: When a record cannot be read.
    """
    changes = differences(read_record(first), read_record(second))
    rows = [[one.part, encodable(one.key), cell(one.before), cell(one.after)] for one in changes]
    columns = ["part", "of", encodable(first.name), encodable(second.name)]
    return Table(title="Differences", topic="run", columns=columns, rows=rows)


def curve_sections(curves: Sequence[Curve]) -> list[Section]:
    """Return curves as sections."""
    return [
        Curves(
            title=encodable(c.metric),
            topic="curves",
            series=[Series(name=encodable(c.metric), steps=[p[0] for p in c.points], values=[p[1] for p in c.points])],
        )
        for c in curves[:200]
    ]
