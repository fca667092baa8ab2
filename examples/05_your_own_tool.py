"""A tool is a typed function with a docstring: python examples/05_your_own_tool.py"""

import asyncio
from typing import Annotated, Literal

from pydantic import Field

from agentrl.tool import Toolset, tool


@tool
def convert(amount: Annotated[float, Field(ge=0)], unit: Literal["km", "miles"] = "km") -> float:
    """Converts a distance into metres.

    Args:
        amount: How much of the unit.
    """
    return amount * {"km": 1000.0, "miles": 1609.344}[unit]


class Notes(Toolset):
    """Tools with a state: each episode opens it anew."""

    def open(self, task: object) -> None:
        self.lines: list[str] = []

    @tool
    async def write(self, line: str) -> str:
        """Writes a line down."""
        self.lines.append(line)
        return f"{len(self.lines)} lines"


if __name__ == "__main__":
    print(convert(2.0))
    print(convert.schema()["function"]["parameters"])
    for arguments in ({"amount": 1, "unit": "miles"}, {"amount": -1, "unit": "feet"}):
        print(asyncio.run(convert.call(arguments)).text)
