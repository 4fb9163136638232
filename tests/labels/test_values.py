"""What people type is read strictly, and a refusal says what to type instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.errors import SupervisorError
from supervisor.core.values import (
    VRAM_MAX_MIB,
    BadValue,
    parse_bool,
    parse_duration_ms,
    parse_int,
    parse_list,
    parse_mib,
    parse_target,
    shown,
)

PARSERS = [parse_bool, parse_mib, parse_target, parse_duration_ms, parse_list, lambda text: parse_int(text, -10, 10)]


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
        pytest.param("1.5 GB", "is not a whole number", "write 1536:", id="a fraction of a unit"),
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
        assert shown(text) in str(error)
        assert str(error).isprintable()
        assert error.hint
        assert error.hint.isprintable()


def refusal(parser, text):
    try:
        parser(text)
    except BadValue as error:
        return error
    return None


@given(st.integers(1, VRAM_MAX_MIB))
def test_each_number_has_one_spelling_which_is_read_back(number):
    assert parse_mib(str(number)) == number
