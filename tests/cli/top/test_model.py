"""What is shown, as values: names are anybody's, widths are anything, and a filter finds what has all its words."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len

from supervisor.answers import EngineView, GpuUse, ProcessesView, ProcessView
from supervisor.api.web_page import web_files
from supervisor.cli.top import bars, columns, details, model
from supervisor.cli.top.columns import Column, Row
from supervisor.cli.top.model import PANES, Picture
from supervisor.cli.top.room import LEAST, shared
from supervisor.cli.top.words import Line, fill, fitted, lasting, seconds_to
from supervisor.cli.top.words import at as clock
from tests.cli.top.scenes import BUSY, HOSTILE, MANY, NOW, Scene, at, event, gpu, lease, process, scene, target, ticket

ANYTHING = st.text(max_size=20)


def picture(of: Scene, **values: Any) -> Picture:
    base: dict[str, Any] = {
        "status": of.status,
        "targets": {one.name: one for one in of.targets},
        "events": of.events[::-1],
    }
    return Picture(**{**base, **values})


def text(line: Line) -> str:
    return "".join(span.text for span in line)


def cells(of: Scene, pane: model.Pane, row: int = 0) -> list[str]:
    table = model.tables(picture(of), NOW)[pane]
    return [columns.text_of(cell) for cell in table.rows[row].cells]


# ---- words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-3, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m00s"), (3_599, "59m59s"), (3_660, "1h01m"), (90_000, "1d01h")],
)
def test_a_time_span_is_said_in_two_units(seconds, said):
    assert lasting(seconds) == said


def test_a_time_of_another_day_has_its_date_and_what_is_no_time_is_shown_as_it_is():
    assert clock(at(0), NOW) == "14:32:10"
    assert clock(at(-86_400), NOW) == "11-20 14:32:10"
    assert clock("soon\x1b", NOW) == "soon\\x1b"
    assert seconds_to("soon", NOW) is None


@given(ANYTHING, st.integers(0, 30), st.booleans())
def test_a_text_is_fitted_into_exactly_so_many_cells(raw, width, right):
    printable = model.clean(raw)
    found = fitted(printable, width, right=right)
    assert cell_len(found) == width
    if cell_len(printable) <= width:
        assert found.strip(" ") == printable.strip(" ")


@given(st.lists(ANYTHING, max_size=5), st.integers(0, 40))
def test_a_line_is_filled_to_exactly_so_many_cells(texts, width):
    line = tuple(model.Span(model.clean(one)) for one in texts)
    assert cell_len(text(fill(line, width))) == width


# ---- columns


COLUMNS = st.lists(
    st.builds(
        Column,
        title=st.just("title"),
        least=st.integers(1, 12),
        most=st.integers(0, 40),
        keep=st.integers(0, 9),
        rest=st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@given(COLUMNS, st.integers(1, 160), st.data())
def test_columns_never_take_more_than_there_is_and_those_that_matter_stay(given_columns, width, data):
    rows = [
        Row(str(key), tuple(model.clean(data.draw(ANYTHING)) for _ in given_columns))
        for key in range(data.draw(st.integers(0, 3)))
    ]
    found = columns.widths(given_columns, rows, width)
    shown = [have for have in found if have]
    assert shown
    assert sum(shown) + columns.GAP * (len(shown) - 1) <= width
    left_out = [column.keep for column, have in zip(given_columns, found, strict=True) if not have]
    kept = [column.keep for column, have in zip(given_columns, found, strict=True) if have]
    assert max(left_out, default=0) <= max(kept)
    for row in rows:
        assert cell_len(text(columns.line_of(row, given_columns, found, width))) == width


# ---- the height


@given(st.lists(st.integers(2, 1_000), min_size=1, max_size=5), st.integers(0, 100), st.integers(0, 4))
def test_all_lines_are_shared_and_each_pane_has_its_three_as_long_as_they_last(needs, total, favoured):
    found = shared(needs, total, favoured if favoured < len(needs) else None)
    assert sum(found) == total
    if total >= LEAST * len(needs):
        assert min(found) >= LEAST
    assert all(have <= max(LEAST, need) for have, need in zip(found[:-1], needs[:-1], strict=True))


def test_who_is_worked_with_gets_twice_as_much():
    assert shared([100, 100], 30, favoured=1) == [10, 20]


# ---- bars

MIB = st.none() | st.integers(0, 30_000)
USES = st.lists(st.builds(GpuUse, target=ANYTHING, reserved_mib=MIB, used_mib=MIB), max_size=6)
GPUS = st.builds(
    gpu,
    st.just(0),
    total_mib=MIB,
    used_mib=MIB,
    reserved_mib=MIB,
    granted_mib=MIB,
    grantable_mib=MIB,
    unexplained_mib=MIB,
    targets=USES.map(tuple),
)


@given(GPUS, st.integers(12, 120))
def test_a_bar_is_as_wide_as_it_should_be_and_shows_every_kind_that_there_is(one, width):
    found = text(bars.bar(one, width))
    assert (found[0], found[-1], cell_len(found)) == ("[", "]", width)
    pieces = bars.parts(one)
    given_cells = bars.cells(pieces, width - 2)
    assert sum(given_cells) == (width - 2 if pieces else 0)
    if len(pieces) <= width - 2:
        assert all(given_cells)
    assert text(bars.legend(one)).isprintable()


@given(st.lists(st.integers(1, 30_000), min_size=2, max_size=8), st.integers(20, 100))
def test_who_has_more_never_gets_fewer_cells(sizes, width):
    found = bars.cells([bars.Part("used", mib) for mib in sizes], width)
    assert not [
        (more, less)
        for more in range(len(sizes))
        for less in range(len(sizes))
        if sizes[more] > sizes[less] and found[more] < found[less]
    ]


def test_a_bar_reads_without_colours():
    (one,) = BUSY.status.gpus
    assert text(bars.bar(one, 50)) == "[A█████████████████▒▒▒▒B██████████▒####??==······]"
    assert text(bars.legend(one)) == (
        "A comfyui 10.2 of 12.0 GiB  B whisper 5.9 of 6.0 GiB  # others 2.0 GiB  ? unexplained 700 MiB  "
        "= driver 480 MiB  · grantable 1.9 GiB"
    )


def test_what_a_bare_lease_uses_is_its_own_and_no_strangers():
    one = gpu(used_mib=5_000, granted_mib=8_192, reserved_mib=None)
    assert [(share.name, share.used_mib, share.reserved_mib) for share in bars.shares(one)] == [
        ("(bare)", 5_000, 8_192)
    ]
    assert [(part.kind, part.mib) for part in bars.parts(one)] == [
        ("used", 5_000),
        ("reserved", 3_192),
        ("free", 16_384),
    ]


def test_a_gpu_of_unknown_size_has_an_empty_bar():
    assert text(bars.bar(gpu(total_mib=None), 10)) == "[        ]"


# ---- rows


def test_a_lease_shows_how_long_it_lasts_and_what_ends_it():
    assert cells(BUSY, "leases")[:7] == ["comfyui", "ann@desk", "ready", "4m47s", "0", "12.0 GiB", "12m34s"]
    given_leases = (
        lease("l_1", None, "cy", expires_at=None, pid=4_711),
        lease("l_2", "a", "ann", ends_at=at(61)),
        lease("l_3", "a", "ann", state="starting", why="the containers of a are starting"),
    )
    many = scene((gpu(),), given_leases, (), (), ())
    shown = [cells(many, "leases", row) for row in range(3)]
    assert [(row[0], row[3], row[7]) for row in shown] == [
        ("(bare)", "no end", "ends with process 4711"),
        ("a", "1m01s", "others wait: it ends by then"),
        ("a", "4m47s", "the containers of a are starting"),
    ]


def test_a_ticket_shows_its_place_its_wait_and_the_reason():
    waiting = scene((), (), (ticket(0, "a", "ann", state="claimable", until=at(8)), ticket(1, None, "bob")), (), ())
    assert cells(waiting, "queue", 0)[-1] == "its turn: to be claimed in 8s"
    assert cells(waiting, "queue", 1) == [
        *("2", "(bare)", "bob", "0", "1m00s", "16.0 GiB"),
        "comfyui holds the GPU (owner ann); 1 ahead of it in the queue",
    ]


def test_targets_come_with_those_first_that_do_something_and_say_their_health_and_problems():
    names = [row.key for row in model.tables(picture(BUSY), NOW)["targets"].rows]
    assert names == ["comfyui", "whisper", "llama", "ollama", "vllm"]
    assert cells(BUSY, "targets", 0)[:4] == ["comfyui", "ready", "healthy", "1/1"]
    assert cells(BUSY, "targets", 2)[-1] == "no container of llama is the master"
    failed = target("a")
    failed = replace(failed, containers=(replace(failed.containers[0], exit_code=3),))
    assert cells(scene((), (), (), (failed,), ()), "targets")[2] == "exit 3"


def test_a_target_whose_details_have_not_come_yet_is_listed_by_its_name():
    rows = model.tables(picture(BUSY, targets={}), NOW)["targets"].rows
    assert [columns.text_of(cell) for cell in rows[0].cells] == ["comfyui", "ready", "", "", "", "", ""]


@pytest.mark.parametrize(
    ("filter_", "found"),
    [
        pytest.param("", 300, id="without words all"),
        pytest.param("MODEL-7", 11, id="case does not matter"),
        pytest.param("model-7 ready", 1, id="all words, in whatever column"),
        pytest.param("nobody", 0, id="none"),
        pytest.param("model-299-main-1", 1, id="what is not shown counts too: its containers"),
    ],
)
def test_a_filter_finds_rows_that_have_all_its_words(filter_, found):
    table = model.tables(picture(MANY), NOW, filter_)["targets"]
    assert (len(table.rows), table.all) == (found, 300)
    title = "Targets 300" if found == 300 else f"Targets {found} of 300"
    assert model.title("targets", table) == title


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({}, " gpubox  0.2.0  in sync  enforcement stop  1 label problem  14:32:10 ", id="all is well"),
        pytest.param(
            {"status": replace(BUSY.status, engine=EngineView(False, "connection refused", 3.0), targets=())},
            " gpubox  0.2.0  NOT IN SYNC: connection refused  enforcement stop  14:32:10 ",
            id="the engine is away",
        ),
        pytest.param(
            {"away": "no supervisor answers\x07", "away_since": NOW - timedelta(seconds=75)},
            " NO ANSWER for 1m15s  no supervisor answers\\x07; trying again  14:32:10 ",
            id="the server is away",
        ),
        pytest.param({"status": None}, " gpu-supervisor  asking ...  14:32:10 ", id="nothing was said yet"),
    ],
)
def test_the_first_line_says_whether_what_is_shown_is_so_now(values, said):
    assert text(model.header(picture(BUSY, **values), NOW)) == said


# ---- who is on a GPU


def of_first_gpu(*processes: ProcessView) -> list[str]:
    view = ProcessesView(policy="observe", gpus=(), processes=processes, finished=(), limited=())
    return [text(line) for line in details.of_gpu(BUSY.status.gpus[0], picture(BUSY, processes=view), NOW)]


def test_what_to_do_about_an_unapproved_process_is_said_beside_it_in_the_words_of_the_page():
    stranger = process(666, 2_000, "unapproved", user="eve")

    said = of_first_gpu(stranger)[-1]

    assert "gpu-supervisor acquire --bare -- COMMAND" in said
    on_the_page = re.sub(r'" \+\n *"', "", web_files()["processes.js"].body.decode())
    assert f"U{said[1:]}." in on_the_page
    assert said not in of_first_gpu(process(4_711, 10_400, target="comfyui"))
    elsewhere = replace(stranger, gpus=(replace(stranger.gpus[0], gpu="GPU-elsewhere"),))
    assert said not in of_first_gpu(elsewhere)


# ---- everybody's text


@given(ANYTHING)
def test_nothing_that_anybody_wrote_reaches_the_terminal_as_it_is(raw):
    hostile = scene(
        (gpu(name=raw, problem=raw, targets=(GpuUse(target=raw, reserved_mib=1, used_mib=1),)),),
        (lease(raw, raw, raw, why=raw, ends_at=raw),),
        (ticket(0, raw, raw, why=raw, until=raw),),
        (target(raw, create=raw),),
        (event(1, "TicketQueued", raw, raw, field=raw),),
        host=raw,
    )
    seen = picture(hostile, away=raw)
    lines = [model.header(seen, NOW), model.header(picture(hostile), NOW), bars.legend(hostile.status.gpus[0])]
    for pane, table in model.tables(seen, NOW).items():
        assert pane in PANES
        lines += [columns.line_of(row, table.columns, [20] * len(table.columns), 300) for row in table.rows]
    lines += details.of_lease(hostile.status.leases[0], NOW)
    lines += details.of_ticket(hostile.status.queue[0], NOW)
    lines += details.of_target(hostile.targets[0], raw)
    lines += details.of_gpu(hostile.status.gpus[0], seen, NOW)
    lines += details.of_event(hostile.events[0], NOW)
    assert all(text(line).isprintable() for line in lines)


def test_markup_is_only_text():
    assert cells(BUSY, "queue", 2)[2] == model.clean(HOSTILE) == "[red]eve[/red]\\x1b[2J\\u202ekcab"
