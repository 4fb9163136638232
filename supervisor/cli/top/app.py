"""The screen: panes, keys, and who is told what. ``model`` says what is shown, and ``deeds`` what a key does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import quote

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Footer, Input, Static

from supervisor.answers import GpuView, LeaseView, LogsView, MovedAnswer, QueueEntry, TargetView, Why
from supervisor.cli.connection import Server
from supervisor.cli.output import clean
from supervisor.cli.top import deeds, details, model
from supervisor.cli.top.deeds import Deed
from supervisor.cli.top.dialogs import Priority, Question, Reading, as_text
from supervisor.cli.top.feed import Feed
from supervisor.cli.top.model import Picture
from supervisor.cli.top.picker import GpuPicker, Picker, TablePicker
from supervisor.cli.top.room import shared
from supervisor.cli.top.words import Span
from supervisor.core.errors import SupervisorError

WIDE = 120
#: Where the keys that act make sense.
KEYS_OF = {
    "release": ("leases", "targets", "gpus"),
    "cancel": ("queue",),
    "move": ("queue",),
    "evict": ("targets",),
    "logs": ("targets", "leases", "queue", "audit"),
    "open_gpu": ("gpus",),
}
TICK_S = 1.0
#: How long it stands in the first line what came of a key.
SAID_S = 6.0


def utc_now() -> datetime:
    return datetime.now(UTC)


class Top(App[None]):
    """``gpu-supervisor top``. ``now`` is the clock that times are shown by."""

    TITLE = "gpu-supervisor top"
    CSS_PATH = "top.tcss"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012 - as the base class has it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "release", "release"),
        Binding("c", "cancel", "cancel"),
        Binding("m", "move", "move"),
        Binding("e", "evict", "evict"),
        Binding("o", "open_gpu", "open"),
        Binding("l", "logs", "logs"),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("escape", "no_filter", "all", show=False),
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("q", "quit", "quit"),
        *(Binding(str(at), f"pane('{pane}')", pane, show=False) for at, pane in enumerate(model.PANES, 1)),
    ]

    def __init__(self, server: Server, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(ansi_color=True)
        self._now = now
        self._server = server
        self._feed: Feed
        self._filter = ""
        self._before: Picker | None = None
        self._said: Span | None = None
        self._said_at = now()
        self.picture = Picture()

    def compose(self) -> ComposeResult:
        yield Static(id="header")
        yield GpuPicker()
        with Container(id="panes"):
            with Container(id="waiting"):
                yield TablePicker("leases")
                yield TablePicker("queue")
            with Container(id="rest"):
                yield TablePicker("targets")
                yield TablePicker("audit")
        yield Input(id="filter", placeholder="words that a row must have; enter keeps them, esc takes them back")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self.query_one("#filter", Input).display = False
        self._feed = Feed(self._server, self.take, self._now)
        self.query_one("#leases").focus()
        self._draw()
        self.run_worker(self._feed.run(), exit_on_error=True)
        self.set_interval(TICK_S, self._draw)

    # ---- what is shown

    def take(self, picture: Picture) -> None:
        """Show what the server said, or that it says nothing."""
        self.picture = picture
        self._draw()

    def _draw(self) -> None:
        now = self._now()
        if (now - self._said_at).total_seconds() >= SAID_S:
            self._said = None
        screen = self.screen_stack[0] if self.screen_stack else None
        if screen is None or not screen.query("#header"):
            return  # it is being left
        screen.query_one("#header", Static).update(as_text((model.header(self.picture, now, self._said),)))
        stale = bool(self.picture.away)
        tables = model.tables(self.picture, now, self._filter)
        for picker in screen.query(TablePicker):
            picker.stale = stale
            picker.put(tables[picker.pane])
        gpus = self.picture.status.gpus if self.picture.status is not None else ()
        bars = screen.query_one(GpuPicker)
        bars.stale = stale
        room = max(3, self.size.height // 3)
        bars.put(gpus, tall=2 * len(gpus) <= room)
        bars.lines = 1 + max(1, min(len(gpus) * bars.row_height, room))
        bars.styles.height = bars.lines
        self._share_height()

    def _share_height(self) -> None:
        """Give each pane what it needs of the lines that first line, bars and keys leave, as far as they go."""
        screen = self.screen_stack[0]
        left = self.size.height - 2 - screen.query_one(GpuPicker).lines
        boxes = [screen.query_one("#waiting"), screen.query_one("#rest")]
        columns = [list(box.query(TablePicker)) for box in boxes]
        if self.size.width < WIDE:
            columns = [[*columns[0], *columns[1]]]
        for column in columns:
            favoured = next((at for at, picker in enumerate(column) if picker.has_focus), None)
            heights = shared([len(picker.keys) + 2 for picker in column], left, favoured)
            for picker, height in zip(column, heights, strict=True):
                picker.styles.height = height

    def on_resize(self) -> None:
        self._draw()

    # ---- what is selected

    @property
    def _pane(self) -> Picker | None:
        return self.focused if isinstance(self.focused, Picker) else None

    def _selected(self, pane: str) -> str | None:
        """Return the key of what is selected, if this pane is the one that keys are for."""
        picker = self._pane
        return picker.selected if picker is not None and picker.pane == pane else None

    @property
    def _lease(self) -> LeaseView | None:
        status, target, gpu = self.picture.status, self._target, self._gpu
        wanted = self._selected("leases")
        if target is not None:
            wanted = target.lease
        if gpu is not None:
            wanted = gpu.lease if len(gpu.leases) == 1 else None
        leases = status.leases if status is not None else ()
        return next((lease for lease in leases if lease.id == wanted), None)

    @property
    def _ticket(self) -> QueueEntry | None:
        queue = self.picture.status.queue if self.picture.status is not None else ()
        wanted = self._selected("queue")
        return next((ticket for ticket in queue if ticket.id == wanted), None)

    @property
    def _target(self) -> TargetView | None:
        return self.picture.targets.get(self._selected("targets") or "")

    @property
    def _gpu(self) -> GpuView | None:
        gpus = self.picture.status.gpus if self.picture.status is not None else ()
        wanted = self._selected("gpus")
        return next((gpu for gpu in gpus if gpu.uuid == wanted), None)

    def _decision(self) -> Any:
        wanted = self._selected("audit")
        return next((event for event in self.picture.events if str(event.seq) == wanted), None)

    def _about(self) -> str | None:
        """Return the target that the selected row is about."""
        if self._target is not None:
            return self._target.name
        found = (self._selected("leases") and self._lease) or self._ticket or self._decision()
        return found.target if found is not None else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Offer a key only where it makes sense."""
        if action in KEYS_OF:
            return self._pane is not None and self._pane.pane in KEYS_OF[action]
        return self.screen is self.screen_stack[0] or action == "quit"

    def on_picker_moved(self) -> None:
        self._share_height()
        self.refresh_bindings()

    # ---- keys that act

    def action_release(self) -> None:
        lease, status = self._lease, self.picture.status
        if lease is None or status is None:
            self.say("no lease is selected: choose one under Leases", bad=True)
        else:
            self._ask_first(deeds.release(lease, status))

    def action_cancel(self) -> None:
        if self._ticket is not None:
            self._ask_first(deeds.cancel(self._ticket))

    def action_evict(self) -> None:
        target = self._target
        if target is None:
            return
        why_not = deeds.why_not_evicted(target)
        if why_not:
            self.say(why_not, bad=True)
        else:
            self._ask_first(deeds.evict(target))

    def action_open_gpu(self) -> None:
        gpu = self._gpu
        if gpu is None:
            return
        if gpu.state == "dirty":
            self._ask_first(deeds.open_gpu(gpu))
        else:
            self.say(f"GPU {gpu.index} is not closed: there is nothing to open", bad=True)

    def action_move(self) -> None:
        ticket = self._ticket
        if ticket is None:
            return
        why_not = deeds.why_not_moved(ticket)
        if why_not:
            self.say(why_not, bad=True)
            return

        async def foretell(priority: int) -> str:
            deed = deeds.move(ticket, priority, dry_run=True)
            try:
                answer = await self._feed.ask(deed.method, deed.path, MovedAnswer, json=deed.body)
            except SupervisorError as error:
                return clean(error)
            if answer.position is None:
                return deeds.not_done(deed, {"reason": answer.reason})
            return f"It would be at place {answer.position + 1}; it is at place {ticket.position + 1} now."

        def typed(priority: int | None) -> None:
            if priority is not None:
                self._do(deeds.move(ticket, priority))

        self.push_screen(Priority(deeds.move(ticket, 0).question, ticket.priority, foretell), typed)

    def _ask_first(self, deed: Deed) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                self._do(deed)

        self.push_screen(Question(deed), answered)

    def _do(self, deed: Deed) -> None:
        self.run_worker(self._carry_out(deed))

    async def _carry_out(self, deed: Deed) -> None:
        try:
            answer = await self._feed.ask(deed.method, deed.path, dict[str, Any], params=deed.params, json=deed.body)
        except SupervisorError as error:
            if error.code == "not_found" and deed.instead is not None:
                await self._carry_out(deed.instead)
            else:
                self.complain(deed.question, error)
            return
        why_not = deeds.not_done(deed, answer)
        self.say(why_not or deed.done, bad=bool(why_not))
        self._feed.look_soon()

    def say(self, text: str, *, bad: bool = False) -> None:
        """Say what came of a key, in the first line, for some seconds."""
        self._said = Span(clean(text), "warn" if bad else "strong")
        self._said_at = self._now()
        self._draw()

    def complain(self, what: str, error: SupervisorError) -> None:
        """Show an error with its hint until somebody has read it."""
        hint = details.lines("", f"hint: {error.hint}", tone="warn") if error.hint else ()
        self.push_screen(Reading(what, (*details.lines(str(error), tone="bad"), *hint)))

    # ---- keys that show

    def on_picker_chosen(self) -> None:
        self.action_details()

    def action_details(self) -> None:
        now = self._now()
        if self._target is not None:
            self.run_worker(self._explain(self._target))
        elif self._selected("leases") and self._lease is not None:
            self.push_screen(Reading("Lease", details.of_lease(self._lease, now)))
        elif self._ticket is not None:
            self.push_screen(Reading("Ticket", details.of_ticket(self._ticket, now)))
        elif self._gpu is not None:
            self.push_screen(Reading("GPU", details.of_gpu(self._gpu, self.picture, now)))
        elif (event := self._decision()) is not None:
            self.push_screen(Reading("Decision", details.of_event(event, now)))

    async def _explain(self, target: TargetView) -> None:
        try:
            said = (await self._feed.ask("GET", f"/v1/why/{quote(target.name, safe='')}", Why)).sentence
        except SupervisorError as error:
            said = str(error)
        self.push_screen(Reading("Target", details.of_target(target, said)))

    def action_logs(self) -> None:
        name = self._about()
        if name is None:
            self.say("this is about no target, so there are no containers to ask", bad=True)
            return

        async def read() -> details.Lines | None:
            try:
                path = f"/v1/targets/{quote(name, safe='')}/logs"
                logs = await self._feed.ask("GET", path, LogsView, params={"lines": 200})
            except SupervisorError as error:
                return details.lines(str(error), tone="bad")
            return details.of_logs(logs)

        title = f"What {clean(name)} last wrote"
        self.push_screen(Reading(title, details.lines("reading ...", tone="dim"), again=read, at_end=True))

    def action_help(self) -> None:
        self.push_screen(Reading("Keys", details.HELP))

    def action_pane(self, pane: str) -> None:
        self.query_one(f"#{pane}").focus()

    # ---- the filter

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        self._before = self._pane or self._before
        field.display = True
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "filter":
            self._filter = event.value
            self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "filter":
            self._leave_filter()

    def action_no_filter(self) -> None:
        self.query_one("#filter", Input).value = ""
        self._leave_filter()

    def _leave_filter(self) -> None:
        field = self.query_one("#filter", Input)
        if field.display:
            field.display = False
            (self._before or self.query_one("#leases")).focus()
