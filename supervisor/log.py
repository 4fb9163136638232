"""The log on stderr: one line for each decision that took effect, as text or as JSON. Never a token or its digest.

Everything of this process speaks through it, libraries too. stdout has the ready line alone, for whoever starts us.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal, TextIO

import msgspec

from supervisor.api.audit import event, target_of
from supervisor.api.sentences import sentence
from supervisor.api.times import rfc3339
from supervisor.cli.output import clean
from supervisor.core.facts import AnyFact, ProcessMissed, ProcessReported, SignalFailed

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
Numbered = tuple[int, AnyFact]
"""A fact, behind its number in the journal."""

log = logging.getLogger("supervisor")
#: Nothing of theirs is a decision of ours; paths of requests hold tokens, and addresses of hooks are secrets.
CHATTY = ("uvicorn.access", "uvicorn.error", "urllib3", "docker", "httpx", "httpcore")


def set_up_log(form: Format, level: Level, stream: TextIO) -> None:
    """Send everything that is logged to ``stream``. ``level`` is for our own lines; libraries say ``info`` at most."""
    ours = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLine() if form == "json" else TextLine())
    logging.basicConfig(level=max(logging.INFO, ours), handlers=[handler])
    log.setLevel(ours)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, ours))
    logging.captureWarnings(capture=True)
    # Looked up for each line, and shown in none of ours. Source: Python's logging HOWTO, "Optimization".
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None


def tell_decisions(facts: Sequence[Numbered]) -> None:
    """Say facts that are on disk, a line each. They are one record: a record and a write cost more than a line."""
    for level, of_it in groupby(facts, key=_level):
        if log.isEnabledFor(level):
            log.log(level, "decisions", extra={"facts": list(of_it)})


def _level(numbered: Numbered) -> int:
    fact = numbered[1]
    warns = isinstance(fact, ProcessReported | ProcessMissed) and fact.policy != "observe"
    return logging.WARNING if warns or isinstance(fact, SignalFailed) else logging.INFO


class Lines(logging.Formatter):
    """A line for each decision of a record, or for the record itself. What does not print is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        facts: list[Numbered] | None = getattr(record, "facts", None)
        if facts is None:
            return self.line(record)
        begin = self.beginning(record)
        return "\n".join([self.decision(begin, seq, fact) for seq, fact in facts])

    def line(self, record: logging.LogRecord) -> str:
        raise NotImplementedError

    def beginning(self, record: logging.LogRecord) -> Any:
        """Return what the lines of all decisions of a record have in common."""
        raise NotImplementedError

    def decision(self, begin: Any, seq: int, fact: AnyFact) -> str:
        raise NotImplementedError


class TextLine(Lines):
    """``2026-11-21T14:32:10.123Z warning ...``; a decision ends with its number, type, target and public id."""

    def line(self, record: logging.LogRecord) -> str:
        line = f"{self.beginning(record)}{clean(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

    def beginning(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()} "
        return f"{_when(record)} {level}"

    def decision(self, begin: str, seq: int, fact: AnyFact) -> str:
        target, id_ = target_of(fact), getattr(fact, "id", None)
        tail = f"{f' target={target}' if target else ''}{f' id={id_}' if id_ else ''}"
        return clean(f"{begin}{sentence(fact)} seq={seq} type={type(fact).__name__}{tail}")


class JsonLine(Lines):
    """One JSON object on one line. A decision has all that the audit's event has (``GET /v1/events``)."""

    def line(self, record: logging.LogRecord) -> str:
        said = self.beginning(record) | {"message": clean(record.getMessage())}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said).decode()

    def beginning(self, record: logging.LogRecord) -> dict[str, Any]:
        return {"time": _when(record), "level": record.levelname.lower(), "logger": record.name}

    def decision(self, begin: dict[str, Any], seq: int, fact: AnyFact) -> str:
        told = event(seq, fact)
        said = begin | {"message": clean(sentence(fact)), "seq": seq, "type": told.type, "target": told.target}
        return msgspec.json.encode(said | {"container": told.container, "fields": told.fields}).decode()


def _when(record: logging.LogRecord) -> str:
    return rfc3339(int(record.created * 1000))
