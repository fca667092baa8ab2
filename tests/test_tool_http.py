"""The tool ``http``: which addresses it asks, and what a server that means harm can do. Servers are real and local."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import ConfigError, ToolFault
from agentrl.tool import Recipe, ToolResult, tools_of
from agentrl.tools import http as module
from agentrl.tools.http import Http, Page, Refused, Rules, page_text, public

Answer = Callable[[http.server.BaseHTTPRequestHandler, bytes], None]


class Server:
    """A server on a free port; ``answers`` by path, ``seen`` is what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.seen.append((self.command, self.path, headers, body))
                try:
                    outer.answers[self.path.partition("?")[0]](self, body)
                except (BrokenPipeError, ConnectionResetError):  # the tool has heard enough
                    self.close_connection = True

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def servers() -> Iterator[Callable[[], Server]]:
    made: list[Server] = []

    def make() -> Server:
        made.append(Server())
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(servers: Callable[[], Server]) -> Server:
    return servers()


def says(content: bytes, kind: str = "text/plain", status: int = 200, **headers: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(status)
        handler.send_header("content-type", kind)
        handler.send_header("content-length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def ask(tools: Http, url: str, name: str = "http_get", **more: str) -> ToolResult:
    found = {one.name: one for one in tools.tools()}[name]
    return asyncio.run(found.call({"url": url, **more}))


def made(table: dict[str, object]) -> object:
    """The toolset of a run file's table."""
    recipe = tools_of(table)
    assert isinstance(recipe, Recipe)
    return recipe.make()


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_page_is_shown_as_text(server: Server) -> None:
    server.answers["/page"] = says(
        "<html><head><title>A&amp;B</title><script>evil()</script></head>"
        "<body><p>first\n line</p><p>sécond <b>bold</b></p></body></html>".encode(),
        "text/html; charset=utf-8",
    )
    result = ask(Http((server.host,)), f"http://{server.host}/page?q=1#part")
    assert result.error is None
    assert result.text == (f"200 http://{server.host}/page?q=1#part (text/html)\nA&B\nfirst line\nsécond bold")
    method, path, headers, _ = server.seen[0]
    assert (method, path, headers["host"]) == ("GET", "/page?q=1", server.host)
    assert "cookie" not in headers and "authorization" not in headers


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (Page("u", 404, "text/plain", "", b"no", False), "404 u (text/plain)\nno"),
        (Page("u", 200, "image/png", "", b"\x89PNG", False), "200 u (image/png)\n(no text: 4 bytes)"),
        (Page("u", 200, "", "", b"", False), "200 u (no content type)\n(no text: 0 bytes)"),
        (Page("u", 200, "text/plain", "latin-1", b"\xe9", False), "200 u (text/plain)\né"),
        (Page("u", 200, "text/plain", "zlib", b"x", False), "200 u (text/plain)\nx"),
        (Page("u", 200, "text/plain", "iso-8859-99", b"x", False), "200 u (text/plain)\nx"),
        (Page("u", 200, "text/plain", "", b"a\x1b[0m\xff", False), "200 u (text/plain)\na�[0m�"),
        (Page("u", 200, "application/json", "", b'{"a": 1}', False), '200 u (application/json)\n{"a": 1}'),
        (
            Page("u", 200, "text/plain", "", b"x" * 20, False),
            "200 u (text/plain)\nxxxxxxxxxx\n… (cut: the page is longer)",
        ),
        (Page("u", 200, "text/plain", "", b"x", True), "200 u (text/plain)\nx\n… (cut: the page is longer)"),
    ],
)
def test_page_text(page: Page, text: str) -> None:
    assert page_text(page, 10) == text


def test_post_only_where_it_is_allowed(server: Server) -> None:
    server.answers["/"] = says(b"taken")
    assert [one.name for one in Http((server.host,)).tools()] == ["http_get"]
    tools = Http((server.host,), methods=("POST",))
    assert [one.name for one in tools.tools()] == ["http_post"]
    assert ask(tools, f"http://{server.host}/", "http_post", body='{"é": 1}').text.endswith("taken")
    method, _, headers, body = server.seen[0]
    assert (method, body, headers["content-type"]) == ("POST", '{"é": 1}'.encode(), "application/json")
    wrong = ask(tools, f"http://{server.host}/", "http_post", body="x", content_type="a/b\r\nhost: evil")
    assert wrong.error == "tool" and len(server.seen) == 1


# ── which addresses ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.org", "https://EXAMPLE.org./x", "http://example.org:443/", "http://a.b.wide.net/"),
        *("http://port.org:8080/", "http://127.0.0.1:8000/", "http://[::1]:9000/", "http://[0:0::1]:9000/"),
    ],
)
def test_allowed(url: str) -> None:
    rules = Rules(("example.org", "*.wide.net", "port.org:8080", "127.0.0.1:8000", "[::1]:9000"))
    assert str(rules.url(url)) != ""


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com/", "http://example.org.evil.com/", "http://evilexample.org/", "http://wide.net/"),
        *("http://evilwide.net/", "http://example.org:8080/", "http://port.org/", "http://127.0.0.1/", "http://[::1]/"),
        *("http://127.0.0.1:8001/", "http://example.org@evil.com/", "http://evil.com#@example.org/"),
        *("http://user@example.org/", "http://user:word@example.org/", "http://evil.com\\@example.org/"),
        *("http://evil.com?@example.org", "ftp://example.org/", "file:///etc/passwd", "//example.org/", "example.org"),
        *("http:///x", "http://", "", "gopher://example.org", "http://example.org /", "http://exa\nmple.org/"),
        *(
            "http://example.org\r\nhost: evil.com/",
            "http://example.org:99999/",
            "http://example.org:x/",
            "http://[::1/",
        ),
        *("http://2130706433:8000/", "http://0x7f000001:8000/", "http://0177.0.0.1:8000/", "http://127.1:8000/"),
        *("http://0x7f.0.0.1:8000/", "http://127.0.0.1.:8000.1/", "http://[::ffff:127.0.0.1]:8000/"),
        *(
            "http://[fe80::1%25eth0]/",
            "http://example。com/",
            "http://exаmple.org/",
            "data:text/plain,x",
            "http://" + "a" * 2000,
        ),
    ],
)
def test_refused(url: str) -> None:
    rules = Rules(("example.org", "*.wide.net", "port.org:8080", "127.0.0.1:8000", "[::1]:9000"))
    with pytest.raises(Refused):
        rules.url(url)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://10.0.0.1/", "http://169.254.169.254/latest/meta-data", "http://192.168.1.1/"),
        *(
            "http://2130706433/",
            "http://0x7f.1/",
            "http://017700000001/",
            "http://127.1/",
            "http://0/",
            "http://0.0.0.0/",
        ),
        *("http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:a00:1]/", "http://[fe80::1]/"),
        *(
            "http://[fc00::1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://224.0.0.1/",
            "http://[ff02::1]/",
        ),
        *(
            "http://100.64.0.1/",
            "http://240.0.0.1/",
            "http://255.255.255.255/",
            "http://[2001:db8::1]/",
            "http://[::127.0.0.1]/",
        ),
        *("http://localhost/", "http://LOCALHOST./", "http://１２７.0.0.1/"),
    ],
)
def test_addresses_that_are_not_public_are_refused_though_all_hosts_are_allowed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("httpx.AsyncClient.send", lambda *_, **__: pytest.fail("it was asked"))
    result = ask(Http(("*",)), url)
    assert result.error == "tool", result


def test_public() -> None:
    for text in ("93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"):
        assert public(ipaddress.ip_address(text)), text
    for text in (
        "2001:0:7f00:1::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "64:ff9b::a00:1",
        "::ffff:0:1",
        "fec0::1",
        "192.88.99.1",
    ):
        assert not public(ipaddress.ip_address(text)), text


def resolver(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Names resolve to the answers in turn; what was asked is noted."""
    asked: list[str] = []

    async def resolve(name: str, port: int) -> list[Any]:
        asked.append(name)
        return [ipaddress.ip_address(text) for text in answers[min(len(asked), len(answers)) - 1]]

    monkeypatch.setattr(module, "resolve", resolve)
    return asked


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::ffff:127.0.0.1"], ["10.1.2.3"]]
)
def test_a_name_that_leads_inside_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    resolver(monkeypatch, addresses)
    result = ask(Http((f"evil.org:{server.port}", "127.0.0.2:80")), f"http://evil.org:{server.port}/")
    assert (result.error, server.seen) == ("tool", [])
    assert "no public address" in result.text


def test_a_name_is_resolved_once_and_that_address_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/"] = says(b"hello")
    asked = resolver(monkeypatch, ["127.0.0.1"], ["127.0.0.99"])
    result = ask(Http((f"named.org:{server.port}", server.host)), f"http://named.org:{server.port}/")
    assert result.text == f"200 http://named.org:{server.port}/ (text/plain)\nhello"
    assert asked == ["named.org"]
    assert server.seen[0][2]["host"] == f"named.org:{server.port}"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A key and a certificate for named.org that it signed itself."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = str(tmp_path / "key"), str(tmp_path / "certificate")
    line = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    line += ["-keyout", key, "-out", certificate]
    line += ["-days", "1", "-subj", "/CN=named.org", "-addext", "subjectAltName=DNS:named.org"]
    subprocess.run(line, capture_output=True, check=True)
    return key, certificate


def test_certificates_are_the_names_though_an_address_is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch, certificate: tuple[str, str]
) -> None:
    server.answers["/"] = says(b"hello")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate[1], certificate[0])
    server.server.socket = served.wrap_socket(server.server.socket, server_side=True)
    resolver(monkeypatch, ["127.0.0.1"])
    tools = Http((f"named.org:{server.port}", f"other.org:{server.port}", server.host))
    unknown = ask(tools, f"https://named.org:{server.port}/")
    assert "certificate verify failed: self-signed certificate" in unknown.text
    monkeypatch.setattr(module, "certificates", lambda: ssl.create_default_context(cafile=certificate[1]))
    assert ask(tools, f"https://named.org:{server.port}/").text.endswith("hello")
    assert "Hostname mismatch" in ask(tools, f"https://other.org:{server.port}/").text


def test_proxies_of_the_environment_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/"] = says(b"direct")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert ask(Http((server.host,)), f"http://{server.host}/").text.endswith("direct")


# ── redirects ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_redirects_are_checked_hop_by_hop(servers: Callable[[], Server]) -> None:
    first, second = servers(), servers()
    first.answers["/"] = says(b"", status=302, location=f"http://{second.host}/secret")
    second.answers["/secret"] = says(b"secret")
    closed = ask(Http((first.host,)), f"http://{first.host}/")
    assert closed.error == "tool" and "a redirect is not followed" in closed.text and second.seen == []
    opened = ask(Http((first.host, second.host)), f"http://{first.host}/")
    assert opened.text == f"200 http://{second.host}/secret (text/plain)\nsecret"


@pytest.mark.parametrize(
    "where",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://user@{host}/",
        "http://169.254.169.254/",
        "http://[",
        "http://0x7f.1/",
    ],
)
def test_redirects_to_what_may_not_be_asked(server: Server, where: str) -> None:
    server.answers["/"] = says(b"", status=301, location=where.format(host=server.host))
    result = ask(Http((server.host, "*")), f"http://{server.host}/")
    assert (result.error, len(server.seen)) == ("tool", 1)


def test_cookies_are_neither_taken_nor_sent(server: Server) -> None:
    server.answers["/"] = says(b"", status=302, location="/next", set_cookie="secret=1; path=/")
    server.answers["/next"] = says(b"done")
    assert ask(Http((server.host,)), f"http://{server.host}/").text.endswith("done")
    assert [("cookie" in headers) for _, _, headers, _ in server.seen] == [False, False]


@pytest.mark.parametrize("name", ["a" * 64 + ".org", "a..org", ".org"])
def test_what_can_be_no_name_is_refused(name: str) -> None:
    result = ask(Http(("*",)), f"http://{name}/")
    assert result.error == "tool" and "is no name of a host" in result.text


def test_redirects_have_an_end(server: Server) -> None:
    server.answers["/"] = says(b"", status=307, location="/")
    assert ask(Http((server.host,)), f"http://{server.host}/").text == "Error: more than 5 redirects"
    assert len(server.seen) == 6


@pytest.mark.parametrize(("status", "method", "body"), [(302, "GET", b""), (303, "GET", b""), (307, "POST", b"data")])
def test_what_a_redirect_makes_of_a_post(server: Server, status: int, method: str, body: bytes) -> None:
    server.answers["/"] = says(b"", status=status, location="/next")
    server.answers["/next"] = says(b"done")
    tools = Http((server.host,), methods=("GET", "POST"))
    assert ask(tools, f"http://{server.host}/", "http_post", body="data").text.endswith("done")
    assert (server.seen[1][0], server.seen[1][3]) == (method, body)


# ── size and time ────────────────────────────────────────────────────────────────────────────────────────────────────


def endless(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/plain")
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 10_000)


def test_a_page_without_end(server: Server) -> None:
    server.answers["/"] = endless
    result = ask(Http((server.host,), max_kb=20, max_chars=100), f"http://{server.host}/")
    assert result.text.endswith("x" * 100 + "\n… (cut: the page is longer)")


@pytest.mark.parametrize("pack", ["gzip", "deflate"])
def test_packed_pages(server: Server, pack: str) -> None:
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}[pack]
    server.answers["/"] = says(packed(b"small"), content_encoding=pack)
    server.answers["/bomb"] = says(packed(bytes(50 << 20)), content_encoding=pack)
    tools = Http((server.host,), max_kb=1000)
    assert ask(tools, f"http://{server.host}/").text.endswith("small")
    page = asyncio.run(tools._page("GET", tools.rules.url(f"http://{server.host}/bomb"), b"", ""))
    assert (len(page.content), page.cut) == (1_000_000, True)


def test_packed_wrongly_or_in_another_way(server: Server) -> None:
    server.answers["/wrong"] = says(b"no gzip at all", content_encoding="gzip")
    server.answers["/other"] = says(b"x", content_encoding="br")
    server.answers["/twice"] = says(b"x", content_encoding="gzip, gzip")
    for path, text in (("wrong", "packed wrongly"), ("other", "packed as 'br'"), ("twice", "packed as 'gzip, gzip'")):
        result = ask(Http((server.host,)), f"http://{server.host}/{path}")
        assert result.error == "tool" and text in result.text


def test_an_answer_that_takes_too_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the connection and says nothing
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        result = ask(Http((host,), timeout_s=0.3), f"http://{host}/")
        assert (result.error, result.text) == ("tool", "Error: the answer took longer than 0.3 s")


def test_drops_do_not_prolong_the_time(server: Server) -> None:
    stop = threading.Event()

    def dripping(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.02):
            handler.wfile.write(b"x")

    server.answers["/"] = dripping
    try:
        result = ask(Http((server.host,), timeout_s=0.5), f"http://{server.host}/")
        assert result.text == "Error: the answer took longer than 0.5 s"
    finally:
        stop.set()


def test_a_host_that_is_down_is_an_error_or_a_fault() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        host = f"127.0.0.1:{gone.getsockname()[1]}"
    assert "no answer: ConnectError" in ask(Http((host,)), f"http://{host}/").text
    with pytest.raises(ToolFault, match="http: no answer"):
        ask(Http((host,), down="fault"), f"http://{host}/")


def test_answers_that_are_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as odd:
        host = f"127.0.0.1:{odd.getsockname()[1]}"

        def serve() -> None:
            connection, _ = odd.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-server\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        result = ask(Http((host,)), f"http://{host}/")
        thread.join()
        assert result.error == "tool" and "RemoteProtocolError" in result.text


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hosts": []}, "wanted one entry at least"),
        ({"hosts": ["http://example.org"]}, r"'http://example\.org' is no host"),
        ({"hosts": ["example.org/x"]}, "is no host"),
        ({"hosts": ["a*.org"]}, "is no host"),
        ({"hosts": ["example.org:0"]}, "is no host"),
        ({"hosts": ["example.org"], "timeout_s": 0}, r"http\.timeout_s: wanted above 0; got 0"),
        ({"hosts": ["example.org"], "max_chars": 9000}, "wanted at most 7000"),
        ({"hosts": ["example.org"], "methods": ["PUT"]}, "methods"),
        ({}, r"tools\.Http\.hosts is missing"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made({"name": "http", **options})
