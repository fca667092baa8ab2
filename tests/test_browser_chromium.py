"""Pages in a real Chromium: what is seen, what is done, that nothing is reached, that a lost page is no one's fault."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_browser import HOST, bid, does, needs_chromium, opened, served

from agentrl.envs.browser.actions import parse
from agentrl.envs.browser.chromium import Events, Page, Reply, folder
from agentrl.envs.browser.process import Chromium, PageLost
from agentrl.errors import ConfigError, EnvFault

pytestmark = pytest.mark.slow

FORM = """
<h1>Sign up</h1>
<label>Name <input id=n required></label>
<label for=c>Colour</label><select id=c><option value=r>red<option value=b>blue</select>
<label><input type=checkbox id=k>News</label>
<input type=date id=d aria-label=Day>
<button onclick="document.title = [n.value, c.value, k.checked, d.value].join()">Send</button>
<button disabled>Never</button><p hidden>Secret</p><p>Plain <b>text</b></p>
<div style="height:20px;position:relative"><button style="position:absolute">Under</button>
<div style="position:absolute;width:300px;height:60px;background:white"></div></div>
"""


@pytest.mark.parametrize("events", ["js", "trusted"])
def test_a_form_is_read_and_filled(events: Events) -> None:
    with opened(FORM, events=events) as page:
        seen = does(page, "noop()")
        assert seen.tree() == (
            f"RootWebArea 'T', focused, url='{HOST}/'\n"
            "\t[1] heading 'Sign up', level='1'\n"
            "\t[2] textbox 'Name' value='', required\n"
            "\tStaticText 'Colour'\n"
            "\t[3] combobox 'Colour' value='red'\n"
            "\t\t[4] option 'red', selected='true'\n"
            "\t\t[5] option 'blue', selected='false'\n"
            "\t[6] checkbox 'News', checked='false'\n"
            "\t[7] Date 'Day' value=''\n"
            "\t[8] button 'Send'\n"
            "\t[9] button 'Never', disabled\n"
            "\t[10] paragraph ''\n\t\tStaticText 'Plain'\n\t\tStaticText 'text'\n"
            "\t[11] button 'Under'\n"
            "\t[12] generic '', color='white'"
        )
        seen = does(page, "fill('2', 'it\\'s')", "select_option('3', 'blue')", "check('6')", "fill('7', '2026-02-03')")
        assert "[7] Date 'Day' value='2026-02-03', focused" in seen.tree()
        seen = does(page, "check('6')", "click('8')")
        assert (seen.title, seen.error, seen.focused) == ("it's,b,true,2026-02-03", "", "8")
        seen = does(page, "clear('2')", "uncheck('6')", "select_option('3', 'r')", "click('8')")
        assert seen.title == ",r,false,2026-02-03"


@pytest.mark.parametrize("events", ["js", "trusted"])
@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("click('99')", 'there is no element "99"'),
        ("click('9')", 'the element "9" is disabled'),
        ("click('11')", 'the element "11" is covered by another, <div>'),
        ("fill('8', 'x')", 'the element "8" takes no text; it is a button'),
        ("fill('7', 'tomorrow')", 'does not take "tomorrow"; it takes a date such as 2000-12-31'),
        ("select_option('3', 'green')", 'the list "3" has no option "green"; it has "red", "blue"'),
        ("select_option('3', ['red', 'blue'])", 'the list "3" takes one option; got 2'),
        ("select_option('8', 'red')", 'the element "8" is no list'),
        ("check('8')", 'the element "8" is no box to tick'),
        ("click('4')", 'an option is chosen by select_option("3", "red")'),
        ("press('2', 'Foo')", "there is no key 'Foo'"),
        ("goto('http://pages.test/')", "goto is not possible here"),
        ("tab_close()", "tab_close is not possible here"),
    ],
)
def test_what_cannot_be_done_is_told(form: dict[str, Page], events: Events, action: str, says: str) -> None:
    seen = does(form[events], action)
    assert says in seen.error and seen.text().endswith(f"Error from previous action: {seen.error}")


@pytest.fixture(scope="module")
def form():
    with opened(FORM, events="js") as one, opened(FORM, events="trusted") as two:
        does(one, "noop()")
        does(two, "noop()")
        yield {"js": one, "trusted": two}


def test_an_element_that_went_is_told() -> None:
    with opened("<button onclick='this.remove()'>A</button>") as page:
        assert does(page, "click('1')", "click('1')").error == 'the element "1" is no longer on the page'


def test_new_elements_get_new_ids() -> None:
    with opened("<button onclick=\"this.insertAdjacentHTML('beforebegin', '<a href=#>L</a>')\">A</button>") as page:
        assert "\t[2] link 'L'\n\t[1] button 'A'" in does(page, "click('1')").tree()


HANDS = """
<div id=a draggable=false style="position:absolute;left:10px;top:10px;width:40px;height:40px;background:red"></div>
<div id=b style="position:absolute;left:200px;top:100px;width:40px;height:40px;background:blue"></div>
<input id=i style="position:absolute;top:200px">
<div id=s style="position:absolute;top:260px;height:50px;width:100px;overflow:auto"><div style="height:900px">x</div></div>
<script>
const log = [];
const note = (event) => log.push(event.type + event.target.id + event.isTrusted + (event.shiftKey ? "S" : ""));
for (const type of ["mousedown", "mouseup", "dblclick", "contextmenu", "mouseover"])
  for (const e of [a, b]) e.addEventListener(type, note);
i.addEventListener("keydown", (event) => log.push("key" + event.key));
s.addEventListener("scroll", () => log.push("scroll" + s.scrollTop));
__agentrl.more = () => log.splice(0);
</script>
"""


@pytest.mark.parametrize(
    ("action", "log"),
    [
        ("drag_and_drop('1', '2')", ["mouseoveratrue", "mousedownatrue", "mouseoverbtrue", "mouseupbtrue"]),
        (
            "mouse_drag_and_drop(30, 30, 220, 120)",
            ["mouseoveratrue", "mousedownatrue", "mouseoverbtrue", "mouseupbtrue"],
        ),
        ("hover('2')", ["mouseoverbtrue"]),
        ("mouse_move(220, 120)", ["mouseoverbtrue"]),
        ("mouse_click(30, 30)", ["mouseoveratrue", "mousedownatrue", "mouseupatrue"]),
        ("mouse_click(30, 30, 'right')", ["mouseoveratrue", "mousedownatrue", "contextmenuatrue", "mouseupatrue"]),
        (
            "click('1', 'left', ['Shift'])",
            ["mouseoverafalseS", "mousedownafalseS", "mouseupafalseS"],
        ),
        (
            "dblclick('1')",
            ["mouseoverafalse", *["mousedownafalse", "mouseupafalse"] * 2, "dblclickafalse"],
        ),
        ("press('3', 'Control+a')", ["keyControl", "keya"]),
        ("keyboard_press('Enter')", []),
        ("noop()", []),
    ],
)
def test_hands(action: str, log: list[str]) -> None:
    with opened(HANDS) as page:
        assert does(page, action).more == log


def test_scrolling_is_seen_by_the_page() -> None:
    with opened(HANDS) as page:
        assert "scroll40" in does(page, "mouse_move(20, 280)", "scroll(0, 40)").more
        assert does(page, "click('3')", "keyboard_type('Hi')").more[-2:] == ["keyH", "keyi"]


# ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

CLOCK = """
<button onclick="setTimeout(() => t.textContent = 'late', 700)">A</button><p id=t>early</p><p id=u></p>
<script>
let n = 0;
setInterval(() => u.textContent = ++n + ' ' + new Date().toISOString(), 100);
requestAnimationFrame(function again() { requestAnimationFrame(again); });
</script>
"""


def test_a_virtual_clock_moves_with_actions_only() -> None:
    with opened(CLOCK) as page:
        first = does(page, "click('1')")
        assert "early" in first.tree() and "'5 2026-01-01T00:00:00.500Z'" in first.tree()
        assert "late" not in does(page, "noop(150)").tree()
        assert "late" in does(page, "noop(50)").tree()
        again = page.run(page.start(f"{HOST}/", fresh=True))
        assert "early" in again.tree()
        assert does(page, "click('1')").tree() == first.tree()


def test_a_real_clock_goes_on() -> None:
    with opened(CLOCK, clock="real", step_ms=0) as page:
        does(page, "click('1')")
        assert "late" in does(page, "noop(1500)").tree()


def test_a_wait_is_bounded_and_never_goes_back() -> None:
    with opened(CLOCK) as page:
        assert "T00:00:09.900Z" in does(page, "noop(9950)").tree()
        assert "T00:00:09.900Z" in does(page, "noop(-5000)").tree()
        assert "T00:00:19.900Z" in does(page, "noop(1000000)").tree()


# ── what is reached ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_page_reaches_nothing_but_what_is_served(tmp_path: Path) -> None:
    secret = tmp_path / "secret.html"
    secret.write_text("<script>parent.postMessage('read', '*')</script>")
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        reached: list[str] = []
        here, udp = listener.getsockname()[1], datagrams.getsockname()[1]
        threading.Thread(target=lambda: _accepts(listener, reached), daemon=True).start()
        body = f"""
        <img src="http://127.0.0.1:{here}/img"><script src="http://localhost:{here}/js"></script>
        <link rel=preconnect href="http://127.0.0.1:{here}"><link rel=prefetch href="http://127.0.0.1:{here}/p">
        <iframe src="file://{secret}"></iframe><iframe src="http://127.0.0.1:{here}/frame"></iframe>
        <script>
        window.told = [];
        const note = (what) => told.push(what);
        addEventListener("message", (event) => note(event.data));
        fetch("http://127.0.0.1:{here}/f").then(() => note("fetched"), () => note("no fetch"));
        fetch("file://{secret}").then(() => note("file"), () => note("no file"));
        navigator.sendBeacon("http://127.0.0.1:{here}/beacon", "x");
        const socket = new WebSocket("ws://127.0.0.1:{here}/ws");
        socket.onopen = () => note("socket"); socket.onerror = () => note("no socket");
        const events = new EventSource("http://127.0.0.1:{here}/events"); events.onopen = () => note("events");
        const peer = new RTCPeerConnection({{ iceServers: [{{ urls: "stun:127.0.0.1:{udp}" }}] }});
        peer.createDataChannel("x"); peer.createOffer().then((offer) => peer.setLocalDescription(offer));
        peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && note("gathered");
        __agentrl.more = () => told;
        </script><a href="http://127.0.0.1:{here}/link">L</a>"""
        with opened(body, clock="real", follows=True) as page:
            wanted = {"no fetch", "no file", "no socket", "gathered"}
            told = _until(lambda: does(page, "noop(20)").more, lambda found: wanted <= set(found))
            assert wanted <= set(told) and not {"fetched", "file", "socket", "events", "read"} & set(told)
            seen = does(page, f"click('{bid(does(page, 'noop(1)'), 'L')}')")
            assert seen.url == f"{HOST}/"
            assert "cannot be opened" in does(page, f"goto('http://127.0.0.1:{here}/goto')").error
            assert "cannot be opened" in does(page, f"goto('file://{secret}')").error
            assert any(url.startswith("file://") for url in page.refused)
        datagrams.setblocking(False)
        with pytest.raises(BlockingIOError):
            datagrams.recv(1)
        assert reached == []


def _accepts(listener: socket.socket, reached: list[str]) -> None:
    try:
        while True:
            reached.append(str(listener.accept()[1]))
    except OSError:  # the test is over
        return


def _until(ask: Callable, enough: Callable[[object], bool]):
    deadline = time.monotonic() + 60
    found = ask()
    while not enough(found) and time.monotonic() < deadline:
        found = ask()
    return found


def test_a_folder_serves_what_is_in_it_only(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a.html").write_text("A")
    (tmp_path / "b.html").write_text("B")
    (inside / "link.html").symlink_to(tmp_path / "b.html")
    answer = folder(inside)

    def served_at(path: str, method: str = "GET", scheme: str = "http") -> Reply | None:
        return asyncio.run(answer(f"{scheme}://x{path}", method, None))

    found = served_at("/a.html?q=1")
    assert found == Reply(b"A", "text/html; charset=utf-8")
    for path in ("/../b.html", "/%2e%2e/b.html", "//b.html", "/link.html", "/", "/c.html"):
        assert served_at(path) is None
    assert served_at("/a.html", "POST") is None and served_at("/a.html", scheme="file") is None


def test_pages_follow_links_where_they_may() -> None:
    needs_chromium()
    pages = {
        "/": "<title>A</title><a href=/b>B</a><form action=/c><button>C</button></form>",
        "/b": "<title>B</title>b",
    }
    for follows, title in ((True, "B"), (False, "A")):
        page = Page(served(pages), follows=follows, clock="real", step_ms=0)
        try:
            page.run(page.start(f"{HOST}/"))
            assert does(page, "click('1')").title == title
            if follows:
                assert does(page, "go_back()").title == "A"
                assert does(page, "click('3')").title == "A" and page.refused  # /c is not served
        finally:
            page.shut()


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_crashed_page_costs_one_retry() -> None:
    with opened("<button onclick='document.title += this.textContent'>A</button>") as page:
        does(page, "click('1')", "click('1')")
        with pytest.raises(PageLost):
            page.run(_crash(page))
        assert does(page, "click('1')").title == "TAAA" and page.n_retries == 1
        assert does(page, "click('1')").title == "TAAAA" and page.n_retries == 1


async def _crash(page: Page) -> None:
    gone = asyncio.Event()
    page.playwright.on("crash", lambda _: gone.set())
    moving = asyncio.ensure_future(page.playwright.goto("chrome://crash"))
    await asyncio.wait_for(gone.wait(), 30)
    moving.cancel()
    await asyncio.gather(moving, return_exceptions=True)
    await page.evaluate("1")


def test_a_page_that_hangs_once_is_opened_again_and_one_that_hangs_twice_is_a_fault() -> None:
    needs_chromium()
    n_served = 0

    async def answer(url: str, _method: str, _body: bytes | None) -> Reply | None:
        nonlocal n_served
        n_served += 1
        hangs = "while (true) {}" if n_served == 1 else "document.title = 'clicked'"
        return Reply(f"<button onclick=\"{hangs}\">A</button><button onclick='for(;;);'>B</button>".encode())

    page = Page(answer, timeout_s=3.0)
    try:
        page.run(page.start(f"{HOST}/"))
        assert does(page, "click('1')").title == "clicked" and page.n_retries == 1
        with pytest.raises(EnvFault, match="did not answer for 3 s"):
            does(page, "click('2')")
        assert page.run(page.start(f"{HOST}/")).title == ""  # and the next episode goes on
        assert does(page, "click('1')").title == "clicked"
    finally:
        page.shut()


def test_a_page_that_comes_back_as_another_is_a_fault() -> None:
    needs_chromium()
    n_served = 0

    async def answer(url: str, _method: str, _body: bytes | None) -> Reply | None:
        nonlocal n_served
        n_served += 1
        return Reply(f"<button>{n_served}</button>".encode())

    page = Page(answer)
    try:
        page.run(page.start(f"{HOST}/"))
        does(page, "click('1')")
        with pytest.raises(PageLost):
            page.run(_crash(page))
        with pytest.raises(EnvFault, match="action 0 now shows something else"):
            does(page, "click('1')")
    finally:
        page.shut()


def test_a_browser_that_dies_is_started_again() -> None:
    with opened("<button onclick='document.title += this.textContent'>A</button>") as page:
        does(page, "click('1')")
        page.run(Chromium.shared()._browser.close())
        assert does(page, "click('1')").title == "TAA" and page.n_retries == 1


def test_pages_serve_inside_a_running_event_loop() -> None:
    with opened("<button onclick='document.title += this.textContent'>A</button>") as page:

        async def play() -> list[str]:
            both = [asyncio.wrap_future(page.submit(page.act(parse("click('1')")))) for _ in range(1)]
            return [does(page, "click('1')").title, *[seen.title for seen in await asyncio.gather(*both)]]

        assert set(asyncio.run(play())) <= {"TA", "TAA"}


CHILD = """
import sys
sys.path[:0] = {path!r}
from toy_browser import opened, does
with opened("<p>A</p>") as page:
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["ends", "SIGINT", "SIGTERM", "SIGKILL"])
def test_no_browser_outlives_its_process(how: str) -> None:
    needs_chromium()
    program = CHILD.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[1])])
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        assert child.stdout is not None and child.stdin is not None
        assert child.stdout.readline() == b"open\n"
        family = _below(child.pid)
        assert any("chrom" in name for name in family.values())
        if how == "ends":
            child.stdin.close()
        else:
            os.kill(child.pid, getattr(signal, how))
        child.wait(60)
    left = _until(lambda: [pid for pid in family if _name(pid) == family[pid]], lambda found: not found)
    assert left == []


def _name(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return "" if text.rpartition(")")[2].split()[0] == "Z" else text[text.index("(") + 1 : text.rindex(")")]


def _below(pid: int) -> dict[int, str]:
    """Every process below one: number -> name."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return {one: _name(one) for one in found - {pid}}


def test_a_missing_browser_says_what_installs_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AGENTRL_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    monkeypatch.setattr("agentrl.browsers._APPLICATIONS", ())
    pytest.importorskip("playwright")
    with pytest.raises(ConfigError, match=r"apt-get install chromium.*playwright install chromium"):
        Chromium()


@pytest.mark.slow
def test_a_browser_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentrl.envs.browser import process

    monkeypatch.setattr(process, "OPEN_TIMEOUT_S", 3.0)
    with opened("<button onclick='document.title += this.textContent'>A</button>", timeout_s=3.0) as page:
        does(page, "click('1')")
        hung = [pid for pid, name in _below(os.getpid()).items() if "chrom" in name]
        for pid in hung:
            os.kill(pid, signal.SIGSTOP)
        assert does(page, "click('1')").title == "TAA" and page.n_retries == 1
        for pid in hung:  # the driver does it too, half a minute later
            if _name(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("name", ["chrom", "node"])
def test_a_browser_or_a_driver_that_is_killed_costs_one_retry(name: str) -> None:
    with opened("<button onclick='document.title += this.textContent'>A</button>") as page:
        does(page, "click('1')")
        os.kill(min(pid for pid, each in _below(os.getpid()).items() if name in each), signal.SIGKILL)
        assert does(page, "click('1')").title == "TAA" and page.n_retries == 1


def test_a_program_that_is_no_browser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("playwright")
    monkeypatch.setenv("AGENTRL_CHROMIUM", "/bin/true")
    monkeypatch.setattr(Chromium, "_shared", None)
    page = Page(served({"/": "A"}))
    try:
        with pytest.raises(EnvFault, match="the browser /bin/true does not start"):
            page.run(page.start(f"{HOST}/"))
    finally:
        Chromium.shared().close()
