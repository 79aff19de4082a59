"""Extract and execute the code blocks of documentation pages."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

_BLOCK = re.compile(
    r"^\.\. code-block:: (?P<language>\S+)\n"
    r"(?:   :caption: (?P<caption>\S+)\n)?"
    r"\n(?P<text>(?: {3,}.*\n|\n)+)",
    re.MULTILINE,
)
_HEADING = re.compile(r"^(?P<title>\S.*)\n(?P<line>[=-])(?P=line)+\n", re.MULTILINE)


class Block(NamedTuple):
    """A code block: its language, its caption (a file name, or None), and its dedented text."""

    language: str
    caption: str | None
    text: str
    line: int


class Page:
    """A page of the documentation."""

    def __init__(self, text: str, name: str = "page.rst") -> None:
        self.text = text
        self.name = name

    @classmethod
    def read(cls, path: Path) -> Page:
        return cls(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))

    def blocks(self, language: str) -> list[str]:
        """Return the code blocks of one language, in order."""
        return [block.text for block in self.all_blocks() if block.language == language]

    def all_blocks(self) -> list[Block]:
        """Return every code block, in order."""
        return [
            Block(
                found["language"],
                found["caption"],
                textwrap.dedent(found["text"]).rstrip("\n") + "\n",
                self.text.count("\n", 0, found.start("text")) + 2,
            )
            for found in _BLOCK.finditer(self.text)
        ]

    def uncaptioned(self, language: str) -> list[Block]:
        """Return the blocks of one language without a caption."""
        return [
            block
            for block in self.all_blocks()
            if block.language == language and block.caption is None
        ]

    def files(self) -> dict[str, str]:
        """Return the files shown on the page by caption; the last one if a file is shown twice."""
        return {block.caption: block.text for block in self.all_blocks() if block.caption}

    def write_files(self, folder: Path) -> None:
        """Write the page's files to a folder."""
        for name, text in self.files().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")

    def sections(self) -> dict[str, Page]:
        """Return the sections of the page by heading, in order."""
        found = list(_HEADING.finditer(self.text))
        ends = [heading.start() for heading in found[1:]] + [len(self.text)]
        return {
            heading["title"]: Page(self.text[heading.end() : end], self.name)
            for heading, end in zip(found, ends, strict=True)
        }

    def run(self, names: dict[str, Any], *exclude: str) -> dict[str, Any]:
        """Execute the Python blocks without caption in one namespace, and return it.

        Line numbers in tracebacks are those of the page. Blocks with a text of `exclude` are
        skipped.
        """
        for block in self.uncaptioned("python"):
            if not any(text in block.text for text in exclude):
                source = "\n" * (block.line - 1) + block.text
                exec(compile(source, self.name, "exec"), names)
        return names


def all_pages() -> list[Path]:
    """Return every page of the documentation, the README first."""
    return [ROOT / "README.rst", *sorted(DOCS.rglob("*.rst"))]
