"""What people type is read strictly, and a refusal says what to type instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.errors import SupervisorError
from supervisor.core.model import Sharing
from supervisor.core.values import (
    DURATION_MAX_MS,
    LIST_MAX,
    UNLIMITED,
    VRAM_MAX_MIB,
    BadValue,
    parse_bool,
    parse_class,
    parse_duration_ms,
    parse_groups,
    parse_holders,
    parse_int,
    parse_limit_ms,
    parse_list,
    parse_mib,
    parse_sharing,
    parse_size_mib,
    parse_target,
    shown,
    spelled_holders,
    spelled_limit,
    spelled_sharing,
)

PARSERS = [
    parse_bool,
    parse_mib,
    parse_size_mib,
    parse_target,
    parse_class,
    parse_duration_ms,
    parse_limit_ms,
    parse_holders,
    parse_sharing,
    parse_groups,
    parse_list,
    lambda text: parse_int(text, -10, 10),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, True) for text in ("true", "True", "TRUE", "1", "yes", "YES", "on", "On")),
        *((text, False) for text in ("false", "False", "FALSE", "0", "no", "NO", "off", "Off")),
    ],
)
def test_booleans_are_read_in_any_case(text, expected):
    assert parse_bool(text) is expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        pytest.param("", "write true or false", id="empty is not false"),
        pytest.param("ture", "did you mean true?", id="a typing error is not false"),
        pytest.param(" true", "did you mean true?", id="a blank is not trimmed away"),
        pytest.param("t", "write true or false", id="Go's short form is not ours"),
        pytest.param("2", "write true or false", id="a number other than 0 and 1"),
        pytest.param("ON\n", "write true or false", id="a line break"),
        pytest.param("\N{FULLWIDTH LATIN SMALL LETTER T}rue", "did you mean true?", id="full-width letters"),
    ],
)
def test_whatever_else_is_no_boolean(text, hint):
    with pytest.raises(BadValue, match="is not a boolean") as caught:
        parse_bool(text)

    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("1", 1, id="the least"),
        pytest.param("8192", 8192, id="plain digits"),
        pytest.param(str(VRAM_MAX_MIB), VRAM_MAX_MIB, id="the most"),
    ],
)
def test_an_amount_of_memory_is_whole_mib(text, expected):
    assert parse_mib(text) == expected


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        pytest.param("", "is not a whole number", "the unit is MiB", id="empty"),
        pytest.param("0", "is less than 1", "the unit is MiB", id="nothing is not an amount"),
        pytest.param("-1", "is less than 1", "the unit is MiB", id="negative"),
        pytest.param("8GiB", "is not a whole number", "write 8192:", id="a unit"),
        pytest.param("8g", "is not a whole number", "write 8192:", id="a short unit"),
        pytest.param("1.5 GB", "is not a whole number", "write 1431:", id="a fraction of a decimal unit"),
        pytest.param("8192MiB", "is not a whole number", "write 8192:", id="its own unit"),
        pytest.param("8192.5", "is not a whole number", "the unit is MiB", id="a fraction"),
        pytest.param("8192.0", "is not a whole number", "write 8192:", id="a fraction of nothing"),
        pytest.param(" 8192", "is not a whole number", "write 8192:", id="a blank before it"),
        pytest.param("8192\n", "is not a whole number", "write 8192:", id="a line break after it"),
        pytest.param("+5", "is not a whole number", "write 5:", id="a plus"),
        pytest.param("8_192", "is not a whole number", "write 8192:", id="Python's separators"),
        pytest.param("1e4", "is not a whole number", "the unit is MiB", id="an exponent"),
        pytest.param("0x10", "is not a whole number", "the unit is MiB", id="hexadecimal"),
        pytest.param("010", "is not a whole number", "write 10:", id="octal, or not"),
        pytest.param("-0", "is not a whole number", "the unit is MiB", id="minus nothing"),
        pytest.param("٣", "is not a whole number", "write 3:", id="digits of another script"),
        pytest.param("²", "is not a whole number", "the unit is MiB", id="a digit that int() refuses"),
        pytest.param("8589934592", "is more than", "write 8192:", id="bytes"),
        pytest.param("9" * 5000, "is more than", "the unit is MiB", id="more digits than Python reads"),
        pytest.param("-" + "9" * 5000, "is less than", "the unit is MiB", id="as many below zero"),
    ],
)
def test_whatever_else_is_no_amount_of_memory(text, reason, hint):
    with pytest.raises(BadValue, match=reason) as caught:
        parse_mib(text)

    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected_mib"),
    [
        pytest.param("12GiB", 12_288, id="binary"),
        pytest.param("12g", 12_288, id="a unit alone is binary, as Docker reads it"),
        pytest.param("8192MiB", 8_192, id="MiB as they are"),
        pytest.param("8192M", 8_192, id="and in short"),
        pytest.param("12GB", 11_445, id="decimal, rounded up"),
        pytest.param("1mb", 1, id="a little less than a MiB is one"),
        pytest.param("24gib", 24_576, id="in any case"),
        pytest.param("1.5GiB", 1_536, id="a fraction"),
        pytest.param("0.1GiB", 103, id="a fraction that is none in MiB is rounded up"),
        pytest.param("1024KiB", 1, id="KiB"),
        pytest.param("1KiB", 1, id="the least"),
        pytest.param("16TiB", VRAM_MAX_MIB, id="the most"),
    ],
)
def test_a_size_has_a_unit_and_is_rounded_up_to_mib(text, expected_mib):
    assert parse_size_mib(text) == expected_mib


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        pytest.param("", "is not a size with its unit", "12GiB", id="empty"),
        pytest.param("12", "is not a size with its unit", "say of what: 12MiB, or 12GiB", id="no unit"),
        pytest.param("12 GiB", "is not a size with its unit", "write 12GiB", id="a blank"),
        pytest.param(" 12GiB\n", "is not a size with its unit", "write 12GiB", id="blanks around it"),
        pytest.param("GiB", "is not a size with its unit", "12GiB", id="no number"),
        pytest.param("-1GiB", "is not a size with its unit", "12GiB", id="negative"),
        pytest.param("012GiB", "is not a size with its unit", "12GiB", id="a zero before it"),
        pytest.param("1,5GiB", "is not a size with its unit", "12GiB", id="a comma"),
        pytest.param("12Gb/s", "is not a size with its unit", "12GiB", id="a speed"),
        pytest.param("12B", "is not a size with its unit", "12GiB", id="bytes"),
        pytest.param("٣GiB", "is not a size with its unit", "12GiB", id="digits of another script"),
        pytest.param("0GiB", "is nothing", "from 1MiB", id="nothing is not a size"),
        pytest.param("17TiB", "is more than 16TiB", "to 16TiB", id="too much"),
        pytest.param("9" * 5000 + "GiB", "is not a size with its unit", "12GiB", id="more digits than anybody means"),
    ],
)
def test_whatever_else_is_no_size(text, reason, hint):
    with pytest.raises(BadValue, match=reason) as caught:
        parse_size_mib(text)

    assert hint in caught.value.hint


@given(st.integers(1, VRAM_MAX_MIB))
def test_a_size_in_mib_is_the_same_as_the_number(mib):
    assert parse_size_mib(f"{mib}MiB") == parse_size_mib(f"{mib}m") == parse_mib(str(mib))


@given(st.integers(1, 9_999), st.integers(0, 9_999), st.sampled_from("MGmg"), st.sampled_from(["", "iB", "B"]))
def test_a_size_is_never_less_than_what_was_written_nor_a_mib_more(whole, fraction, unit, end):
    size_bytes = float(f"{whole}.{fraction}") * (1000 if end == "B" else 1024) ** (2 if unit in "Mm" else 3)

    assert 0 <= parse_size_mib(f"{whole}.{fraction}{unit}{end}") - size_bytes / 2**20 < 1


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("-1000", -1000), ("1000", 1000), ("-7", -7)])
def test_a_whole_number_may_be_negative_where_that_is_allowed(text, expected):
    assert parse_int(text, -1000, 1000) == expected


@pytest.mark.parametrize("text", ["-1001", "1001", "- 5", "--5", "5-", "\N{MINUS SIGN}5"])
def test_a_number_out_of_range_or_with_a_strange_minus_is_refused(text):
    with pytest.raises(BadValue):
        parse_int(text, -1000, 1000)


@pytest.mark.parametrize("text", ["a", "0", "comfyui", "vllm-0.6.3", "a_b", "a" * 63, "9-._"])
def test_a_target_name_is_taken_as_it_is(text):
    assert parse_target(text) == text


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        pytest.param("", None, id="empty"),
        pytest.param("ComfyUI", "comfyui", id="capitals"),
        pytest.param("comfy ui", "comfy-ui", id="a blank inside"),
        pytest.param(" comfyui\n", "comfyui", id="blanks around it"),
        pytest.param("-comfyui", "comfyui", id="begins with a dash"),
        pytest.param(".", None, id="only a dot"),
        pytest.param("a" * 64, None, id="too long"),
        pytest.param("../../etc/passwd", "etc-passwd", id="a path"),
        pytest.param("modèle", "mod-le", id="a letter of another alphabet"),
        pytest.param("{{.Name}}", "name", id="a template"),
    ],
)
def test_whatever_else_is_no_target_name(text, suggestion):
    with pytest.raises(BadValue, match="is not a target name") as caught:
        parse_target(text)

    assert caught.value.hint.startswith(f"did you mean {suggestion}?" if suggestion else "a name has")


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        pytest.param("90", 90_000, id="bare numbers are seconds"),
        pytest.param("0", 0, id="nothing"),
        pytest.param("90s", 90_000, id="seconds"),
        pytest.param("5m", 300_000, id="minutes"),
        pytest.param("1h30m", 5_400_000, id="two units"),
        pytest.param("7d", 604_800_000, id="days"),
        pytest.param("500ms", 500, id="milliseconds are not minutes"),
        pytest.param("1d2h3m4s5ms", 93_784_005, id="all units"),
    ],
)
def test_durations_are_milliseconds(text, expected_ms):
    assert parse_duration_ms(text) == expected_ms


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "is not a duration", id="empty"),
        pytest.param("-5", "is not a duration", id="negative"),
        pytest.param("5 m", "is not a duration", id="a blank"),
        pytest.param("5M", "is not a duration", id="a capital: minutes or months"),
        pytest.param("1.5h", "is not a duration", id="a fraction"),
        pytest.param("1h30", "is not a duration", id="a number without a unit after one with"),
        pytest.param("30m1h", "is not a duration", id="the wrong order"),
        pytest.param("5m5m", "is not a duration", id="the same unit twice"),
        pytest.param("m", "is not a duration", id="a unit alone"),
        pytest.param("٣m", "is not a duration", id="digits of another script"),
        pytest.param("1e3", "is not a duration", id="an exponent"),
        pytest.param("3651d", "is longer than ten years", id="too long"),
        pytest.param("9" * 5000, "is longer than ten years", id="more digits than Python reads"),
    ],
)
def test_whatever_else_is_no_duration(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse_duration_ms(text)

    assert "5m" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected_ms"), [("none", 0), ("0", 0), ("0s", 0), ("30m", 1_800_000), ("90", 90_000)]
)
def test_a_limit_is_a_duration_or_off(text, expected_ms):
    assert parse_limit_ms(text) == expected_ms


@pytest.mark.parametrize("text", ["", "None", "off", "-1", "soon"])
def test_whatever_else_is_no_limit(text):
    with pytest.raises(BadValue, match="is not a duration") as caught:
        parse_limit_ms(text)

    assert caught.value.hint.endswith("none switches it off")


@given(st.integers(0, DURATION_MAX_MS))
def test_a_limit_is_spelled_as_it_is_read(limit_ms):
    assert parse_limit_ms(spelled_limit(limit_ms)) == limit_ms


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("8", 8), ("999999", 999_999), ("unlimited", UNLIMITED)])
def test_holders_are_a_number_or_unlimited(text, expected):
    assert parse_holders(text) == expected
    assert spelled_holders(expected) == text


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1000000", "Unlimited", "none", "any"])
def test_whatever_else_is_no_number_of_holders(text):
    with pytest.raises(BadValue) as caught:
        parse_holders(text)

    assert caught.value.hint.endswith(", or unlimited")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("none", Sharing(), id="nobody"),
        pytest.param("any", Sharing(any=True), id="anybody"),
        pytest.param("ollama", Sharing(names=("ollama",)), id="one target"),
        pytest.param("@small", Sharing(groups=("small",)), id="one group"),
        pytest.param("@bare", Sharing(groups=("bare",)), id="bare leases"),
        pytest.param(
            " tts, @b ,@a,asr,tts", Sharing(names=("asr", "tts"), groups=("a", "b")), id="each once, in order"
        ),
    ],
)
def test_sharing_is_nobody_anybody_or_names(text, expected):
    assert parse_sharing(text) == expected


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        pytest.param("", "is an empty list", "write none, any, or names", id="empty is not nobody"),
        pytest.param("none, ollama", "has none beside other names", "write none alone", id="nobody and somebody"),
        pytest.param("@a, any", "has any beside other names", "write any alone", id="anybody and somebody"),
        pytest.param("any,none", "has any beside other names", "write any alone", id="anybody and nobody"),
        pytest.param("Any", "is not a target name", "did you mean any?", id="a capital"),
        pytest.param("ollama;tts", "is not a target name", "did you mean ollama-tts?", id="another separator"),
        pytest.param("ollama tts", "is not a target name", "did you mean ollama-tts?", id="a blank for a comma"),
        pytest.param("a,,b", "has an empty item", "one comma", id="a gap"),
        pytest.param("@", "is not the name of a group", "a name has", id="a group without a name"),
        pytest.param("@Small", "is not the name of a group", "did you mean small?", id="a group with a capital"),
        pytest.param("@@small", "is not the name of a group", "write small", id="two signs"),
        pytest.param(",".join(f"t{n}" for n in range(LIST_MAX + 1)), "has 65 items", "at most 64", id="a flood"),
    ],
)
def test_whatever_else_is_no_sharing(text, reason, hint):
    with pytest.raises(BadValue, match=reason) as caught:
        parse_sharing(text)

    assert hint in caught.value.hint


NAMES = st.lists(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True), max_size=5, unique=True).map(
    lambda names: tuple(sorted({*names} - {"none", "any"}))
)


@given(st.builds(Sharing, names=NAMES, groups=NAMES) | st.just(Sharing(any=True)))
def test_sharing_is_spelled_as_it_is_read(sharing):
    assert parse_sharing(spelled_sharing(sharing)) == sharing


@pytest.mark.parametrize(
    ("sharing", "welcome"),
    [
        pytest.param(Sharing(), set(), id="nobody"),
        pytest.param(Sharing(any=True), {"tts", "asr", None}, id="anybody, bare leases too"),
        pytest.param(Sharing(names=("tts",)), {"tts"}, id="by name"),
        pytest.param(Sharing(groups=("small",)), {"asr"}, id="by group"),
        pytest.param(Sharing(groups=("bare",)), {None}, id="bare leases only"),
        pytest.param(Sharing(names=("tts",), groups=("large", "small")), {"tts", "asr"}, id="by either"),
    ],
)
def test_who_is_welcome(sharing, welcome):
    others = {"tts": (), "asr": ("speech", "small"), None: ()}

    assert {name for name, groups in others.items() if sharing.accepts(name, groups)} == welcome


@pytest.mark.parametrize(("text", "expected"), [("small", ("small",)), (" b,a ,b", ("a", "b"))])
def test_groups_are_a_list_of_names(text, expected):
    assert parse_groups(text) == expected


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        pytest.param("", "is an empty list", "write the names of groups", id="empty"),
        pytest.param("@small", "is not the name of a group", "write small", id="the sign belongs to coexist-with"),
        pytest.param("small,bare", "is the group of bare leases", "another name", id="reserved"),
        pytest.param("Small", "is not the name of a group", "did you mean small?", id="a capital"),
    ],
)
def test_whatever_else_is_no_list_of_groups(text, reason, hint):
    with pytest.raises(BadValue, match=reason) as caught:
        parse_groups(text)

    assert hint in caught.value.hint


def test_the_name_of_a_class_is_made_like_that_of_a_target():
    assert parse_class("high-end.1") == "high-end.1"
    with pytest.raises(BadValue, match="is not the name of a class") as caught:
        parse_class("High End")
    assert caught.value.hint.startswith("did you mean high-end?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a", ("a",), id="one"),
        pytest.param(" a , b,a ", ("a", "b"), id="trimmed, each once"),
        pytest.param("", (), id="none"),
        pytest.param("  ", (), id="blank"),
    ],
)
def test_lists_are_separated_by_commas(text, expected):
    assert parse_list(text) == expected


@pytest.mark.parametrize("text", [",", "a,", ",a", "a,,b", "a, ,b"])
def test_a_list_with_a_gap_is_refused(text):
    with pytest.raises(BadValue, match="has an empty item"):
        parse_list(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("8GiB", "8GiB", id="plain"),
        pytest.param("a\nb\x00\x1b[31m", "a\\nb\\x00\\x1b[31m", id="line break, NUL, terminal escape"),
        pytest.param('"a\\', '\\"a\\\\', id="what would end the quotes"),
        pytest.param("\u202egnp", "\\u202egnp", id="text that runs backwards"),
        pytest.param("\ud800", "\\ud800", id="half a character"),
        pytest.param("٣ü猫", "٣ü猫", id="other scripts stay readable"),
        pytest.param("<b>{{x}}", "<b>{{x}}", id="markup is the page's business"),
        pytest.param("x" * 80, "x" * 80, id="just short enough"),
        pytest.param("x" * 1_000_000, "x" * 80 + "... (1000000 characters)", id="a megabyte"),
        pytest.param("\x00" * 81, "\\x00" * 20 + "... (81 characters)", id="long once it is escaped"),
    ],
)
def test_somebody_elses_text_is_shown_on_one_line(text, expected):
    assert shown(text) == expected


@given(st.text())
def test_shown_text_is_printable_and_short(text):
    line = shown(text)

    assert line.isprintable()
    assert len(line) < 110


@given(st.sampled_from(PARSERS), st.text(max_size=200) | st.from_regex(r"[-+]?[0-9.eE_x ]{1,30}[gGmMdhsiB]{0,3}"))
def test_a_value_is_read_or_refused_with_a_sentence_and_a_hint(parser, text):
    error = refusal(parser, text)

    if error is not None:
        assert isinstance(error, SupervisorError)
        assert any(shown(quoted) in str(error) for quoted in quotable(parser, text))
        assert str(error).isprintable()
        assert error.hint
        assert error.hint.isprintable()


def quotable(parser, text):
    """What a refusal may quote: the text, or of a list the item that is wrong."""
    items = [item.strip() for item in text.split(",")] if parser in {parse_sharing, parse_groups} else []
    return [text, *items, *(item.removeprefix("@") for item in items)]


def refusal(parser, text):
    try:
        parser(text)
    except BadValue as error:
        return error
    return None


@given(st.integers(1, VRAM_MAX_MIB))
def test_each_number_has_one_spelling_which_is_read_back(number):
    assert parse_mib(str(number)) == number
