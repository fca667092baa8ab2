"""``http_get`` and ``http_post``: pages of hosts that the user named, as text.

    [env.options]
    tools = [{ name = "http", hosts = ["example.org", "*.wikipedia.org", "127.0.0.1:8000"] }]

``hosts`` says what is reached: a name (its ports 80 and 443), ``*.name`` (what stands below it), ``name:port``, an address, or
``*`` (all the internet). An address that is not public (this machine, private and link-local networks, whatever way it is
written or embedded) is reached only where ``hosts`` names that address and port itself, also when it is what a name
resolves to: a name's owner decides what it resolves to. Each hop of a redirect is checked like the first address. A name is
resolved once a hop, all its addresses are checked, and one of those is connected to, so a second answer of the name server
plays no part. There are no proxies, no cookies and no credentials.

Not covered: what an allowed host itself does with a request, and what of the outside it mirrors.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import socket
import ssl
import zlib
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, ClassVar, Literal

import httpx

from agentrl.errors import ConfigError, ToolError, ToolFault
from agentrl.tool import Tool, Toolset, register_tool, tool
from agentrl.tools.pages import Page, page_text

__all__ = ["Http", "Rules", "page_text"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
MAX_URL_CHARS = 2000
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
RELAYS = ipaddress.IPv4Network("192.88.99.0/24")  # of 6to4, given up (RFC 7526)
ENTRY = re.compile(r"(?P<name>\*|\[[0-9a-f:.]+\]|(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?)(:(?P<port>\d{1,5}))?")


class Refused(ToolError):
    """An address that may not be asked."""


class Rules:
    """Which addresses may be asked. Raises ConfigError for an entry that is none."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self.entries: list[tuple[str, int | None]] = []
        for entry in hosts:
            match = ENTRY.fullmatch(entry.lower())
            if match is None or int(match["port"] or 1) not in range(1, 65536):
                raise ConfigError(
                    f"http.hosts: {entry!r} is no host; wanted 'example.org', '*.example.org', 'example.org:8080', "
                    "'127.0.0.1:8000', '[::1]:8000' or '*', without scheme and path"
                )
            self.entries.append((match["name"].strip("[]"), int(match["port"]) if match["port"] else None))

    def url(self, text: str) -> httpx.URL:
        """The parsed address. Raises Refused for one that may not be asked, whatever it resolves to."""
        if len(text) > MAX_URL_CHARS or re.search(r"[\s\\\x00-\x1f\x7f]", text):
            raise Refused(f"a URL has {MAX_URL_CHARS} characters at most, no spaces and no backslashes")
        try:
            url = httpx.URL(text)
            name, port = host_of(url), port_of(url)
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise Refused(f"{text!r} is no URL: {error}") from error
        if url.scheme not in PORTS or not name:
            raise Refused(f"wanted a URL that begins with http:// or https://; got {text!r}")
        if url.userinfo:
            raise Refused("a URL with a user name in it is not asked")
        if address(name) is None and re.search(r"(^|\.)(0x[0-9a-f]*|\d+)$", name):
            raise Refused(f"{name} is an address in a form that is not asked; write four decimal numbers")
        if not self._named(name, port, port in PORTS.values()):
            raise Refused(f"{name}:{port} is not among the allowed hosts: {', '.join(self.shown()) or 'none'}")
        return url

    def reachable(self, found: Address, port: int) -> bool:
        """Whether an address that a name resolved to may be connected to."""
        return public(found) or self._named(str(found), port, port in PORTS.values(), patterns=False)

    def _named(self, name: str, port: int, usual: bool, patterns: bool = True) -> bool:
        for entry, entry_port in self.entries:
            if entry_port != port and (entry_port is not None or not usual):
                continue
            if entry == name or (address(name) is not None and address(entry) == address(name)):
                return True
            below = entry.startswith("*.") and name.endswith(entry[1:]) and address(name) is None
            if patterns and (entry == "*" or below):
                return True
        return False

    def shown(self) -> list[str]:
        """The entries, as the user wrote them."""
        return [name if port is None else f"{name}:{port}" for name, port in self.entries]


def host_of(url: httpx.URL) -> str:
    """The host's name in lower case and in its ASCII form, without the dot that may end it."""
    return url.raw_host.decode("ascii").lower().rstrip(".").strip("[]")


def port_of(url: httpx.URL) -> int:
    """The port, also where it is the scheme's own."""
    return url.port or PORTS.get(url.scheme, 0)


def address(text: str) -> Address | None:
    """An address in its plain form; None for anything else."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def public(found: Address) -> bool:
    """Whether it is an address of the internet, and what is embedded in it too."""
    if isinstance(found, ipaddress.IPv6Address):
        embedded = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in NAT64:
            embedded.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
        if not all(public(inner) for inner in embedded if inner is not None):
            return False
        if found.ipv4_mapped is not None or found in NAT64:
            return True
        if found.is_site_local:  # private once; Python counts it as global
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved and found not in RELAYS


async def resolve(name: str, port: int) -> list[Address]:
    """All addresses of a name. Raises OSError where it has none, Refused for what can be no name."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a part of it is empty, or longer than 63 characters
        raise Refused(f"{name[:100]} is no name of a host") from error
    return list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


@functools.cache
def certificates() -> ssl.SSLContext:
    """Which servers are believed; loading them takes longer than a page."""
    return ssl.create_default_context()


@register_tool
@dataclass
class Http(Toolset):
    """The tools ``http_get`` and, where ``methods`` has "POST", ``http_post``. ``hosts``: see the module. ``timeout_s`` is for a
    whole call, redirects included; ``max_kb`` for the content, packed or unpacked: what comes after it is not read;
    ``max_chars`` of it are shown. ``down``: whether a host that cannot be reached is an "error" that the model sees, or a
    "fault" (of a server of the user's own), after which the episode is played again.

    Raises ConfigError for options that cannot be used.
    """

    hosts: tuple[str, ...]
    methods: tuple[Literal["GET", "POST"], ...] = ("GET",)
    timeout_s: float = 10.0
    max_kb: int = 1000
    max_chars: int = 6000
    down: Literal["error", "fault"] = "error"
    lifetime: ClassVar[Literal["episode", "task", "run"]] = "run"

    def __post_init__(self) -> None:
        self.rules = Rules(self.hosts)
        if not self.hosts or not self.methods:
            raise ConfigError("http.hosts and http.methods: wanted one entry at least; got none")
        for name in ("timeout_s", "max_kb", "max_chars"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"http.{name}: wanted above 0; got {getattr(self, name):g}")
        if self.max_chars > 7000:
            raise ConfigError(f"http.max_chars: wanted at most 7000; got {self.max_chars}")

    def tools(self) -> list[Tool]:
        """One for each allowed method."""
        return [one for one in super().tools() if one.name.removeprefix("http_").upper() in self.methods]

    @tool
    async def http_get(self, url: str) -> str:
        """Gets a page from the web and gives it as text.

        Args:
            url: The whole address, with http:// or https://.
        """
        return await self._shown("GET", url, b"", "")

    @tool
    async def http_post(self, url: str, body: str, content_type: str = "application/json") -> str:
        """Sends a text to an address of the web and gives the answer as text.

        Args:
            url: The whole address, with http:// or https://.
            body: What is sent.
            content_type: What kind of text it is.
        """
        if not re.fullmatch(r"[\w.+-]+/[\w.+-]+(; *charset=[\w-]+)?", content_type, re.ASCII):
            raise ToolError(f"content_type: wanted one such as application/json; got {content_type!r}")
        try:
            data = body.encode()
        except UnicodeEncodeError as error:
            raise ToolError(f"body: it is no text: {error}") from error
        return await self._shown("POST", url, data, content_type)

    async def fetch(
        self, method: str, url: str, body: bytes, content_type: str = "application/x-www-form-urlencoded"
    ) -> Page:
        """The answer itself, for other tools, within ``timeout_s``. Raises Refused, ToolError, httpx.HTTPError, OSError."""
        if method not in self.methods:
            raise ToolError(f"{method} is not allowed here")
        async with asyncio.timeout(self.timeout_s):
            return await self._page(method, self.rules.url(url), body, content_type)

    async def _shown(self, method: str, url: str, body: bytes, content_type: str) -> str:
        if method not in self.methods:
            raise ToolError(f"{method} is not allowed here")
        limit = asyncio.timeout(self.timeout_s)
        try:
            async with limit:
                page = await self._page(method, self.rules.url(url), body, content_type)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise self._down(f"the answer took longer than {self.timeout_s:g} s") from error
        except (httpx.HTTPError, OSError) as error:
            raise self._down(f"no answer: {type(error).__name__}: {error}") from error
        return page_text(page, self.max_chars)

    def _down(self, message: str) -> Exception:
        return ToolFault(f"http: {message}") if self.down == "fault" else ToolError(message)

    async def _page(self, method: str, url: httpx.URL, body: bytes, content_type: str) -> Page:
        """The answer behind all redirects. Raises Refused, httpx.HTTPError and OSError."""
        jar = CookieJar(DefaultCookiePolicy(allowed_domains=()))  # no cookie is taken, so none is sent to the next hop
        async with httpx.AsyncClient(
            verify=certificates(), trust_env=False, timeout=self.timeout_s, cookies=jar
        ) as client:
            for _ in range(MAX_REDIRECTS + 1):
                request = await self._request(client, method, url, body, content_type)
                response = await client.send(request, stream=True, follow_redirects=False)
                try:
                    onward = response.headers.get("location") if response.status_code in REDIRECTS else None
                    if onward is None:
                        content, cut = await self._content(response)
                        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                        charset = response.charset_encoding or ""
                        return Page(str(url), response.status_code, kind, charset, content, cut)
                finally:
                    await response.aclose()
                url = self._next(url, onward)
                if response.status_code == 303 or (response.status_code in (301, 302) and method == "POST"):
                    if "GET" not in self.methods:
                        raise Refused("a redirect asks for GET, which is not allowed here")
                    method, body = "GET", b""
        raise ToolError(f"more than {MAX_REDIRECTS} redirects")

    def _next(self, url: httpx.URL, onward: str) -> httpx.URL:
        try:
            joined = str(url.join(onward))
        except (httpx.InvalidURL, ValueError) as error:
            raise Refused(f"a redirect leads to what is no URL: {onward[:200]!r}") from error
        try:
            return self.rules.url(joined)
        except Refused as error:
            raise Refused(f"a redirect is not followed: {error}") from error

    async def _request(
        self, client: httpx.AsyncClient, method: str, url: httpx.URL, body: bytes, content_type: str
    ) -> httpx.Request:
        """The request to one address of the host, which keeps its name for the server and its certificate."""
        name, port = host_of(url), port_of(url)
        literal = address(name)
        found = [literal] if literal is not None else await resolve(name, port)
        for one in found:
            if not self.rules.reachable(one, port):
                raise Refused(
                    f"{name} leads to {one}, which is no public address" if literal is None else f"{one} is not public"
                )
        chosen = next((one for one in found if isinstance(one, ipaddress.IPv4Address)), found[0])
        headers = {
            "host": url.netloc.decode("ascii"),
            "user-agent": "agentrl",
            "accept": "text/*, application/json;q=0.9, */*;q=0.1",
            "accept-encoding": "gzip, deflate, identity",
        }
        if method == "POST":
            headers["content-type"] = content_type
        return client.build_request(
            method,
            url.copy_with(host=str(chosen), fragment=None),
            headers=headers,
            content=body if method == "POST" else None,
            extensions={"sni_hostname": name},
        )

    async def _content(self, response: httpx.Response) -> tuple[bytes, bool]:
        """What fits of the content, and whether there is more."""
        limit = self.max_kb * 1000
        unpack = unpacker(response.headers.get("content-encoding", ""))
        content, n_came = bytearray(), 0
        async for raw in response.aiter_raw():
            n_came += len(raw)
            try:  # a few bytes may stand for any number: never more than what may still come is unpacked
                content += raw if unpack is None else unpack.decompress(raw, limit + 1 - len(content))
            except zlib.error as error:
                raise ToolError(f"the answer is packed wrongly: {error}") from error
            if max(len(content), n_came) > limit:
                return bytes(content[:limit]), True
        return bytes(content), False


def unpacker(encoding: str) -> Any:
    """What unpacks such content; None: it is not packed. Raises ToolError for what was not asked for."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ToolError(f"the answer is packed as {encoding[:50]!r}, which was not asked for")
    return zlib.decompressobj(zlib.MAX_WBITS | 32)
