"""The trees of the study of credit: each the smallest in which one question can be answered."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentrl.algorithms.rewards.stratum import Stratum
from agentrl.study.tree import TreeMDP, to, win


@dataclass(frozen=True)
class Scenario:
    """A tree, what it is for, and by what its trajectories are stratified."""

    name: str
    question: str  # one sentence
    tree: TreeMDP
    stratum: Stratum = field(default_factory=lambda: Stratum(by="turns"))


def scenarios() -> list[Scenario]:
    """All of them, in the order of the report."""
    return [chain(), tasks(), lengths(), stop(), search(), rooms()]


def chain() -> Scenario:
    """Three turns always, and one outcome of 0 or 1."""
    tree = TreeMDP(
        {
            "q": {"a": to("a"), "b": to("b")},
            "a": {"a": to("aa"), "b": to("ab")},
            "b": {"a": to("ba"), "b": to("bb")},
            "aa": {"a": win(0.9), "b": win(0.6)},
            "ab": {"a": win(0.6), "b": win(0.3)},
            "ba": {"a": win(0.5), "b": win(0.6)},
            "bb": {"a": win(0.1), "b": win(0.4)},
        },
        start={"q": 1.0},
        logits={("q", "b"): 0.4, ("a", "b"): -0.3, ("aa", "a"): 0.5},
    )
    return Scenario(
        "chain", "Three turns, one outcome of 0 or 1: is broadcasting it biased, and how noisy is it?", tree
    )


def tasks() -> Scenario:
    """An easy and a hard task; a group is of one of them."""
    tree = TreeMDP(
        {
            "easy": {"a": to("easy2"), "b": ((0.8, 0.0, "easy2"), (0.2, 0.0, None))},
            "easy2": {"a": win(0.98), "b": win(0.86)},
            "middle": {"a": to("middle2"), "b": ((0.7, 0.0, "middle2"), (0.3, 0.0, None))},
            "middle2": {"a": win(0.75), "b": win(0.45)},
            "hard": {"a": to("hard2"), "b": ((0.5, 0.0, "hard2"), (0.5, 0.0, None))},
            "hard2": {"a": win(0.12), "b": win(0.04)},
        },
        start={"easy": 1 / 3, "middle": 1 / 3, "hard": 1 / 3},
        logits={("easy", "a"): 0.7, ("easy2", "a"): 0.5},
    )
    return Scenario(
        "tasks", "Tasks of three difficulties: does the division by a group's std change the direction?", tree
    )


def lengths() -> Scenario:
    """Five turns in a room that always looks the same: to search, to wander about, or to end it all by a guess."""
    n_turns = 5
    nodes = {}
    for turn in range(n_turns):
        after = f"room{turn + 1}" if turn + 1 < n_turns else None
        nodes[f"room{turn}"] = {
            "search": ((0.30, 1.0, None), (0.70, 0.0, after)),
            "wander": ((0.02, 1.0, None), (0.98, 0.0, after)),
            "guess": win(0.15),
        }
    tree = TreeMDP(nodes, start={"room0": 1.0}, state=dict.fromkeys(nodes, "room"))
    question = "Success ends the episode: do statistics over rows, and a loss that divides by the length, lead astray?"
    return Scenario("lengths", question, tree)


def stop() -> Scenario:
    """Each turn that goes on earns something; the policy decides when to stop, and with what outcome."""
    outcome = (0.2, 1.0, 0.4, 0.7)
    nodes = {
        f"turn{t}": {"stop": win(outcome[t]), "go": to(f"turn{t + 1}", reward=0.5)} for t in range(len(outcome) - 1)
    }
    nodes["turn3"] = {"well": win(outcome[3]), "badly": win(0.3)}
    logits = {("turn0", "stop"): -0.8, ("turn1", "stop"): 0.4}
    tree = TreeMDP(nodes, start={"turn0": 1.0}, logits=logits)
    return Scenario(
        "stop", "Turns earn rewards and the policy decides when to stop: are turn-index baselines fair?", tree
    )


def search() -> Scenario:
    """How often to search is a choice; searches help, and the strata are their number."""
    tree = TreeMDP(
        {
            "q": {"search": to("found1"), "enough": to("answer0")},
            "found1": {"search": to("answer2"), "enough": to("answer1")},
            "answer0": {"careful": win(0.35), "quick": win(0.15)},
            "answer1": {"careful": win(0.6), "quick": win(0.4)},
            "answer2": {"careful": win(0.9), "quick": win(0.7)},
        },
        start={"q": 1.0},
    )
    stratum = Stratum(by="actions", pattern="^search")
    return Scenario(
        "search", "Trajectories with 0, 1 or 2 searches: what does stratified normalisation do?", tree, stratum
    )


def rooms() -> Scenario:
    """Luck decides into which of two rooms, which look alike; then there are two turns in it."""
    tree = TreeMDP(
        {
            "door": {
                "left": ((0.60, 0.0, "lit"), (0.40, 0.0, "dark")),
                "right": ((0.45, 0.0, "lit"), (0.55, 0.0, "dark")),
            },
            "lit": {"open": to("lit2"), "wait": ((0.8, 0.0, "lit2"), (0.2, 0.0, "dark2"))},
            "dark": {"open": to("dark2"), "wait": ((0.8, 0.0, "dark2"), (0.2, 0.0, "lit2"))},
            "lit2": {"take": win(0.98), "look": win(0.88)},
            "dark2": {"take": win(0.04), "look": win(0.14)},
        },
        start={"door": 1.0},
        observation={"lit": "a room", "dark": "a room", "lit2": "a shelf", "dark2": "a shelf"},
    )
    return Scenario(
        "rooms", "Luck decides between two rooms that trajectories share: does an anchor state cut the noise?", tree
    )
