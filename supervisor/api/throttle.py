"""Patience with callers, counted: wrong keys per address, requests per caller. Both forget, and both are bounded."""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

#: Addresses, callers and pairs of address and key that are remembered; the longest unused is forgotten first.
KNOWN_MAX = 4_096
#: So many wrong keys cost nothing: somebody pasted the wrong one, or a script was not told of the new one yet.
FREE_GUESSES = 5
BLOCK_MAX_S = 60.0
FORGET_S = 600.0


class _Wrong(Struct):
    count: int = 0
    last_s: float = 0.0
    until_s: float = 0.0


class Guesses:
    """Wrong keys by where they came from. From the sixth on each doubles a wait, 1 s to 60 s; ten minutes forget it.

    Whoever waits is not looked up, so a right guess helps nobody then; but what was used from there before is welcome.
    Times are seconds of any clock that only grows.
    """

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, _Wrong] = OrderedDict()
        self._right: OrderedDict[tuple[str, str], None] = OrderedDict()

    def blocked_s(self, origin: str, now_s: float) -> float:
        """Return for how long an address still has to wait; 0: not at all."""
        wrong = self._wrong.get(origin)
        return max(0.0, wrong.until_s - now_s) if wrong is not None else 0.0

    def wrong(self, origin: str, now_s: float) -> None:
        """Count a wrong key."""
        seen = self._wrong.get(origin)
        if seen is None or now_s - seen.last_s > FORGET_S:
            seen = self._wrong[origin] = _Wrong()
        seen.count += 1
        seen.last_s = now_s
        if seen.count > FREE_GUESSES:
            seen.until_s = now_s + min(BLOCK_MAX_S, 2.0 ** min(seen.count - FREE_GUESSES - 1, 10))
        self._wrong.move_to_end(origin)
        if len(self._wrong) > KNOWN_MAX:
            self._wrong.popitem(last=False)

    def right(self, origin: str, key_digest: str) -> None:
        """Remember that a key was used from here."""
        pair = (origin, key_digest)
        self._right[pair] = None
        self._right.move_to_end(pair)
        if len(self._right) > KNOWN_MAX:
            self._right.popitem(last=False)

    def welcome(self, origin: str, key_digest: str) -> bool:
        """Return whether a key was used from here before."""
        return (origin, key_digest) in self._right


class Meter:
    """A bucket of requests per caller: it holds those of two seconds, and fills again at ``per_s``."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._size = max(1.0, 2 * per_s)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, now_s: float) -> float:
        """Take one request out of a caller's bucket. Returns the seconds until there is one again; 0: it was taken."""
        left, at_s = self._left.get(caller, (self._size, now_s))
        left = min(self._size, left + (now_s - at_s) * self._per_s)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._per_s
        self._left[caller] = (left if wait_s else left - 1, now_s)
        self._left.move_to_end(caller)
        if len(self._left) > KNOWN_MAX:
            self._left.popitem(last=False)
        return wait_s
