"""A server of the Model Context Protocol in a few lines, without the SDK, that does what a mode (its argument) says: it starts
in milliseconds, and may break the protocol in ways that the SDK does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

MODE = sys.argv[1]
TOOLS: list[dict[str, Any]] = [
    {"name": name, "description": f"Does {name}.", "inputSchema": {"type": "object"}} for name in ("one", "two")
]
CONTENT: dict[str, Any] = {
    "mixed": {
        "content": [
            {"type": "text", "text": "first"},
            {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"},
            {"type": "resource_link", "uri": "file:///a.txt", "name": "a"},
            {"type": "resource", "resource": {"uri": "file:///b.txt", "text": "inside"}},
            {"type": "resource", "resource": {"uri": "file:///c", "blob": "AAAAAAAA"}},
            {"type": "text", "text": "last"},
        ]
    },
    "structured": {"content": [], "structuredContent": {"a": ["é", 1]}},
    "nothing": {"content": []},
    "broken result": {"content": "text"},
}


def send(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        about = {"name": "small", "version": "1"}
        result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
        return {"result": result}
    if method == "tools/list":
        more = {"nextCursor": "more"} if MODE == "endless list" else {}
        return {"result": {"tools": listed(), **more}}
    if method == "tools/call":
        return called(params)
    return {"error": {"code": -32601, "message": "no such method"}}


def listed() -> list[dict[str, Any]]:
    if MODE == "bad schema":
        return [{"name": "one", "inputSchema": {"type": "object", "properties": {"a": {"type": "numeral"}}}}]
    if MODE == "same names":
        return [{**TOOLS[0], "name": name} for name in ("a b", "a/b")]
    if MODE == "bare":
        return [{"name": "1st", "inputSchema": {"type": "object"}}]
    if MODE == "open schema":
        inner = {"$ref": "https://example.invalid/schema.json"}
        return [{"name": "one", "inputSchema": {"type": "object", "properties": {"a": inner}}}]
    return TOOLS


def called(params: dict[str, Any]) -> dict[str, Any]:
    if MODE == "pid":
        return {"result": {"content": [{"type": "text", "text": str(os.getpid())}]}}
    if MODE == "refuses":
        return {"error": {"code": int(params["arguments"]["code"]), "message": "not like this"}}
    if MODE == "garbage":
        os.write(1, b'this is { no JSON\n\xff\xfe\n[]\n{"jsonrpc": "2.0", "id": 99, "result": {}}\n')
    return {"result": CONTENT.get(MODE, {"content": [{"type": "text", "text": json.dumps(params["arguments"])}]})}


def cling() -> None:
    """Ignores every polite way to end, as does what it starts, which leaves its session."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
    child = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
    with open(sys.argv[2], "w") as file:
        file.write(f"{os.getpid()} {child.pid}\n")


def main() -> None:
    if MODE == "dies":
        print("no licence\nfor this", file=sys.stderr, flush=True)
        sys.exit(4)
    if MODE == "mute":
        print("waiting for nothing", file=sys.stderr, flush=True)
    if MODE == "only garbage":
        os.write(1, b"Welcome to the server!\n" * 1000)
    if MODE == "clings":
        cling()
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message and MODE not in ("mute", "only garbage"):
            send({"id": message["id"], **answer(message["method"], message.get("params", {}))})
    if MODE == "clings":
        time.sleep(1000)


main()
