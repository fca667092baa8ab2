"""What the tests of credit share: tables from the sheets, random episodes, and slow references in plain loops."""

from __future__ import annotations

from hypothesis import strategies as st

from agentrl.algorithms.table import TurnTable


def one_turn_episodes(rewards, **more):
    """One group, each trajectory one turn."""
    n = len(rewards)
    return TurnTable(group=["q"] * n, trajectory=list(range(n)), turn=[0] * n, reward=rewards, **more)


def episodes_of(group, lengths, rewards, **more):
    """Trajectories of the given lengths, each with its reward at the last turn."""
    rows = [
        (g, i, t, r if t == n - 1 else 0.0)
        for i, (g, n, r) in enumerate(zip(group, lengths, rewards, strict=True))
        for t in range(n)
    ]
    names = ("group", "trajectory", "turn", "reward")
    return TurnTable(**{name: [row[k] for row in rows] for k, name in enumerate(names)}, **more)


REWARD = st.sampled_from([0.0, 0.0, 1.0, 10.0, -0.5, 0.1, 0.25])
UNIT_REWARD = st.sampled_from([0.0, 0.0, 1.0, 0.5, 0.1])
PENALTY = st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.5])
STATE = st.sampled_from(["s", "t", "u", None])


@st.composite
def episodes(draw, outcome_only=False):
    """Ragged groups, singletons among them, 1 to 5 turns, rows in any order; some groups with equal rewards."""
    rows = []
    for group in range(draw(st.integers(1, 3))):
        same = draw(st.booleans())
        for member in range(draw(st.integers(1, 4))):
            n_turns = draw(st.integers(1, 5))
            stratum = draw(st.sampled_from(["a", "b"]))
            outcome = 1.0 if same else draw(UNIT_REWARD)
            for turn in range(n_turns):
                last = turn == n_turns - 1
                reward = (outcome if last else 0.0) if same or outcome_only else draw(REWARD)
                rows.append(
                    {
                        "group": f"g{group}",
                        "task": f"q{group}",
                        "trajectory": f"g{group}m{member}",
                        "turn": turn,
                        "reward": reward,
                        "penalty": 0.0 if same else draw(PENALTY),
                        "state": draw(STATE),
                        "stratum": stratum,
                        "n_tokens": draw(st.integers(1, 3)),
                        "value": draw(st.sampled_from([0.0, 0.5, 0.9, -0.2])),
                        "entropy": draw(st.sampled_from([0.1, 0.2, 0.7, 1.4])),
                        "advantage": draw(st.sampled_from([-1.0, 0.0, 0.3, 1.0])),
                    }
                )
    return draw(st.permutations(rows))


def as_table(rows):
    return TurnTable(**{name: [row[name] for row in rows] for name in rows[0]})


# ---- slow references -------------------------------------------------------------------------------------------------


def own_turns(rows, row):
    """The rows of the same trajectory, in order."""
    return sorted((each for each in rows if each["trajectory"] == row["trajectory"]), key=lambda each: each["turn"])


def total(rows, row):
    return sum(each["reward"] for each in own_turns(rows, row))


def to_go(rows, row, gamma, key="reward"):
    later = [each for each in own_turns(rows, row) if each["turn"] >= row["turn"]]
    return sum(gamma ** (each["turn"] - row["turn"]) * each[key] for each in later)


def members(rows, row, *keys):
    """trajectory -> its rows that agree with ``row`` in ``keys``."""
    found = {}
    for i, each in enumerate(rows):
        if all(each[key] == row[key] for key in keys):
            found.setdefault(each["trajectory"], []).append(i)
    return found


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def is_flat(values):
    return max(values) - min(values) <= 1e-12 * max(abs(value) for value in values)


def standardize(x, values, *, ddof=1, eps=1e-6):
    """(x - mean) / (std + eps), 0 where the values do not vary."""
    if len(values) <= 1 or is_flat(values):
        return 0.0
    centre = mean(values)
    spread = (sum((value - centre) ** 2 for value in values) / (len(values) - ddof)) ** 0.5
    return (x - centre) / (spread + eps)


def by_trajectory(rows, i, values, keys, *, ddof=1, eps=1e-6, scale=True, singleton="zero"):
    """values[i] against the trajectories that agree with row i in ``keys``, each counted once."""
    found = members(rows, rows[i], *keys)
    everyone = [values[j] for each in found.values() for j in each]
    if len(found) <= 1:
        return values[i] if singleton == "raw" else 0.0
    if is_flat(everyone):
        return 0.0
    centre = mean(mean(values[j] for j in each) for each in found.values())
    if not scale:
        return values[i] - centre
    squares = sum(mean((values[j] - centre) ** 2 for j in each) for each in found.values())
    return (values[i] - centre) / ((squares / (len(found) - ddof)) ** 0.5 + eps)


def whitened(rows, values, unit, *, ddof=1, eps=1e-8, inside=True):
    """Over the whole batch, each token, turn or trajectory counting once."""
    if unit == "trajectory":
        weight = [1 / len(own_turns(rows, row)) for row in rows]
        n = len({row["trajectory"] for row in rows})
    else:
        weight = [row["n_tokens"] if unit == "token" else 1 for row in rows]
        n = sum(weight)
    if n <= 1 or is_flat(values):
        return [0.0] * len(rows)
    centre = sum(w * value for w, value in zip(weight, values, strict=True)) / n
    variance = sum(w * (value - centre) ** 2 for w, value in zip(weight, values, strict=True)) / (n - ddof)
    spread = (variance + eps) ** 0.5 if inside else variance**0.5 + eps
    return [(value - centre) / spread for value in values]
