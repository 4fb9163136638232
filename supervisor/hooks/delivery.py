"""Delivery of facts to hooks: a task and a bounded queue for each, so that a slow receiver costs nobody anything.

At least once while this process runs: what is in doubt is sent again, with the same number. Bounded everywhere: a full
queue drops the oldest, a fact is given up after ``attempts``, an attempt after the hook's timeout. A redirect is not
followed, and a receiver that says "never" (4xx) is believed. Facts leave in their order, each when the one before it
was delivered or given up. No line of the log has an address.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import httpx
from msgspec import Struct
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from supervisor import __version__
from supervisor.api.audit import target_of
from supervisor.core.errors import SupervisorError
from supervisor.core.facts import AnyFact
from supervisor.core.values import BadValue
from supervisor.hooks.bodies import Message, message, signature
from supervisor.hooks.choice import TIMEOUT_MAX_MS, Hook, check_url
from supervisor.metrics import table
from supervisor.metrics.counts import Counts

log = logging.getLogger(__name__)

#: Answers that say "not now"; every other 4xx says "never".
AGAIN = frozenset({408, 425, 429})
FILE_MAX_BYTES = 4_096
#: Each attempt has its hook's own timeout; this bounds what a library might wait for beyond it.
TIMEOUT_MAX_S = TIMEOUT_MAX_MS / 1000


class Limits(Struct, frozen=True):
    """``queue``: facts that wait for a hook, two at least. ``attempts`` for each fact; between two of them
    ``first_s``, doubled each time, up to ``most_s``, and up to ``jitter_s`` more.
    """

    queue: int = 1_000
    attempts: int = 10
    first_s: float = 1.0
    most_s: float = 60.0
    jitter_s: float = 1.0


class HookUnusable(SupervisorError):
    """A file that a hook names cannot be used. The supervisor does not start without what it was told to do."""

    code = "hook_unusable"


class Undelivered(Exception):
    """An attempt failed, and another one may not. ``after_s``: the receiver asked to be left alone for so long."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class Rejected(Exception):
    """The receiver said something that no further attempt can change."""


class Address(Struct, frozen=True):
    """Where a hook sends and what it proves itself with: read from files once, at the start. Never shown."""

    url: str
    secret: bytes | None
    token: str | None


def read_address(hook: Hook) -> Address:
    """Read the files of a hook.

    Raises:
        HookUnusable: one cannot be read, is empty, or holds no address.
    """
    url = hook.url or _read(hook, "url_file", hook.url_file) or ""
    try:
        check_url(f"hook {hook.name}", url)
        httpx.URL(url)
    except BadValue as error:
        raise HookUnusable(str(error), error.hint) from None
    except httpx.InvalidURL:
        raise HookUnusable(f"hook {hook.name}: its url is not an address that can be sent to") from None
    secret = _read(hook, "secret_file", hook.secret_file)
    return Address(url, secret.encode() if secret else None, _read(hook, "token_file", hook.token_file))


def _read(hook: Hook, key: str, path: Path | None) -> str | None:
    if path is None:
        return None
    place = f"hook {hook.name}: {key} {path}"
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise HookUnusable(f"{place} is no file", "name a file with one line of text")
    try:
        with path.open(encoding="utf-8") as opened:
            text = opened.read(FILE_MAX_BYTES + 1).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is no text"
        raise HookUnusable(f"{place} cannot be read: {reason}", "see [[hooks]] in the settings") from error
    if not text or len(text) > FILE_MAX_BYTES or not (text.isascii() and text.isprintable()):
        raise HookUnusable(f"{place} does not hold one line of text", "one line of ASCII, at most 4096 characters")
    return text


class Courier:
    """One hook: its queue and the task that empties it. All in the event loop."""

    def __init__(
        self, hook: Hook, address: Address, client: httpx.AsyncClient, counts: Counts, limits: Limits, host: str
    ) -> None:
        self.hook = hook
        self._address, self._client, self._counts, self._limits, self._host = address, client, counts, limits, host
        self._queue: deque[tuple[int, AnyFact]] = deque()
        self._some = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._dropping = False
        self._task = asyncio.create_task(self._run(), name=f"hook {hook.name}")

    @property
    def waiting(self) -> int:
        """How many facts are not delivered yet, the one under way included."""
        return len(self._queue)

    def put(self, seq: int, fact: AnyFact) -> None:
        """Queue a fact if this hook wants it. Returns at once, whatever the receiver does."""
        if not self.hook.wants(type(fact).__name__, target_of(fact)):
            return
        if len(self._queue) >= self._limits.queue:
            # The second: the first is on its way, and may have arrived.
            del self._queue[1]
            self._counts.add(table.HOOK_DELIVERIES, self.hook.name, "dropped")
            if not self._dropping:
                self._dropping = True
                log.warning(
                    "hook %s: %s facts wait for its receiver, and the oldest are dropped from now on",
                    self.hook.name,
                    self._limits.queue,
                )
        self._queue.append((seq, fact))
        self._idle.clear()
        self._some.set()

    async def drained(self) -> None:
        """Return when nothing waits any more."""
        await self._idle.wait()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._queue:
            seqs = f"{self._queue[0][0]} to {self._queue[-1][0]}"
            log.warning("hook %s: %s facts were not delivered (seq %s)", self.hook.name, len(self._queue), seqs)

    # ---- the task

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            while self._queue:
                first = self._queue[0]
                await self._deliver(*first)
                # While it was under way others may have been dropped, never the first.
                assert self._queue[0] is first
                self._queue.popleft()
            self._dropping = False
            self._some.clear()
            self._idle.set()

    async def _deliver(self, seq: int, fact: AnyFact) -> None:
        """Send one fact until it is delivered or given up."""
        told = message(self.hook.format, self._host, seq, fact)
        limits = self._limits
        backoff = wait_exponential(multiplier=limits.first_s, max=limits.most_s) + wait_random(0, limits.jitter_s)

        def pause_s(attempt: RetryCallState) -> float:
            error = attempt.outcome.exception() if attempt.outcome is not None else None
            asked_s = error.after_s if isinstance(error, Undelivered) else 0.0
            return max(backoff(attempt), min(asked_s, limits.most_s))

        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(limits.attempts),
                wait=pause_s,
                retry=retry_if_exception_type(Undelivered),
                before_sleep=self._note_retry,
                reraise=True,
            ):
                with attempt:
                    await self._send(told)
        except (Undelivered, Rejected) as error:
            self._counts.add(table.HOOK_DELIVERIES, self.hook.name, "given_up")
            log.warning("hook %s: %s (seq %s) was given up: %s", self.hook.name, told.fact, seq, error)
        except Exception as error:
            # Ours, and no reason to deliver nothing any more. Its words may have the address.
            self._counts.add(table.HOOK_DELIVERIES, self.hook.name, "given_up")
            what = f"{type(error).__name__} in delivery.py"
            log.error("hook %s: %s (seq %s) was given up: %s", self.hook.name, told.fact, seq, what)  # noqa: TRY400
        else:
            self._counts.add(table.HOOK_DELIVERIES, self.hook.name, "delivered")

    def _note_retry(self, attempt: RetryCallState) -> None:
        self._counts.add(table.HOOK_RETRIES, self.hook.name)
        if attempt.attempt_number == 1 and attempt.outcome is not None:
            log.info("hook %s: not delivered, and tried again: %s", self.hook.name, attempt.outcome.exception())

    async def _send(self, told: Message) -> None:
        """Make one attempt.

        Raises:
            Undelivered: another attempt may succeed.
            Rejected: none will.
        """
        try:
            async with asyncio.timeout(self.hook.timeout_ms / 1000):
                request = self._client.build_request(
                    "POST", self._address.url, content=told.body, headers=self._headers(told)
                )
                # Of the answer nothing but its head is read, however much there is.
                answer = await self._client.send(request, stream=True)
                await answer.aclose()
        except TimeoutError as error:
            raise Undelivered(f"no answer within {self.hook.timeout_ms / 1000:g} s") from error
        except httpx.HTTPError as error:
            # Only its kind: the words of some have the address.
            raise Undelivered(_failure(error)) from error
        if answer.is_success:
            return
        status = f"its receiver answered {answer.status_code}"
        if answer.status_code >= 500 or answer.status_code in AGAIN:
            raise Undelivered(status, _retry_after_s(answer))
        if answer.has_redirect_location or answer.is_redirect:
            status += ", and a redirect is not followed: set its url to where it leads"
        raise Rejected(status)

    def _headers(self, told: Message) -> list[tuple[str, str]]:
        headers = [*told.headers, ("User-Agent", f"gpu-supervisor/{__version__}")]
        if self._address.token is not None:
            headers.append(("Authorization", f"Bearer {self._address.token}"))
        if self._address.secret is not None:
            # Of this attempt, not of the fact: a receiver may refuse what is old.
            now = str(int(time.time()))
            headers.append(("X-GPU-Supervisor-Timestamp", now))
            headers.append(("X-GPU-Supervisor-Signature", signature(self._address.secret, now, told.body)))
        return headers


def _failure(error: httpx.HTTPError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate was not accepted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return f"its receiver could not be spoken to ({type(error).__name__})"


def _retry_after_s(answer: httpx.Response) -> float:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0


class Hooks:
    """All hooks of one supervisor. To be made in its event loop.

    Raises:
        HookUnusable: a file that a hook names cannot be used.
    """

    def __init__(self, hooks: Iterable[Hook], counts: Counts, host: str, limits: Limits | None = None) -> None:
        addresses = [(hook, read_address(hook)) for hook in hooks]
        self._couriers: list[Courier] = []
        self._client: httpx.AsyncClient | None = None
        if not addresses:
            return  # reading the system's certificates takes a while
        # The system's, so that its own authorities are known. No proxy and no .netrc: settings come from our own
        # places alone.
        tls = ssl.create_default_context()
        self._client = httpx.AsyncClient(verify=tls, follow_redirects=False, trust_env=False, timeout=TIMEOUT_MAX_S)
        for hook, address in addresses:
            self._couriers.append(Courier(hook, address, self._client, counts, limits or Limits(), host))

    def told(self, seq: int, fact: AnyFact) -> None:
        """Queue a fact that is on disk, for whoever wants it. Returns at once."""
        for courier in self._couriers:
            courier.put(seq, fact)

    def waiting(self) -> dict[str, int]:
        """Return how many facts wait for each hook."""
        return {courier.hook.name: courier.waiting for courier in self._couriers}

    async def close(self, within_s: float) -> None:
        """Deliver what waits, as far as it can be done in that time, and end."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await asyncio.gather(*(courier.drained() for courier in self._couriers))
        finally:
            for courier in self._couriers:
                await courier.close()
            if self._client is not None:
                await self._client.aclose()
