"""Coverage-guided fuzzing of everything that reads what others wrote.

::

    python tests/reliability/fuzz.py TARGET --seconds 180     one of the targets
    python tests/reliability/fuzz.py all --seconds 180        each of them, that long
    python tests/reliability/fuzz.py TARGET --again FILE      once more what was found

It needs atheris (https://github.com/google/atheris, Linux and CPython 3.11 to 3.13), which no other test does. What is
found is kept in ``--findings`` as a file of the bytes that led to it; the program then ends with another code than 0.
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
"""Most memory, of which torch takes a quarter."""
_MAX_BLOCK_MB = 256
"""Most memory that is asked for at once, however small the bytes are."""


def main() -> int:
    """Fuzz what the command line says; return an exit code."""
    parser = argparse.ArgumentParser(description="Fuzz one of the readers of what others wrote.")
    parser.add_argument("target", help="one of those in fuzz_targets.py, or 'all'")
    parser.add_argument("--seconds", type=int, default=180, help="how long each target is fuzzed")
    parser.add_argument("--corpus", type=Path, help="a folder in which what led to new code is kept from run to run")
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()), help="where findings are kept")
    parser.add_argument("--again", type=Path, help="a file of bytes to be given to the target once")
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
        "len_control": 5,  # long ones soon: what is read is longer than what most fuzzing is of
        "timeout": 60,
        "rss_limit_mb": _MAX_MB,
        "malloc_limit_mb": _MAX_BLOCK_MB,
        "dict": dictionary,
        "artifact_prefix": f"{words.findings}/{words.target}-",
        "print_final_stats": 1,
        "verbosity": 1,
    }
    atheris.Setup([sys.argv[0], str(corpus), *(f"-{key}={value}" for key, value in options.items())], once)
    atheris.Fuzz()  # ends the program
    return 0


def _escaped(word: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "".join(f"\\x{b:02x}" for b in c.encode()) for c in word)


if __name__ == "__main__":
    sys.exit(main())
