"""The fenced blocks of README.md, and what is to be done with each. Pure: text in, values out.

The language says what a block is, an HTML comment on the line before it says what the language cannot:

    ```console                 a terminal: ``$ `` begins a command, the lines after it are what it shows
    ```sh                      commands; what they show does not matter, their status does
    ```python                  a script, run in the reader's folder
    ```yaml, toml              read by whoever it is for; ``<!-- file: NAME -->`` puts it into the reader's folder,
                               ``<!-- healthcheck: NAME -->`` is the healthcheck of examples/NAME.yml
    ```text                    a picture or a form, for people alone
    <!-- stays: NAME -->       a console block whose one command goes on while the reader goes on
    <!-- not run: NAME -->     cannot be run here; the test has a list of these names, with the reason for each
    <!-- session: NAME -->     anywhere: from here on another reader, in a folder of his own
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

LANGUAGES = ("console", "sh", "python", "yaml", "toml", "text")
_COMMENT = re.compile(r"<!-- (session|stays|not run|file|healthcheck): (.+?) -->")
_FENCE = re.compile(r"( *)```(\S*)$")


class Snippet(NamedTuple):
    """One block. ``role``: stays, not run, file or healthcheck, with its ``name``; or both are "". ``line`` from 1."""

    language: str
    text: str
    session: str
    role: str
    name: str
    line: int


class Command(NamedTuple):
    """One command of a terminal, and the lines that it shows."""

    text: str
    shows: list[str]


def snippets(document: str) -> list[Snippet]:
    """Return every fenced block, in order.

    Raises:
        ValueError: a block has no end, or a language that says nothing about what to do with it.
    """
    found: list[Snippet] = []
    session, note = "", ("", "")
    lines = iter(enumerate(document.splitlines(), 1))
    for number, line in lines:
        if comment := _COMMENT.fullmatch(line.strip()):
            if comment[1] == "session":
                session = comment[2]
            else:
                note = (comment[1], comment[2])
        elif fence := _FENCE.fullmatch(line):
            if fence[2] not in LANGUAGES:
                raise ValueError(f"line {number}: what is to be done with a block of {fence[2] or 'no language'}?")
            text = _until_its_end(lines, indent=len(fence[1]), start=number)
            found.append(Snippet(fence[2], text, session, *note, number))
            note = ("", "")
        elif line.strip() and any(note):
            raise ValueError(f"line {number}: the comment before it belongs to a block, and this is none")
    return found


def _until_its_end(lines: Iterator[tuple[int, str]], *, indent: int, start: int) -> str:
    text = []
    for _, line in lines:
        if line.strip() == "```":
            return "\n".join(text) + "\n"
        text.append(line[indent:] if not line[:indent].strip() else line)
    raise ValueError(f"line {start}: this block has no end")


def commands(terminal: str) -> list[Command]:
    """Return the commands of a console block; one that ends with a backslash goes on in the next line."""
    found: list[Command] = []
    goes_on = False
    for line in terminal.splitlines():
        if goes_on:
            found[-1] = found[-1]._replace(text=f"{found[-1].text}\n{line}")
        elif line.startswith("$ "):
            found.append(Command(line[2:], []))
        elif not found:
            raise ValueError(f"no command before: {line}")
        else:
            found[-1].shows.append(line)
        goes_on = (goes_on or line.startswith("$ ")) and line.endswith("\\")
    return found


#: What differs from run to run, in the order in which it is replaced.
_VARIES = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r"(\d{4}-\d\d-\d\d )?\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\bl_[\w-]{10,14}(?![\w-])"), "ID"),
    (re.compile(r"(?<![\w-])[\w-]{40,}(?![\w-])"), "TOKEN"),
    (re.compile(r"\b\d+(\.\d+)*\b"), "N"),
    (re.compile(r"[ \t]+"), " "),
)


def same_shape(promised: list[str], shown: list[str]) -> bool:
    """Return whether what is shown has the promised shape.

    Times, ids, tokens and numbers may be others, and columns of another width. ``...`` in a line is any text, and on a
    line of its own any lines, or none.
    """
    pattern = ""
    for line in promised:
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r".*?".join(re.escape(part) for part in shape(line).split("...")) + r"\n"
    return re.fullmatch(pattern, "".join(f"{shape(line)}\n" for line in shown)) is not None


def shape(line: str) -> str:
    for varies, word in _VARIES:
        line = varies.sub(word, line)
    return line.strip()
