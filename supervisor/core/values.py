"""Values that people type, in labels and in the configuration: strict, and each refusal says what to type instead.

Nothing is guessed: ``1e4``, ``010``, `` 8192`` and a size without its unit are refused with a suggestion, because a
wrong guess shows only when something runs out of memory. Digits are ASCII: Python's own ``int`` takes those of every
script. ``spelled_*`` are the way back, for people.
"""

from __future__ import annotations

import difflib
import re

from supervisor.core.errors import SupervisorError
from supervisor.core.model import BARE, Sharing

VRAM_MAX_MIB = 16_777_216
"""16 TiB. Whoever writes more has written bytes; and the journal's integers end at 64 bits."""

DURATION_MAX_MS = 3650 * 86_400_000

UNLIMITED = 1_000_000
"""Holders of one target where nobody counts them: more than there can ever be."""

LIST_MAX = 64
"""Items of one list: everything that holds a GPU is compared with each of them."""

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_WHOLE = re.compile(r"0|-?[1-9][0-9]*")
_TARGET = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SIZE = re.compile(r"(0|[1-9][0-9]{0,8})(?:\.([0-9]{1,9}))?(\s*)([kmgt])(i?b)?", re.IGNORECASE)
#: ``12g`` is binary, as Docker reads it (docker/go-units, ``RAMInBytes``); ``12GB`` is what the SI says it is.
_UNIT_BYTES: dict[str, int] = {
    f"{unit}{end}": 1024**power for power, unit in enumerate("kmgt", 1) for end in ("", "ib")
} | {f"{unit}b": 1000**power for power, unit in enumerate("kmgt", 1)}
_LIMIT_OFF = "none"
_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile("".join(rf"(?:([0-9]{{1,12}}){unit})?" for unit in _UNITS_MS))
#: No value that anybody means is longer, and the searches for a suggestion are not linear.
_GUESSED_CHARACTERS = 100


class BadValue(SupervisorError, ValueError):
    """A value that cannot be read. The message quotes it and says what it is not; ``hint`` says what to type."""

    code = "bad_value"


def shown(text: str, limit: int = 80) -> str:
    """Make somebody else's text fit for one line of a log or a terminal: escaped, and cut after ``limit`` characters.

    Labels are anybody's: they hold line breaks, terminal escapes, NUL, text that runs backwards, or a megabyte.
    Markup is left alone: a page must escape whatever it shows.
    """
    if text.isascii() and text.isprintable() and len(text) <= limit and not {'"', "\\"} & set(text):
        return text
    parts: list[str] = []
    length = 0
    for character in text[: limit + 1]:
        plain = character.isprintable() and character not in '"\\'
        part = character if plain else _escaped(character)
        length += len(part)
        if length > limit:
            return f"{''.join(parts)}... ({len(text)} characters)"
        parts.append(part)
    return "".join(parts)


def _escaped(character: str) -> str:
    return '\\"' if character == '"' else character.encode("unicode_escape").decode()


def parse_bool(text: str) -> bool:
    """Read true/false/1/0/yes/no/on/off in any case. Raises ``BadValue`` for anything else, an empty text too."""
    word = text.lower() if text.isascii() else text
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    near = difflib.get_close_matches(word[:_GUESSED_CHARACTERS].strip(), ["true", "false"], n=1)
    raise BadValue(f'"{shown(text)}" is not a boolean', f"did you mean {near[0]}?" if near else "write true or false")


def parse_int(text: str, low: int, high: int) -> int:
    """Read a whole number from ``low`` to ``high``: ASCII digits without sign (but minus), zeros or blanks before them.

    Raises:
        BadValue: it is no such number, or out of range.
    """
    if not _WHOLE.fullmatch(text):
        raise BadValue(f'"{shown(text)}" is not a whole number', _suggest_int(text, low, high))
    # Beyond eighteen digits the sign alone decides (and Python refuses to read thousands of them).
    number = int(text) if len(text) <= 18 else (low - 1 if text.startswith("-") else high + 1)
    if number < low:
        raise BadValue(f'"{shown(text)}" is less than {low}', f"write a number from {low} to {high}")
    if number > high:
        raise BadValue(f'"{shown(text)}" is more than {high}', f"write a number from {low} to {high}")
    return number


def _suggest_int(text: str, low: int, high: int) -> str:
    bare = re.sub(r"[\s_,']", "", text[:_GUESSED_CHARACTERS]).removesuffix(".0")
    try:
        number = int(bare)
    except ValueError:
        number = None
    if number is not None and low <= number <= high:
        return f"write {number}"
    return f"write a number from {low} to {high}"


def parse_mib(text: str) -> int:
    """Read an amount of memory in MiB, a whole number from 1. Raises ``BadValue``, with the sum done for ``8GiB``."""
    try:
        return parse_int(text, 1, VRAM_MAX_MIB)
    except BadValue as error:
        raise BadValue(str(error), _suggest_mib(text) or f"{error.hint}: the unit is MiB") from None


def _suggest_mib(text: str) -> str | None:
    size = _SIZE.fullmatch(text.strip()) if len(text) <= _GUESSED_CHARACTERS else None
    if size is not None:
        mib = _to_mib(size)
    elif _WHOLE.fullmatch(text) and len(text) <= 18:
        mib = int(text) // 2**20  # too large for MiB: it may be bytes
    else:
        return None
    return f"write {mib}: the unit is MiB" if 1 <= mib <= VRAM_MAX_MIB else None


def parse_size_mib(text: str) -> int:
    """Read an amount of memory with its unit and return MiB, rounded up: ``12GiB``, ``8192MiB``, ``1.5GiB``, ``24GB``.

    KiB to TiB are binary, and so are K to T alone; KB to TB are decimal. Upper and lower case are the same.

    Raises:
        BadValue: it is none, has no unit, or is out of range.
    """
    size = _SIZE.fullmatch(text) if len(text) <= _GUESSED_CHARACTERS else None
    if size is None or size[3]:
        raise BadValue(f'"{shown(text)}" is not a size with its unit', _suggest_size(text))
    mib = _to_mib(size)
    if not 1 <= mib <= VRAM_MAX_MIB:
        what = "nothing" if mib < 1 else "more than 16TiB"
        raise BadValue(f'"{shown(text)}" is {what}', "write a size from 1MiB to 16TiB")
    return mib


def _to_mib(size: re.Match[str]) -> int:
    whole, fraction, _, unit, end = size.groups(default="")
    size_bytes = int(whole + fraction) * _UNIT_BYTES[(unit + end).lower()]
    scale: int = 10 ** len(fraction)
    return -(-size_bytes // (scale * 2**20))


def _suggest_size(text: str) -> str:
    bare = text[:_GUESSED_CHARACTERS].strip()
    if (size := _SIZE.fullmatch(bare)) is not None:
        return f"write {''.join(size[0].split())}"
    if _WHOLE.fullmatch(bare) and 1 <= int(bare) <= VRAM_MAX_MIB:
        return f"say of what: {bare}MiB, or {bare}GiB"
    return "write a number with its unit: 12GiB, 8192MiB"


def parse_target(text: str) -> str:
    """Read the name of a target. Raises ``BadValue`` unless it is ``[a-z0-9][a-z0-9._-]{0,62}``."""
    return _parse_name(text, "a target name")


def parse_class(text: str) -> str:
    """Read the name of a class of GPUs: names are made like those of targets. Raises ``BadValue``."""
    return _parse_name(text, "the name of a class")


def _parse_name(text: str, what: str) -> str:
    if _TARGET.fullmatch(text):
        return text
    near = re.sub(r"[^a-z0-9._-]+", "-", text[:_GUESSED_CHARACTERS].strip().lower()).strip("._-")
    rule = "a name has 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit"
    hint = f"did you mean {near}? {rule}" if _TARGET.fullmatch(near) else rule
    raise BadValue(f'"{shown(text)}" is not {what}', hint)


def parse_duration_ms(text: str) -> int:
    """Read ``90`` (seconds), ``90s``, ``5m``, ``1h30m``, ``7d`` or ``500ms`` and return milliseconds.

    Raises:
        BadValue: it is none, or longer than ten years.
    """
    hint = "write seconds (90), or whole numbers with units, the largest first: 90s, 5m, 1h30m, 7d"
    if _WHOLE.fullmatch(text) and not text.startswith("-"):
        text_s = text if len(text) <= 12 else "9" * 12
        total_ms = int(text_s) * 1000
    else:
        match = _DURATION.fullmatch(text)
        if not text or match is None:
            raise BadValue(f'"{shown(text)}" is not a duration', hint)
        counts = match.groups(default="0")
        total_ms = sum(int(count) * unit_ms for count, unit_ms in zip(counts, _UNITS_MS.values(), strict=True))
    if total_ms > DURATION_MAX_MS:
        raise BadValue(f'"{shown(text)}" is longer than ten years', hint)
    return total_ms


def parse_limit_ms(text: str) -> int:
    """Read a duration that may be switched off: ``none`` and ``0`` are 0. Raises ``BadValue``."""
    if text == _LIMIT_OFF:
        return 0
    try:
        return parse_duration_ms(text)
    except BadValue as error:
        raise BadValue(str(error), f"{error.hint}; none switches it off") from None


def spelled_limit(limit_ms: int) -> str:
    """Spell milliseconds in the way that ``parse_limit_ms`` reads: ``1h30m``, and ``none`` for 0."""
    parts = []
    for unit, unit_ms in _UNITS_MS.items():
        count, limit_ms = divmod(limit_ms, unit_ms)
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts) or _LIMIT_OFF


def parse_holders(text: str) -> int:
    """Read how many leases a target may have at a time: a number from 1, or ``unlimited``. Raises ``BadValue``."""
    if text == "unlimited":
        return UNLIMITED
    try:
        return parse_int(text, 1, UNLIMITED - 1)
    except BadValue as error:
        raise BadValue(str(error), f"{error.hint}, or unlimited") from None


def spelled_holders(holders: int) -> str:
    return "unlimited" if holders >= UNLIMITED else str(holders)


def parse_sharing(text: str) -> Sharing:
    """Read ``none``, ``any``, or names of targets and ``@groups`` between commas; their order does not matter.

    Raises:
        BadValue: one of them is no name, or ``none`` or ``any`` stands beside others.
    """
    words = _some(text, "write none, any, or names: ollama, @small")
    if words in {("none",), ("any",)}:
        return Sharing(any=words == ("any",))
    for word in words:
        if word in {"none", "any"}:
            raise BadValue(f'"{shown(text)}" has {word} beside other names', f"write {word} alone, or names only")
    return Sharing(
        names=tuple(sorted(parse_target(word) for word in words if not word.startswith("@"))),
        groups=tuple(sorted(_parse_group(word[1:]) for word in words if word.startswith("@"))),
    )


def spelled_sharing(sharing: Sharing) -> str:
    """Spell it in the way that ``parse_sharing`` reads."""
    if sharing.any:
        return "any"
    return ", ".join([*sharing.names, *(f"@{group}" for group in sharing.groups)]) or "none"


def parse_groups(text: str) -> tuple[str, ...]:
    """Read the names of groups, without their @, and sort them. Raises ``BadValue``, for the reserved ``bare`` too."""
    groups = tuple(sorted(_parse_group(word) for word in _some(text, "write the names of groups: small, llm")))
    if BARE in groups:
        raise BadValue(f'"{BARE}" is the group of bare leases: no target is in it', "choose another name")
    return groups


def _parse_group(word: str) -> str:
    if word.startswith("@"):
        raise BadValue(f'"{shown(word)}" is not the name of a group', f"write {shown(word.lstrip('@')) or 'a name'}")
    return _parse_name(word, "the name of a group")


def _some(text: str, hint: str) -> tuple[str, ...]:
    """Read a list that may not be empty, nor longer than anybody means."""
    words = parse_list(text)
    if not words:
        raise BadValue(f'"{shown(text)}" is an empty list', hint)
    if len(words) > LIST_MAX:
        raise BadValue(f'"{shown(text)}" has {len(words)} items', f"write at most {LIST_MAX}")
    return words


def parse_list(text: str) -> tuple[str, ...]:
    """Read items between commas: trimmed, each once, in their first order; a blank text is an empty list.

    Raises:
        BadValue: there is nothing between two commas, or before the first or after the last.
    """
    if not text.strip():
        return ()
    items = tuple(dict.fromkeys(item.strip() for item in text.split(",")))
    if "" in items:
        raise BadValue(f'"{shown(text)}" has an empty item', "write items with one comma between them: a, b")
    return items
