"""Coverage-guided fuzzing of every reader of untrusted input.

::

    python tests/reliability/fuzz.py TARGET --seconds 180     one of the targets
    python tests/reliability/fuzz.py all --seconds 180        each of them, for that time
    python tests/reliability/fuzz.py TARGET --again FILE      repeat a finding

It needs atheris (https://github.com/google/atheris, Linux and CPython 3.11 to 3.13), which no other test does. The
input that causes a finding is saved as a file in ``--findings``; the exit code is then not 0.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

_TESTS = Path(__file__).parents[1]
_MAX_BYTES = 4096
_MAX_MB = 3000
"""Maximum memory, of which torch takes a quarter."""
_MAX_BLOCK_MB = 256
"""Maximum memory of a single allocation, however small the input is."""


def main() -> int:
    """Fuzz the targets of the command line; return an exit code."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of untrusted input.")
    parser.add_argument("target", help="a target of fuzz_targets.py, or 'all'")
    parser.add_argument("--seconds", type=int, default=180, help="time for each target")
    parser.add_argument("--corpus", type=Path, help="folder of inputs that reached new code, reused in the next run")
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()), help="folder for findings")
    parser.add_argument("--again", type=Path, help="file of bytes to pass to the target once")
    words = parser.parse_args()
    sys.path.insert(0, str(_TESTS))
    sys.dont_write_bytecode = True
    if words.again:
        return _once(words.target, words.again)
    if words.target == "all":
        return _all(words)
    return _fuzz(words)


def _once(name: str, file: Path) -> int:
    from reliability.fuzz_targets import TARGETS

    with tempfile.TemporaryDirectory() as folder:
        TARGETS[name].fuzz(file.read_bytes(), Path(folder))
    print("nothing was found")
    return 0


def _all(words: argparse.Namespace) -> int:
    from reliability.fuzz_targets import TARGETS

    options = ["--seconds", str(words.seconds), "--findings", str(words.findings)]
    codes = {}
    for name in TARGETS:
        corpus = ["--corpus", str(words.corpus / name)] if words.corpus else []
        codes[name] = subprocess.run([sys.executable, __file__, name, *options, *corpus], check=False).returncode
    for name, code in codes.items():
        print(f"{name}: {'nothing was found' if code == 0 else f'FOUND something (exit code {code})'}")
    return int(any(codes.values()))


def _fuzz(words: argparse.Namespace) -> int:
    try:
        import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore] # only who fuzzes has it
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["hookline", "hookline_plugins"]):
        from reliability.fuzz_targets import TARGETS
    target = TARGETS[words.target]
    folder, corpus = Path(tempfile.mkdtemp()), words.corpus or Path(tempfile.mkdtemp())
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    dictionary = folder.with_suffix(".words")
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in (*target.words, "/")))

    def once(data: bytes) -> None:
        target.fuzz(data, folder)

    options = {
        "max_total_time": words.seconds,
        "max_len": _MAX_BYTES,
        "len_control": 5,  # long inputs early: these formats are longer than most that are fuzzed
        "timeout": 60,
        "rss_limit_mb": _MAX_MB,
        "malloc_limit_mb": _MAX_BLOCK_MB,
        "dict": dictionary,
        "artifact_prefix": f"{words.findings}/{words.target}-",
        "print_final_stats": 1,
        "verbosity": 1,
    }
    atheris.Setup([sys.argv[0], str(corpus), *(f"-{key}={value}" for key, value in options.items())], once)
    atheris.Fuzz()  # exits the program
    return 0


def _escaped(word: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "".join(f"\\x{b:02x}" for b in c.encode()) for c in word)


if __name__ == "__main__":
    sys.exit(main())
