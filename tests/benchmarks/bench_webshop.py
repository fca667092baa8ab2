"""How long shopping takes: a reset, a search, a click, a purchase, and the mean of all steps of an episode.

    python tests/benchmarks/bench_webshop.py [--json] [--products N]

``rows()`` gives one dictionary a measurement: ``name``, ``value`` and ``unit``; ``against`` names the peer, constants of
environments.md: the real engine with Lucene in Java (2-core x86-64 machine, Python 3.11); ``peer`` is its value in the same unit
and ``ratio`` = peer / ours. Where the real products are at hand ($AGENTRL_SHARED) the first sixty goals of the published order
are played by the oracle, whose query is the whole instruction; generated shops are measured besides. Medians, but for the mean of
all steps: processor time, so that a busy machine does not slow it down.

``--products N`` measures a generated catalogue of so many products instead: seconds to build it, peak memory, and a search.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

from agentrl.env import shared_folder
from agentrl.envs.webshop.catalogue import catalogue_of
from agentrl.envs.webshop.env import WebShopEnv
from agentrl.envs.webshop.generate import wares
from agentrl.seeding import stream

CONSTANT = "a constant: WebShop's engine with Lucene on a 2-core x86-64 machine"
RESET_MS, SEARCH_MS, ITEM_MS, OPTION_MS, BUY_MS = 3.0, 16.0, 20.0, 18.0, 10.0
N_GOALS, REPEATS = 60, 3


def kind_of(env: WebShopEnv, action: str) -> str:
    """What an action is: a search, or a click on a product, an option, "Buy Now" or another button."""
    if action.startswith("search["):
        return "search"
    piece = env._clickables[action[len("click[") : -1]]
    return "buy" if action == "click[buy now]" else {"link": "item", "option": "option"}.get(piece.kind, "other")


def played(env: WebShopEnv) -> dict[str, list[float]]:
    """Seconds of each step of the oracle's episodes, by kind."""
    found: dict[str, list[float]] = {"reset": [], "search": [], "item": [], "option": [], "buy": [], "other": []}
    for _ in range(REPEATS):
        for goal in range(N_GOALS):
            env.reset(options={"goal": goal})  # makes a generated shop, which the members of a group share
            began = time.process_time()
            env.reset(options={"goal": goal})
            found["reset"].append(time.process_time() - began)
            for action in env.oracle():
                kind = kind_of(env, action)
                began = time.process_time()
                env.step(action)
                found[kind].append(time.process_time() - began)
    return found


def row(name: str, seconds: float, peer: float | None) -> dict[str, Any]:
    """A measurement in milliseconds."""
    value = seconds * 1e3
    against = {"against": CONSTANT if peer else "nothing", "peer": peer, "ratio": peer / value if peer else None}
    return {"name": f"webshop: {name}", "value": value, "unit": "ms"} | against


def of_shop(env: WebShopEnv, shop: str) -> list[dict[str, Any]]:
    """The measurements in one shop; the mean of all steps first."""
    found = played(env)
    steps = [each for kind, times in found.items() if kind != "reset" for each in times]
    counts = {kind: len(times) for kind, times in found.items()}
    weighed = {"search": SEARCH_MS, "item": ITEM_MS, "option": OPTION_MS, "buy": BUY_MS, "other": SEARCH_MS}
    peer = sum(weighed[kind] * counts[kind] for kind in weighed) / len(steps)
    named = {"reset": RESET_MS, "search": SEARCH_MS, "item": ITEM_MS, "option": OPTION_MS, "buy": BUY_MS}
    rest = [row(f"{kind}, {shop}", statistics.median(found[kind]), ms) for kind, ms in named.items()]
    return [row(f"a step, the mean of all, {shop}", statistics.mean(steps), peer), *rest]


def rows() -> list[dict[str, Any]]:
    """The measurements, the main one first."""
    data = Path(shared_folder()) / "data" / "webshop"
    real = of_shop(WebShopEnv(data=data), "1,000 real products") if data.is_dir() else []
    generated = [of_shop(WebShopEnv(difficulty=level), f"generated, level {level}")[0] for level in ("tiny", "full")]
    return [*real, *generated]


def large(n: int) -> list[dict[str, Any]]:
    """A catalogue of ``n`` generated products: seconds to build it, peak memory in MiB, a search in ms."""
    began = time.process_time()
    catalogue = catalogue_of(wares(n))
    built = time.process_time() - began
    draw = stream(0, "bench", "webshop").integers
    searches = []
    for place in draw(n, size=60):
        product = catalogue.product(int(place))
        began = time.process_time()
        catalogue.index.search(f"Find me {' '.join(product.attributes)} {product.query} with size: large", 50)
        searches.append(time.process_time() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    name, nothing = f"webshop: {n:,} products", {"against": "nothing", "peer": None, "ratio": None}
    return [
        {"name": f"{name}, made and indexed", "value": built, "unit": "s"} | nothing,
        {"name": f"{name}, peak memory of the process", "value": peak, "unit": "MiB"} | nothing,
        {"name": f"{name}, a search", "value": statistics.median(searches) * 1e3, "unit": "ms"} | nothing,
    ]


def main() -> None:
    """Prints the rows, as JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--products", type=int, default=0)
    given = parser.parse_args()
    found = large(given.products) if given.products else rows()
    if given.json:
        print(json.dumps(found))
        return
    for each in found:
        faster = f"; {each['ratio']:.0f} x faster than {each['against']}" if each["ratio"] else ""
        print(f"{each['name']}: {each['value']:.3g} {each['unit']}{faster}")


if __name__ == "__main__":
    main()
