"""The command ``hookline`` in processes that need not import torch: forks of a process that has imported it.

The import of torch is most of the time of a short command, and the tests run some hundred of them. Each is a process
of its own here, too, with its own folder, environment, streams and exit code. Tests of the start, of imports and of
signals start the program itself.

``python warm.py serve SOCKET`` is the process to be forked, ``python warm.py ask SOCKET PROGRAM WORD...`` a command;
the program ``-c`` is Python itself, with its code as the first word.
"""

from __future__ import annotations

import array
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn


def ask(address: str, words: Sequence[str], cwd: str, env: Mapping[str, str], streams: Sequence[int]) -> int:
    """Run the program ``words[0]`` in a fork with the given standard streams, and return its exit code."""
    request = json.dumps({"words": words, "cwd": cwd, "env": {**env}}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))
        connection.sendmsg([len(request).to_bytes(8, "big")], [rights])
        connection.sendall(request)
        code = int(connection.recv(64))
        return code if code >= 0 else 128 - code  # killed by a signal, as a shell says it


def serve(address: str) -> tuple[dict[str, Any], list[int]]:
    """Fork for each request, and return it in the new process, with the descriptors of its standard streams."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            child = os.fork()
            if child == 0:
                break
            connection.close()
            os.waitpid(child, 0)
    # The child that the server waits for leaves one that waits for the program.
    if os.fork():
        os._exit(0)
    head, [(_, _, passed)], *_ = connection.recvmsg(8, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    request = b""
    while len(request) < int.from_bytes(head, "big"):
        request += connection.recv(1 << 16)
    program = os.fork()
    if program:
        _, status = os.waitpid(program, 0)
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    connection.close()
    return json.loads(request), array.array("i", passed).tolist()


def start(request: Mapping[str, Any], streams: Sequence[int]) -> NoReturn:
    """Run the program of a request as a new interpreter would."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv[:] = request["words"]
    sys.path[0] = sys.argv[0].rpartition("/")[0]
    code = sys.argv.pop(1) if sys.argv[0] == "-c" else "from hookline.cli import main\nmain()"
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, closefd=False, errors="backslashreplace")
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    status: Any = 0
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit as ending:
        status = ending.code or 0
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)  # taking all modules apart would take longer than the command


if __name__ == "__main__":
    task, address, *rest = sys.argv[1:]
    if task == "ask":
        sys.exit(ask(address, rest, os.getcwd(), os.environ, (0, 1, 2)))  # noqa: PTH109 - pathlib would import more
    import gc

    import torch  # noqa: F401 - for the forks

    import hookline.cli.fitting  # noqa: F401

    gc.freeze()
    start(*serve(address))
