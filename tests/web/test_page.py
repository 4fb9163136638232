"""The web view as people use it: in Chromium, with the mouse, the keyboard alone, and on a phone."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import docker
import msgspec
import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from msgspec.structs import replace
from playwright.sync_api import Page, Request, Route, expect

from supervisor import keys
from supervisor.answers import ProcessesView, ProcessUse
from supervisor.api import describe_examples
from tests.conftest import IMAGE, Stack, until
from tests.e2e.conftest import Server
from tests.web.conftest import OpenPage, load

pytestmark = [pytest.mark.engine, pytest.mark.timeout(90)]

NASTY = [
    "<script>window.pwned=1</script>",
    "<img src=x onerror='window.pwned=1'>",
    "\"><svg onload=alert(1)>' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{7*7}} ${7*7} %3Cscript%3E &lt;b&gt; &amp;",
    "\N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED} (l_1) )(",
    "x" * 250,
]


def test_a_hand_over_is_seen_as_it_happens(
    served: Server, open_page: OpenPage, make_stack: Callable[..., Stack]
) -> None:
    first, second = make_stack("single"), make_stack("single")
    until(lambda: {served.target_state(one.target) for one in (first, second)} == {"stopped"})
    page = open_page(served)
    leases, targets, audit = (page.locator(f"#{name}") for name in ("leases", "targets", "audit"))
    processes = page.locator("#processes")
    expect(leases).to_contain_text("Nobody holds a GPU.")
    page.evaluate("window.stayed = true")

    token = served.lease(first.target).json()["token"]
    expect(leases.locator("tbody tr")).to_contain_text(f"{first.target} test ready", use_inner_text=True)
    expect(processes.locator("tbody tr")).to_have_text(re.compile(rf"{first.target} \(model\).*24 GiB *leased$"))
    served.http.delete(f"/v1/lease/{token}")
    expect(targets.locator("tr", has_text=first.target)).to_contain_text("resident")
    expect(processes.locator("tbody tr")).to_have_text(re.compile(rf"{first.target} \(model\).*24 GiB *resident$"))
    served.lease(second.target)
    expect(leases.locator("tbody tr")).to_contain_text(f"{second.target} test ready", use_inner_text=True)
    expect(targets.locator("tr", has_text=first.target)).to_contain_text("stopped")
    expect(audit).to_contain_text(f"{first.target} was evicted to make room for {second.target} of test")
    expect(processes.locator("tbody tr")).to_have_text(re.compile(rf"{second.target} \(model\).*24 GiB *leased$"))
    expect(page.locator("#news")).to_contain_text(second.target)
    expect(page.locator("#gpus")).to_contain_text(f"{second.target} 24 GiB used, 24 GiB reserved")
    assert page.evaluate("window.stayed")

    page.locator("#targets tr", has_text=first.target).get_by_role("button", name="Why").click()
    expect(page.locator("#why .answer")).to_contain_text(f"{first.target} was evicted to make room for {second.target}")
    expect(page.locator("#why")).to_contain_text(f"gpu-supervisor acquire {first.target}")

    second.compose(f"exec -T model sh -c 'echo \"{NASTY[0]}\" > /proc/1/fd/1'")
    page.get_by_role("button", name=f"What {second.target} last wrote").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("pre")).to_have_text(NASTY[0])
    assert accused(page, "#logs-dialog") == []
    dialog.get_by_role("button", name="Close").click()

    band = page.locator("#past .hold")
    expect(band.filter(has_text=f"{first.target} of test")).to_have_count(1)
    expect(band.filter(has_text=f"{second.target} of test")).to_have_count(1)


def test_a_lease_is_released_and_a_ticket_cancelled_only_after_a_yes(served: Server, open_page: OpenPage) -> None:
    served.lease(None, owner="ann")
    served.lease(None, owner="bob", queue=True)
    served.lease(None, owner="carol", queue=True)
    page = open_page(served)
    expect(page.locator("#queue tbody tr")).to_have_count(2)

    page.get_by_role("button", name="Cancel a bare lease of carol").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Cancel the ticket of carol for a bare lease?")
    dialog.get_by_role("button", name="Keep it").click()
    page.get_by_role("button", name="Release a bare lease of ann").click()
    dialog.get_by_role("button", name="Release").click()
    # It goes to the next in the queue: the ticket that was asked about is still there.
    expect(page.locator("#queue tbody tr").first).to_contain_text("bob")
    assert [one["owner"] for one in served.http.get("/v1/status").json()["queue"]] == ["bob", "carol"]
    page.get_by_role("button", name="Cancel a bare lease of carol").click()
    dialog.get_by_role("button", name="Cancel the ticket").click()
    expect(page.locator("#queue tbody tr")).to_have_count(1)
    expect(page.locator("#audit")).to_contain_text("the ticket of carol for the GPU alone was cancelled by an operator")


def test_a_ticket_is_moved_to_the_place_that_was_foretold(served: Server, open_page: OpenPage) -> None:
    for owner in ("ann", "bob", "carol"):
        served.lease(None, owner=owner, queue=True)
    page = open_page(served)
    page.get_by_role("button", name="Move a bare lease of carol").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Move the ticket of carol for a bare lease?")
    expect(dialog).to_contain_text("It would be at place 2.")
    dialog.get_by_label("Priority").fill("5000")
    expect(dialog).to_contain_text("a whole number from -1000 to 1000")
    dialog.get_by_label("Priority").fill("7")
    expect(dialog).to_contain_text("It would be at place 1.")
    assert accused(page, "#move-dialog") == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Move a bare lease of carol").click()
    dialog.get_by_label("Priority").fill("8")
    page.keyboard.press("Enter")
    expect(page.locator("#queue tbody tr").first).to_contain_text("carol")
    assert [(one["owner"], one["priority"]) for one in served.http.get("/v1/status").json()["queue"]] == [
        ("carol", 8),
        ("bob", 0),
    ]


def test_the_keyboard_alone_is_enough(served: Server, open_page: OpenPage) -> None:
    served.lease(None, owner="ann")
    page = open_page(served)
    expect(page.locator("#leases tbody tr")).to_have_count(1)

    def focus() -> str:
        found: str = page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent.trim()")
        return found

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if focus() == name:
                return
        raise AssertionError(f"the tab key does not reach {name}")

    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter"
    page.keyboard.type("nobody")
    expect(page.locator("#leases")).to_contain_text("No lease matches.")
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    release = "Release a bare lease of ann"
    tab_to(release)
    page.keyboard.press("Enter")
    assert focus() == "Keep it"
    page.keyboard.press("Escape")
    assert focus() == release
    assert len(served.http.get("/v1/status").json()["leases"]) == 1
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focus() == "Release"
    page.keyboard.press("Enter")
    expect(page.locator("#leases tbody tr")).to_have_count(0)
    # The button is gone: the focus is not lost with it.
    until(lambda: page.evaluate("document.activeElement.id") == "leases-heading")


def test_a_question_that_is_asked_again_before_its_first_end_is_noticed_is_still_answered(
    served: Server, open_page: OpenPage
) -> None:
    served.lease(None, owner="ann")
    page = open_page(served)
    release = "Release a bare lease of ann"
    expect(page.get_by_role("button", name=release)).to_have_count(1)

    # In one go: the event that the dialog was closed comes when it is open again.
    page.evaluate(
        """(label) => {
            const ask = document.querySelector(`[aria-label="${label}"]`);
            ask.click();
            document.getElementById("confirm-no").click();
            ask.click();
        }""",
        release,
    )
    page.get_by_role("button", name="Release", exact=True).click()

    expect(page.locator("#leases tbody tr")).to_have_count(0)


def test_names_and_labels_are_never_markup(
    served: Server, open_page: OpenPage, api: docker.APIClient, unique: str, label_prefix: str
) -> None:
    for owner in NASTY:
        assert served.lease(None, owner=owner, queue=True).status_code in {201, 202}
    wrong = {"target": unique, "vram": NASTY[0], "class": NASTY[1], NASTY[0]: NASTY[1]}
    for number, labels in enumerate((wrong, {"target": NASTY[1]})):
        ours = {f"{label_prefix}{name}": value for name, value in labels.items()}
        api.create_container(IMAGE, name=f"{unique}-{number}", labels=ours)
    page = open_page(served, expected=("404",))
    targets = page.locator("#targets tr", has_text=unique)
    expect(targets).to_contain_text(NASTY[0])
    expect(targets).to_contain_text(NASTY[1])
    expect(page.locator("#alerts")).to_contain_text(NASTY[1])
    expect(page.locator("#queue tbody tr")).to_have_count(len(NASTY) - 1)
    shown = page.locator("#leases td, #queue td").all_inner_texts()
    assert set(NASTY) <= set(shown)
    assert page.locator("main script, main img, main svg:not(.curve), main b, main a").count() == 0
    page.get_by_role("button", name="Release a bare lease of <script>").click()
    expect(page.get_by_role("dialog")).to_contain_text(NASTY[0])
    page.keyboard.press("Escape")
    for name in NASTY[:4]:
        page.fill("#why-name", name)
        page.press("#why-name", "Enter")
        expect(page.locator("#why")).to_contain_text(name)
    assert page.evaluate("window.pwned") is None


def test_marks_that_turn_the_direction_around_are_shown_as_what_they_are(served: Server, open_page: OpenPage) -> None:
    override = "ann\N{RIGHT-TO-LEFT OVERRIDE}gpj"

    def answered(page: Page) -> None:
        status = served.http.get("/v1/status").json()
        lease = {**LEASE, "owner": override}
        page.route("**/v1/status", lambda route: route.fulfill(json={**status, "leases": [lease]}))

    page = open_page(served, before=answered)
    expect(page.locator("#leases tbody tr")).to_contain_text("ann\\u202egpj")
    assert page.locator("#leases td bdi").count() > 3


LEASE = {
    "id": "l_1",
    "state": "ready",
    "target": None,
    "owner": "ann",
    "gpus": ["SIM-0"],
    "vram_mib": None,
    "expires_at": None,
    "ends_at": None,
    "why": "",
}


def test_a_stranger_on_a_gpu_is_shown_as_what_he_is_and_as_leased_once_he_is(
    make_server: Callable[..., Server], open_page: OpenPage
) -> None:
    served = make_server("--gpus", "sim:1x24576,foreign=3072")
    page = open_page(served)
    row = page.locator("#processes tbody tr")
    expect(row).to_have_text(re.compile("3 GiB *unapproved: the policy is observe$"))
    expect(row.locator(".warning")).to_have_count(1)
    expect(page.locator("#processes")).to_contain_text("gpu-supervisor acquire --bare -- COMMAND")
    token = served.lease(None, owner="ann", vram_mib=4_096).json()["token"]
    expect(row).to_have_text(re.compile("3 GiB *bare lease$"))
    expect(row.locator(".warning")).to_have_count(0)
    # What a bare lease was promised is in the bar as a target's is.
    expect(page.locator("#gpus")).to_contain_text("bare leases 3 GiB used, 4 GiB reserved")
    expect(page.locator("#gpus .piece.promised.bare")).to_have_count(1)
    served.http.delete(f"/v1/lease/{token}")
    expect(row).to_contain_text("unapproved")
    page.fill("#filter", "nobody")
    expect(page.locator("#processes")).to_contain_text("No process matches.")


def test_why_of_a_container_whose_label_is_wrong_has_no_story_and_sends_to_check(
    served: Server, open_page: OpenPage
) -> None:
    said = "container x-1 has a bad gpu.target"
    why = replace(describe_examples.WHY, target=None, state="invalid", sentence=said, stopped=None, by=None)
    body = msgspec.json.encode(replace(why, command="gpu-supervisor check")).decode()
    page = open_page(served, before=lambda page: page.route("**/v1/why/**", lambda route: route.fulfill(body=body)))
    page.fill("#why-name", "My Stack")
    page.press("#why-name", "Enter")
    expect(page.locator("#why > *")).to_have_text([said, "Once it is mended: gpu-supervisor check"])


STRANGER = describe_examples.PROCESSES.processes[0]
GPU = describe_examples.PROCESSES.gpus[0]
OTHER_GPU = replace(GPU, uuid="GPU-2", index=1)


def view_of(**values: object) -> ProcessesView:
    return replace(describe_examples.PROCESSES, **{"processes": (), "finished": (), **values})


def open_with(served: Server, open_page: OpenPage, view: ProcessesView, **options: object) -> Page:
    """Open the page in front of a server that says this of the processes."""
    body = msgspec.json.encode(view).decode()
    return open_page(
        served, before=lambda page: page.route("**/v1/processes", lambda r: r.fulfill(body=body)), **options
    )


NOBODY = [
    pytest.param(view_of(gpus=(GPU, OTHER_GPU)), ["No process is known to use a GPU."], id="nobody"),
    pytest.param(
        view_of(gpus=(GPU, replace(OTHER_GPU, listed=False))),
        ["No process is known to use a GPU.", "GPU 1: who is on it is not known."],
        id="nobody, and not known on another",
    ),
    pytest.param(
        view_of(gpus=(replace(GPU, listed=False),), limited=("the driver is shy",)),
        ["Who is on the GPUs is not known.", "Limited: the driver is shy."],
        id="not known",
    ),
    pytest.param(
        view_of(finished=describe_examples.PROCESSES.finished),
        ["No process is known to use a GPU.", "One process came and went unseen: gpu-supervisor ps --finished"],
        id="nobody any more",
    ),
]


@pytest.mark.parametrize(("view", "said"), NOBODY)
def test_nobody_on_the_gpus_is_told_from_not_knowing(
    served: Server, open_page: OpenPage, view: ProcessesView, said: list[str]
) -> None:
    page = open_with(served, open_page, view)
    expect(page.locator("#processes p:visible")).to_have_text(said)
    expect(page.locator("#processes table")).to_be_hidden()


def test_processes_are_shown_by_gpu_the_largest_first_with_what_is_done_about_them(
    served: Server, open_page: OpenPage
) -> None:
    both = replace(STRANGER, gpus=(ProcessUse(GPU.uuid, 100, "compute"), ProcessUse("GPU-2", None, "compute")))
    large = replace(STRANGER, pid=7, gpus=(ProcessUse(GPU.uuid, 9_216, "compute"),), why_spared="", killed=True)
    lost = replace(STRANGER, pid=9, gpus=(ProcessUse("GPU-gone", 5, "compute"),), why_spared="", asked_to_end_at="x")
    ours = replace(
        STRANGER,
        pid=8,
        gpus=(ProcessUse("GPU-2", 5, "compute"),),
        target="comfy",
        service="main",
        standing="leased",
        why_spared="",
    )
    page = open_with(served, open_page, view_of(gpus=(OTHER_GPU, GPU), processes=(lost, ours, both, large)))
    rows = page.locator("#processes tbody tr")
    expect(rows).to_have_count(5)
    assert [" ".join(row.split()) for row in rows.all_inner_texts()] == [
        "python3 mine.py 0 7 mallory 9 GiB unapproved, killed",
        "python3 mine.py 0 48213 mallory 100 MiB unapproved: the policy is observe",
        "comfy (main) 1 8 mallory 5 MiB leased",
        "python3 mine.py 1 48213 mallory unknown unapproved: the policy is observe",
        "python3 mine.py GPU-gone 9 mallory 5 MiB unapproved, asked to end",
    ]


@pytest.mark.parametrize("width", [1280, 320])
def test_what_a_process_calls_itself_is_never_markup_and_fits(served: Server, open_page: OpenPage, width: int) -> None:
    found = tuple(
        replace(STRANGER, pid=pid, user=name, command=name, containers=(name,), container=name)
        for pid, name in enumerate(NASTY)
    )
    page = open_with(served, open_page, view_of(processes=found), viewport={"width": width, "height": 800})
    rows = page.locator("#processes tbody tr")
    expect(rows).to_have_count(len(NASTY))
    for name in NASTY[:-1]:
        expect(rows.filter(has_text=name)).not_to_have_count(0)
    expect(rows.last).to_contain_text(f"{'x' * 100}… in {'x' * 40}…")
    assert page.locator("#processes").locator("script, img, svg, a").count() == 0
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert accused(page, "#processes") == []


def test_of_hundreds_of_processes_the_first_are_shown_and_the_rest_counted(served: Server, open_page: OpenPage) -> None:
    page = open_with(served, open_page, view_of(processes=tuple(replace(STRANGER, pid=pid) for pid in range(250))))
    expect(page.locator("#processes tbody tr")).to_have_count(100)
    expect(page.locator("#processes")).to_contain_text("and 150 more: gpu-supervisor ps")


def test_whoever_may_not_see_the_processes_has_the_rest_of_the_page(served: Server, open_page: OpenPage) -> None:
    may = []

    def answered(page: Page) -> None:
        refused = {"code": "forbidden", "detail": "this key may not read that"}
        page.route("**/v1/processes", lambda r: r.fallback() if may else r.fulfill(status=403, json=refused))

    page = open_page(served, expected=("403",), before=answered)
    expect(page.locator("#processes")).to_contain_text("cannot be shown: this key may not read that")
    expect(page.locator("#alerts")).to_have_text("")
    served.lease(None, owner="ann")
    expect(page.locator("#leases tbody tr")).to_contain_text("ann")
    may.append(True)
    served.lease(None, owner="bob", queue=True)
    expect(page.locator("#processes")).to_contain_text("No process is known to use a GPU.")


def test_no_older_answer_comes_behind_a_newer_one(served: Server, open_page: OpenPage) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page = open_page(served, before=lambda page: page.route("**/v1/processes", hold))
    processes = page.locator("#processes")
    with page.expect_request("**/v1/history*"):
        served.lease(None, owner="ann")
    expect(page.locator("#leases tbody tr")).to_contain_text("ann")
    # It is to be asked for again, and that waits for the first answer.
    assert len(held) == 1
    held[0].fulfill(body=msgspec.json.encode(view_of(processes=(STRANGER,))).decode())
    expect(processes).to_contain_text("python3 mine.py")
    until(lambda: page.evaluate("true") and len(held) == 2)
    held[1].fulfill(body=msgspec.json.encode(view_of()).decode())
    expect(processes).to_contain_text("No process is known to use a GPU.")


def test_colours_are_given_by_names_and_not_by_whose_answer_comes_first(served: Server, open_page: OpenPage) -> None:
    answered: list[str] = []
    early: list[str] = []

    def asked(request: Request) -> None:
        if "/v1/history" in request.url or request.url.endswith("/v1/processes"):
            early.extend([] if any(url.endswith("/v1/targets") for url in answered) else [request.url])

    def watched(page: Page) -> None:
        page.on("request", asked)
        page.on("response", lambda response: answered.append(response.url))

    page = open_page(served, before=watched)
    expect(page.locator("#past polygon")).not_to_have_count(0)
    expect(page.locator("#processes")).to_contain_text("No process is known to use a GPU.")
    assert early == []


def test_what_the_driver_keeps_is_in_the_bar_and_what_a_lease_hangs_on_beside_it(
    served: Server, open_page: OpenPage
) -> None:
    def answered(page: Page) -> None:
        status = served.http.get("/v1/status").json()
        gpus = [{**status["gpus"][0], "reserved_mib": 512}]
        leases = [{**LEASE, "pid": 4711}]
        page.route("**/v1/status", lambda route: route.fulfill(json={**status, "gpus": gpus, "leases": leases}))

    page = open_page(served, before=answered)
    expect(page.locator("#gpus")).to_contain_text("the driver's own 512 MiB")
    expect(page.locator("#leases tbody tr")).to_contain_text("ready: ends with process 4711")


LOOKS = [
    pytest.param(1280, "dark", id="a desk, dark"),
    pytest.param(320, "light", id="a small phone, light"),
]


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_it_is_accessible_and_fits_on_every_screen(
    served: Server, open_page: OpenPage, tmp_path: Path, width: int, scheme: str
) -> None:
    """The picture of each is left in the test's folder, to be looked at."""
    served.lease(None, owner="ann" * 80)
    served.lease(None, owner="bob", queue=True)
    page = open_page(served, expected=("404",), viewport={"width": width, "height": 800}, color_scheme=scheme)
    expect(page.locator("#queue tbody tr")).to_have_count(1)
    expect(page.locator("#past .hold")).not_to_have_count(0)
    page.locator("#past summary").first.click()
    page.fill("#why-name", "nobody")
    page.press("#why-name", "Enter")
    expect(page.locator("#why")).to_contain_text("nobody")
    assert accused(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate(TOO_SMALL) == []
    page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
    page.get_by_role("button", name="Release").first.click()
    assert accused(page, "#confirm") == []


#: Buttons and inputs that a finger would miss. Source: WCAG 2.2, 2.5.8, "Target size (minimum)".
TOO_SMALL = """
[...document.querySelectorAll("button, input")].filter((one) => one.offsetParent !== null)
  .filter((one) => one.offsetWidth < 24 || one.offsetHeight < 24).map((one) => one.outerHTML)
"""


def accused(page: Page, part: str = "html") -> list[str]:
    """Return what axe finds wrong on the page, of WCAG 2.2 AA and its own good practice."""
    page.evaluate(Path(AXE_FILE_PATH).read_text())
    found = page.evaluate("(part) => axe.run(part, {resultTypes: ['violations']})", part)
    return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]


def test_it_needs_nothing_from_elsewhere_and_forbids_it(served: Server, open_page: OpenPage) -> None:
    # Faults, at the end: no foreign request, no breach of the policy, no error.
    asked: list[str] = []
    page = open_page(
        served,
        expected=("Content Security Policy", "TrustedHTML"),
        before=lambda page: page.on("request", lambda request: asked.append(request.url)),
    )
    assert all(url.startswith(served.url) for url in asked)
    policy = served.http.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    # The watch itself: a script and a style that were smuggled in do nothing, and are seen.
    page.evaluate(
        "() => { const s = document.createElement('style'); s.textContent = '*{}'; document.head.append(s); }"
    )
    until(lambda: page.evaluate("window.broken.length === 1"))
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>x</b>'")
    page.evaluate("window.broken = []")


def test_a_server_that_comes_back_is_taken_up_again_with_nothing_missed(served: Server, open_page: OpenPage) -> None:
    page = open_page(served, expected=("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "ERR_CONNECTION_RESET"))
    token = served.lease(None, owner="eve").json()["token"]
    expect(page.locator("#leases tbody tr")).to_contain_text("eve")
    port = served.url.rpartition(":")[2]
    served.stop(signal.SIGKILL)
    expect(page.locator("#live")).to_contain_text("not connected, trying again")
    served.start("--port", port)
    served.http.delete(f"/v1/lease/{token}")
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("#audit")).to_contain_text("the lease of eve on the GPU alone was released")
    decided = [event["sentence"] for event in reversed(served.audit())]
    assert page.locator("#audit tbody td").all_inner_texts() == decided[:40]
    # Who held is known from the audit; memory is not, and the page says so.
    expect(page.locator("#past .hold").filter(has_text="a bare lease of eve")).to_have_count(1)
    expect(page.locator("#past-note")).to_contain_text("Memory is remembered since the last start")


def test_where_keys_are_wanted_looking_needs_one_acting_a_better_one_and_the_tab_keeps_it(
    make_server: Callable[..., Server], open_page: OpenPage
) -> None:
    served = make_server(start=False)
    eyes, hands = (keys.create(served.data_dir, role, role)[1] for role in ("read", "admin"))
    served.start()
    served.lease(None, owner="ann", headers={"X-API-Key": hands})
    page = open_page(served, expected=("401", "403"), live=False)
    key, line, alerts = page.get_by_label("Key", exact=True), page.locator("#live"), page.locator("#alerts")
    release = page.get_by_role("button", name="Release a bare lease of ann")
    expect(page.get_by_role("dialog")).to_contain_text("API key")
    expect(alerts).to_contain_text("this server wants an API key")

    key.fill(eyes)
    page.keyboard.press("Enter")
    expect(line).to_have_text("live")
    expect(alerts).to_have_text("")
    release.click()
    page.get_by_role("dialog").get_by_role("button", name="Release").click()
    expect(alerts).to_contain_text("this key may not do that")

    page.get_by_role("button", name="Key: in use").click()
    key.fill(hands)
    page.keyboard.press("Enter")
    load(page, page.url)
    expect(line).to_have_text("live")
    release.click()
    page.get_by_role("dialog").get_by_role("button", name="Release").click()
    expect(page.locator("#leases")).to_contain_text("Nobody holds a GPU.")
    expect(page.locator("#audit")).to_contain_text("was taken away by an operator (key admin)")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert hands not in page.content()

    page.get_by_role("button", name="Key: in use").click()
    page.get_by_role("button", name="Forget it").click()
    expect(alerts).to_contain_text("this server wants an API key")


def test_the_last_day_is_one_press_away(served: Server, open_page: OpenPage) -> None:
    served.lease(None, owner="daphne")
    page = open_page(served)
    expect(page.locator("#past polygon")).not_to_have_count(0)
    day = page.get_by_role("button", name="Last day")
    day.click()
    expect(day).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Last hour")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#past .hold").filter(has_text="a bare lease of daphne")).to_have_count(1)
    page.locator("#past summary").click()
    expect(page.locator("#past table")).to_contain_text("a bare lease of daphne")
    expect(page.locator("#past caption")).to_have_text("Who held GPU 0 in the last day, the newest first")
