"""The log: a line for each decision, in both formats, from everybody in the process, and no secret in any."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator

import msgspec
import pytest

from supervisor.api.sentences import sentence
from supervisor.api.tokens import digest
from supervisor.core.facts import LeaseGranted, ProcessReported, TargetReady
from supervisor.core.model import Terms
from supervisor.log import Format, JsonLine, Level, set_up_log, tell_decisions
from tests.journal.facts import ONE_OF_EACH

READY = TargetReady(1, 1_790_000_000_000, "l_1", "whisper", 700)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that is logged; what pytest and other tests rest on is put back."""
    root, ours = logging.getLogger(), logging.getLogger("supervisor")
    kept = (root.handlers[:], root.level, ours.level)
    monkeypatch.setattr(logging, "logThreads", logging.logThreads)
    monkeypatch.setattr(logging, "logProcesses", logging.logProcesses)
    monkeypatch.setattr(logging, "logMultiprocessing", logging.logMultiprocessing)
    yield io.StringIO()
    logging.captureWarnings(False)
    root.handlers[:], root.level, ours.level = kept
    for name in ("uvicorn.error", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def set_up(form: Format, level: Level, stream: io.StringIO) -> None:
    logging.getLogger().handlers[:] = []  # pytest's own, which it puts there when a test begins
    set_up_log(form, level, stream)


def test_a_decision_is_one_line_of_text_with_its_number_type_target_and_id(stream):
    set_up("text", "info", stream)
    tell_decisions([(19, READY)])

    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z whisper is ready after 0\.7 s \(lease l_1\) "
        r"seq=19 type=TargetReady target=whisper id=l_1\n",
        stream.getvalue(),
    )


def test_a_decision_is_one_json_object_with_the_fields_of_its_event(stream):
    set_up("json", "info", stream)
    tell_decisions([(19, READY)])

    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert said.pop("time").endswith("Z")
    assert said == {
        "level": "info",
        "logger": "supervisor",
        "message": sentence(READY),
        "seq": 19,
        "type": "TargetReady",
        "target": "whisper",
        "container": None,
        "fields": {"id": "l_1", "took_ms": 700},
    }


def test_decisions_that_are_told_together_are_written_at_once(stream):
    writes: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    set_up("text", "info", Stream())
    tell_decisions([(19, READY), (20, READY)])

    (text,) = writes
    assert [re.findall("seq=.*", line) for line in text.splitlines()] == [
        ["seq=19 type=TargetReady target=whisper id=l_1"],
        ["seq=20 type=TargetReady target=whisper id=l_1"],
    ]


@pytest.mark.parametrize("form", ["text", "json"])
def test_every_fact_is_one_line_without_the_digest_of_a_token(stream, form):
    set_up(form, "debug", stream)
    secret, scope, body = digest("a-token"), digest("scope"), digest("body")
    facts = [
        msgspec.structs.replace(fact, token_hash=secret) if hasattr(fact, "token_hash") else fact
        for fact in ONE_OF_EACH
    ]
    terms = Terms(target="a", owner="ann", priority=0, ttl_ms=1, scope=scope, body=body)
    facts.append(LeaseGranted(1, 1, "l_2", 2, secret, True, terms, "a", (), None))
    tell_decisions(list(enumerate(facts, 1)))

    lines = stream.getvalue().splitlines()
    assert len(lines) == len(facts)
    assert not [text for text in (secret, scope, body) if text in stream.getvalue()]


def test_what_uvicorn_libraries_and_warnings_say_is_json_too(stream):
    set_up("json", "info", stream)
    error = ValueError("of two\nlines")
    logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=error)
    warnings.warn("something is old", stacklevel=1)
    logging.getLogger("asyncio").error("Task was destroyed")

    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [one["logger"] for one in said] == ["uvicorn.error", "py.warnings", "asyncio"]
    assert "ValueError: of two\nlines" in said[0]["exception"]


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_a_level_leaves_out_what_is_less(stream, level, told):
    set_up("json", level, stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("supervisor.pump"), name)("said")

    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == told


def test_no_library_says_the_address_of_a_request_at_any_level(stream):
    set_up("text", "debug", stream)
    for name in ("httpx", "httpcore.connection", "uvicorn.access", "urllib3.connectionpool"):
        logging.getLogger(name).info("POST https://example.com/secret")
        logging.getLogger(name).debug("headers: secret")

    assert stream.getvalue() == ""


def test_a_process_that_is_to_be_ended_is_a_warning(stream):
    set_up("text", "warning", stream)
    reported = next(fact for fact in ONE_OF_EACH if isinstance(fact, ProcessReported))
    both = [msgspec.structs.replace(reported, policy=policy) for policy in ("observe", "warn")]
    tell_decisions(list(enumerate(both, 1)))

    (line,) = stream.getvalue().splitlines()
    assert "Z warning pid " in line
    assert "seq=2" in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_does_not_print_is_escaped(stream, form):
    set_up(form, "info", stream)
    logging.getLogger("supervisor").info("named \x1b[31m\u202e\n%s", "two")

    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()


def test_a_line_of_json_is_made_of_a_record_alone():
    record = logging.LogRecord("supervisor", logging.INFO, "", 0, "in sync", (), None)

    assert json.loads(JsonLine().format(record))["message"] == "in sync"
