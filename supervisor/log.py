"""The log on stderr: one line for each decision that took effect, as text or as JSON. Never a token or its digest.

Everything of this process speaks through it, libraries too. stdout has the ready line alone, for whoever starts us.
"""

from __future__ import annotations

import logging
from typing import Any, Literal, TextIO

import msgspec

from supervisor.api.audit import event, target_of
from supervisor.api.sentences import sentence
from supervisor.api.times import rfc3339
from supervisor.cli.output import clean
from supervisor.core.facts import AnyFact, ProcessMissed, ProcessReported, SignalFailed

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

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


def tell_decision(seq: int, fact: AnyFact) -> None:
    """Say a fact that is on disk."""
    warns = isinstance(fact, ProcessReported | ProcessMissed) and fact.policy != "observe"
    level = logging.WARNING if warns or isinstance(fact, SignalFailed) else logging.INFO
    if log.isEnabledFor(level):
        log.log(level, "%s", sentence(fact), extra={"seq": seq, "fact": fact})


class TextLine(logging.Formatter):
    """``2026-11-21T14:32:10.123Z warning ...``; a decision ends with its number, type, target and public id.

    What does not print is escaped: names in it are anybody's.
    """

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()} "
        line = f"{_when(record)} {level}{clean(record.getMessage())}{_tail(record)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _tail(record: logging.LogRecord) -> str:
    fact: AnyFact | None = getattr(record, "fact", None)
    if fact is None:
        return ""
    target, id_ = target_of(fact), getattr(fact, "id", None)
    tail = f" seq={record.__dict__['seq']} type={type(fact).__name__}"
    return f"{tail}{f' target={clean(target)}' if target else ''}{f' id={clean(id_)}' if id_ else ''}"


class JsonLine(logging.Formatter):
    """One JSON object on one line. A decision has all that the audit's event has (``GET /v1/events``)."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": clean(record.getMessage()),
        }
        fact: AnyFact | None = getattr(record, "fact", None)
        if fact is not None:
            told = event(record.__dict__["seq"], fact)
            said |= {"seq": told.seq, "type": told.type, "target": told.target, "container": told.container}
            said["fields"] = told.fields
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said).decode()


def _when(record: logging.LogRecord) -> str:
    return rfc3339(int(record.created * 1000))
