"""What is sent for a fact: ours as JSON, or what ntfy and Slack document. Pure.

Source: docs.ntfy.sh/publish (the body is the message; Title, Priority and Tags are headers, ASCII);
Slack, "Sending messages using incoming webhooks" ({"text": ...}; ``&``, ``<`` and ``>`` escaped as entities), which
Mattermost, Rocket.Chat and Discord (``/slack``) take as well.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec
from msgspec import Struct

from supervisor.api.audit import event
from supervisor.core.facts import AnyFact
from supervisor.hooks.choice import GROUPS, Format

#: ntfy's own words: 4 is "high", 3 the default.
HIGH = "high"


class Message(Struct, frozen=True):
    """One fact as it leaves. ``headers`` without the signature, which every attempt makes anew."""

    seq: int
    fact: str
    body: bytes
    headers: tuple[tuple[str, str], ...]


def message(form: Format, host: str, seq: int, fact: AnyFact) -> Message:
    told = event(seq, fact)
    match form:
        case "json":
            body = msgspec.json.encode({"host": host, **msgspec.structs.asdict(told)})
            kind: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
        case "slack":
            escaped = told.sentence.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            body = msgspec.json.encode({"text": f"*{_plain(host)}*: {escaped}"})
            kind = (("Content-Type", "application/json"),)
        case "ntfy":
            alert = told.type in GROUPS["alerts"]
            body = told.sentence.encode()
            kind = (
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Title", f"{_plain(host)}: {told.type}"),
                *((("Priority", HIGH), ("Tags", "warning")) if alert else ()),
            )
    # A receiver that has seen this number from this host has seen this fact.
    return Message(
        seq, told.type, body, (*kind, ("X-GPU-Supervisor-Seq", str(seq)), ("X-GPU-Supervisor-Fact", told.type))
    )


def _plain(host: str) -> str:
    """A header is ASCII."""
    return "".join(c if c.isascii() and (c.isalnum() or c in ".-_") else "_" for c in host)


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return ``sha256=`` and the HMAC-SHA256 over timestamp, a full stop, and the body, in hex."""
    return "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
