"""A server of the Model Context Protocol for tests: ``python mcp_server.py`` (stdio), ``… http PORT``."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

server = MCPServer("test", log_level="CRITICAL")
counted: list[int] = []


class Place(BaseModel):
    name: str
    floor: int = Field(ge=0)


class Plan(BaseModel):
    title: str
    places: list[Place]


@server.tool()
def add(a: int, b: int = 0) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def visit(plan: Plan, quickly: bool = False) -> str:
    """Visits all places of a plan."""
    return f"{plan.title}: {', '.join(place.name for place in plan.places)}"


@server.tool()
def fail(why: str) -> str:
    """Fails."""
    raise ToolError(why)


@server.tool()
async def hang() -> str:
    """Never answers."""
    await asyncio.Event().wait()
    return "never"


@server.tool()
async def block() -> str:
    """Stops the whole server."""
    time.sleep(1000)
    return "never"


@server.tool()
async def die() -> str:
    """Ends the server at once."""
    print("dying now", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def echo(text: str) -> str:
    """Says it again."""
    return text


@server.tool()
def huge(n: int) -> str:
    """Gives a long text."""
    return "ä" * n


@server.tool()
def picture() -> Image:
    """Gives a picture."""
    return Image(data=b"123456", format="png")


@server.tool()
def count() -> int:
    """How often it was called."""
    counted.append(1)
    return len(counted)


@server.tool()
def variable(name: str) -> str:
    """A variable of the server's environment."""
    return os.environ.get(name, "(none)")


@server.tool(name="spaced name/é")
def strange(self: str) -> str:
    """Has a name that models cannot call."""
    return self


if __name__ == "__main__":
    if len(sys.argv) == 3:
        server.run("streamable-http", port=int(sys.argv[2]))
    else:
        server.run()
