"""Fuzz the parsers with atheris (``pip install atheris``).

``python tests/fuzz/fuzz_codecs.py [TARGET] [libFuzzer options, such as -max_total_time=3600]``

Without a target, the first byte of each input selects one. Failing inputs are saved to
``cases/<target>/``, where `tests/unit/test_fuzz.py` runs them: fix the parser, and keep the file.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

atheris.enabled_hooks.add("RegEx")
with atheris.instrument_imports(include=["webpy_socketio", "tests.fuzz"]):
    from tests.fuzz import targets


def main(arguments: list[str]) -> None:
    names = [name for name in arguments if name in targets.TARGETS] or list(targets.TARGETS)
    options = [option for option in arguments if option.startswith("-")]
    if len(names) + len(options) not in (len(arguments), len(arguments) + len(targets.TARGETS)):
        raise SystemExit(f"targets are {', '.join(targets.TARGETS)}; options start with a dash")

    with tempfile.TemporaryDirectory() as name:
        words = Path(name) / "words"
        words.write_text("".join(map(_escape, targets.WORDS)), encoding="ascii")
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        for number, target in enumerate(names):
            for case in targets.cases(target):
                choice = bytes([number]) if len(names) > 1 else b""
                (corpus / f"{target}-{case.name}").write_bytes(choice + case.read_bytes())

        def run(data: bytes) -> None:
            if len(names) == 1:
                target, rest = names[0], data
            elif data:
                target, rest = names[data[0] % len(names)], data[1:]
            else:
                return
            try:
                targets.TARGETS[target](rest)
            except BaseException:
                path = targets.CASES / target / f"find-{hashlib.sha1(rest).hexdigest()[:12]}"
                path.write_bytes(rest)
                sys.stderr.write(f"saved as {path}\n")
                raise

        atheris.Setup(
            [sys.argv[0], f"-dict={words}", f"-artifact_prefix={name}/", *options, str(corpus)], run
        )
        atheris.Fuzz()


def _escape(word: bytes) -> str:
    """Return a word as a line of a libFuzzer dictionary."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'


if __name__ == "__main__":
    main(sys.argv[1:])
