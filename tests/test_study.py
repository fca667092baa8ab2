"""The study of credit: its statistics against the enumeration of all groups, its verdicts, and what the command writes."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_study_tree import score, trajectories

from agentrl import registry
from agentrl.algorithms.table import TurnTable
from agentrl.cli import main
from agentrl.errors import ConfigError
from agentrl.seeding import stream
from agentrl.study import command, credit, hypotheses, report
from agentrl.study.credit import Study
from agentrl.study.estimators import ESTIMATORS, GROUPS_PER_UPDATE, TRUTH, Batch, Credited
from agentrl.study.gradient import by_update, controls, sharpened
from agentrl.study.hypotheses import Claim, Hypothesis
from agentrl.study.measure import Estimate, cosine, log_ratio, measure, resampling
from agentrl.study.rollouts import Rollouts, simulate
from agentrl.study.scenarios import Scenario
from agentrl.study.tree import TreeMDP, to, win

BY_LABEL = {each.label: each for each in ESTIMATORS}
TINY = Scenario(
    "tiny",
    "to stop, with what one has, or to go on?",
    TreeMDP(
        {
            "first": {"stop": win(0.25), "go": to("second", reward=0.5)},
            "second": {"well": win(0.8), "badly": ((0.5, 0.25, None), (0.5, 0.0, None))},
        },
        start={"first": 1.0},
        logits={("first", "go"): 0.4},
    ),
)
OF_GROUPS = [
    "grpo",
    "grpo, mean only, over turns",
    "rloo",
    "rloo, loss / length",
    "mt_grpo",
    "mt_grpo_biased, mean only",
    "stratified_grpo, alpha 1",
    "gigpo, mean only",
    "return_to_go",
    "turn_gae, exact values",
]


def batch_of(scenario: Scenario, groups: int, group_size: int, seed: int = 0) -> Batch:
    return Batch(simulate(scenario.tree, groups, group_size, stream(seed, "test")), scenario)


# ---- all groups of two, weighed by their probability -----------------------------------------------------------------


def every_pair() -> tuple[np.ndarray, Rollouts]:
    """The probability of each ordered pair of trajectories of the tiny tree, and all pairs as groups of two."""
    tree, rows, weights = TINY.tree, [], []
    for group, pair in enumerate(itertools.product(trajectories_with_rewards(tree), repeat=2)):
        weights.append(pair[0][0] * pair[1][0])
        for member, (_, steps, rewards) in enumerate(pair):
            for t, ((s, a), reward) in enumerate(zip(steps, rewards, strict=True)):
                rows.append((2 * group + member, t, s, a, reward))
    trajectory, turn, node, action, reward = (np.array(column) for column in zip(*rows, strict=True))
    start = np.zeros(len(weights), dtype=np.int64)
    return np.array(weights), Rollouts(trajectory, turn, node, action, reward, start, group_size=2)


def trajectories_with_rewards(tree: TreeMDP) -> list[tuple[float, list[tuple[int, int]], list[float]]]:
    """As ``trajectories``, with the reward of each turn: all but the last earn 0.5 in the tiny tree."""
    return [
        (p, steps, [0.5] * (len(steps) - 1) + [total - 0.5 * (len(steps) - 1)])
        for p, steps, total in trajectories(tree)
    ]


@pytest.mark.parametrize("label", OF_GROUPS)
def test_monte_carlo_agrees_with_the_enumeration_of_all_groups(label: str):
    weights, rollouts = every_pair()
    given = Batch(rollouts, TINY).credit(BY_LABEL[label])
    tree, exact = TINY.tree, TINY.tree.exact()
    row_weight = weights[rollouts.group]
    first, n = np.zeros((2, *tree.policy.shape))
    np.add.at(first, (rollouts.node, rollouts.action), row_weight * given.advantage)
    np.add.at(n, (rollouts.node, rollouts.action), row_weight)
    gradient = np.zeros(tree.policy.shape)
    loss_weight = given.weight  # equal to Batch's: the mean over trajectories does not depend on how many there are
    for row, (s, a) in enumerate(zip(rollouts.node, rollouts.action, strict=True)):
        gradient += row_weight[row] * loss_weight[row] * given.advantage[row] * score(tree, [(s, a)]) / 2

    batch = batch_of(TINY, 4000, 2)
    times = resampling(batch.n_updates, 1000, stream(0, "test", "bootstrap"))
    found = measure(batch, batch.credit(BY_LABEL[label]), exact, controls(batch, exact), times)
    scale = float((gradient * exact.gradient).sum() / (exact.gradient**2).sum())
    low, high = found.scale.interval(0.999)
    assert low - 1e-9 <= scale <= high + 1e-9
    direction = gradient / np.linalg.norm(gradient) - exact.gradient / np.linalg.norm(exact.gradient)
    low, high = found.direction_bias.interval(0.999)
    assert low - 1e-9 <= np.linalg.norm(direction) <= high + 1e-9
    mean = first / n
    low, high = np.quantile(found.mean[1:], [0.0005, 0.9995], axis=0)
    assert ((low - 1e-9 <= mean) & (mean <= high + 1e-9)).all()


def test_controls_have_the_expectation_that_they_claim():
    weights, rollouts = every_pair()
    batch = Batch(rollouts, TINY)
    batch.n_updates = len(weights)  # each pair an update of its own
    batch.cell = (rollouts.group * 2 + rollouts.node) * 2 + rollouts.action
    estimates, means = controls(batch, TINY.tree.exact())
    expected = np.tensordot(weights, estimates * GROUPS_PER_UPDATE, axes=(0, 1))
    np.testing.assert_allclose(expected, means, atol=1e-12)


def test_sharpening_keeps_the_mean_and_takes_the_noise():
    """Over many simulations: the mean of the sharpened is that of the raw gradients, with less spread; RLOO's has none left,
    for it is a sum of the controls."""
    exact, raw, sharp = TINY.tree.exact(), [], []
    for seed in range(60):
        batch = batch_of(TINY, 160, 4, seed)
        gradient = by_update(batch, batch.credit(BY_LABEL["gigpo, mean only"]).advantage)
        raw.append(gradient.mean(axis=0))
        sharp.append(sharpened(gradient, controls(batch, exact)).mean(axis=0))
    raw, sharp = np.array(raw), np.array(sharp)
    assert (sharp.std(axis=0) < 0.8 * raw.std(axis=0)).all()
    assert (np.abs(sharp.mean(axis=0) - raw.mean(axis=0)) < 4 * raw.std(axis=0) / np.sqrt(60)).all()
    gradient = by_update(batch, batch.credit(BY_LABEL["rloo"]).advantage)
    known = sharpened(gradient, controls(batch, exact)).mean(axis=0)
    np.testing.assert_allclose(known, exact.gradient.ravel(), atol=1e-12)


# ---- how methods are run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [each.label for each in ESTIMATORS if not each.by_update and each.label != TRUTH])
def test_methods_of_groups_do_not_see_other_groups(label: str):
    """So one table of all groups gives what the updates one by one would."""
    batch, estimator = batch_of(credit.scenarios()[3], 24, 4), BY_LABEL[label]
    methods = estimator.make(*batch.scenario.tree.reward_range)

    def advantages(table: TurnTable) -> np.ndarray:
        zero = np.zeros(len(table)) if estimator.value == "zero" else table["value"]
        found = methods[0](table.with_columns(value=zero))
        return found["advantage"] if isinstance(found, dict) else found

    parts = [advantages(table) for table in batch.updates]
    np.testing.assert_allclose(batch.credit(estimator).advantage, np.concatenate(parts), atol=1e-12)


def test_a_tracker_moves_from_update_to_update():
    """SPO's baseline is that of the updates before, so the same episodes get something else the second time."""
    tasks = credit.scenarios()[1]  # of one task alone the whitening takes the baseline away again
    batch = batch_of(tasks, 24, 4)
    advantage = batch.credit(BY_LABEL["spo"]).advantage
    alone = Batch(batch.rollouts.groups(16, 8), tasks).credit(BY_LABEL["spo"]).advantage
    assert np.abs(advantage[batch.update == 2] - alone).max() > 0.1
    same = Batch(batch.rollouts.groups(0, 8), tasks).credit(BY_LABEL["spo"]).advantage
    np.testing.assert_allclose(advantage[batch.update == 0], same)


def test_anchors_that_look_alike_are_no_anchors():
    """Both rooms in one anchor group: each turn is compared with the same turn of all others, so GiGPO is GRPO twice."""
    batch = batch_of(credit.scenarios()[5], 24, 4)
    twice, once = (batch.credit(BY_LABEL[label]) for label in ("gigpo, mean only, by observation", "grpo, mean only"))
    np.testing.assert_allclose(twice.advantage, 2 * once.advantage, atol=1e-12)


def test_weights_of_the_loss():
    batch = batch_of(credit.scenarios()[2], 16, 4)
    assert np.allclose(batch.credit(BY_LABEL["rloo"]).weight, 1)
    n_turns = np.bincount(batch.rollouts.trajectory)
    np.testing.assert_allclose(
        batch.credit(BY_LABEL["rloo, loss / length"]).weight, 1 / n_turns[batch.rollouts.trajectory]
    )


def test_every_registered_method_is_studied_or_named_as_missing(monkeypatch: pytest.MonkeyPatch):
    from agentrl.study import estimators

    assert {"grpo", "gigpo", "mt_grpo_biased", "turn_gae", "empg", "spo", "bnpo"} <= estimators.studied()
    monkeypatch.setattr(registry, "names", lambda stage: ["grpo", "brand_new"])
    monkeypatch.setattr(credit, "studied", lambda: {"grpo"})
    monkeypatch.setattr(credit, "scenarios", lambda: [TINY])
    monkeypatch.setattr(credit, "N_REPLICATES", 20)
    assert credit.run(80).not_studied == ["brand_new"]


# ---- measures --------------------------------------------------------------------------------------------------------


def test_the_truth_has_neither_bias_nor_noise():
    batch, exact = batch_of(TINY, 400, 4), TINY.tree.exact()
    times = resampling(batch.n_updates, 200, stream(0, "test"))
    found = measure(batch, batch.credit(BY_LABEL[TRUTH]), exact, controls(batch, exact), times)
    assert found.scale.value == pytest.approx(1)
    for each in (found.direction_bias, found.gradient_bias_raw, found.bias, found.bias_raw, found.noise, found.offset):
        assert each.value == pytest.approx(0, abs=1e-6)
    assert found.cosine == pytest.approx((1, 1, 1))
    assert 0 < found.groups.value < 1  # the paths still differ


def test_offset_and_scale_are_told_apart():
    """3 A(s, a) + 2 at every turn: no bias of actions, an offset of 2/3 in units of the advantage, and a gradient of 3 g."""
    batch, exact = batch_of(TINY, 800, 4), TINY.tree.exact()
    advantage = 3 * exact.advantage[batch.rollouts.node, batch.rollouts.action] + 2
    times = resampling(batch.n_updates, 200, stream(0, "test"))
    found = measure(batch, Credited(advantage, np.ones(advantage.size)), exact, controls(batch, exact), times)
    size = np.sqrt((exact.advantage[batch.rollouts.node, batch.rollouts.action] ** 2).mean())
    assert found.scale.value == pytest.approx(3, rel=0.05)
    assert found.offset.value * size == pytest.approx(2 / 3, rel=0.1)
    assert found.action_bias.value < 0.1 * found.bias.value
    assert found.noise.value == pytest.approx(0, abs=1e-6)
    assert found.direction_bias.interval(0.999)[0] == 0


def test_the_wrong_direction():
    batch, exact = batch_of(TINY, 400, 4), TINY.tree.exact()
    advantage = -exact.advantage[batch.rollouts.node, batch.rollouts.action]
    times = resampling(batch.n_updates, 50, stream(0, "test"))
    found = measure(batch, Credited(advantage, np.ones(advantage.size)), exact, controls(batch, exact), times)
    assert found.cosine[0] == pytest.approx(-1)
    assert found.groups.value == np.inf and found.action_bias.interval() == (0, np.inf)
    assert found.groups.as_dict()["value"] is None


def test_the_interval_of_a_length_holds_what_it_says():
    """Means of 30 normal vectors whose true mean is 0, or is not: 95 % of the intervals hold its length, at the least."""
    random = stream(0, "test", "lengths")
    for true in (np.zeros(4), np.array([0.5, 0.0, 0.0, 0.0])):
        held = 0
        for _ in range(200):
            data = random.normal(size=(30, 4)) + true
            vectors = resampling(30, 300, random) @ data / 30
            distances = np.linalg.norm(vectors[1:] - vectors[0], axis=1)
            low, high = Estimate(float(np.linalg.norm(vectors[0])), distances, is_length=True).interval()
            held += low <= np.linalg.norm(true) <= high
        assert held >= 180


def test_a_ratio_of_lengths_is_refused():
    length = Estimate(1.0, np.ones(3), is_length=True)
    with pytest.raises(ValueError, match="no ratio"):
        log_ratio(length, Estimate(1.0, np.ones(3)))
    assert cosine(np.sqrt(2)) == pytest.approx(0)


# ---- verdicts --------------------------------------------------------------------------------------------------------


def plain(value: float, spread: float) -> Estimate:
    return Estimate(value, value + spread * np.linspace(-1, 1, 101))


@pytest.mark.parametrize(
    ("wants", "value", "target", "verdict"),
    [
        ("equal", 0.05, 0.0, "holds"),
        ("equal", 0.5, 0.0, "fails"),
        ("above", 0.5, 0.0, "holds"),
        ("above", 0.05, 0.0, "open"),
        ("above", -0.5, 0.0, "fails"),
        ("below", -0.5, 0.0, "holds"),
        ("below", 0.5, 1.0, "holds"),
        ("below", 1.05, 1.0, "open"),
        ("below", 1.5, 1.0, "fails"),
    ],
)
def test_a_claim_is_judged_by_its_interval(wants: str, value: float, target: float, verdict: str):
    assert Claim("it", "share", wants, plain(value, 0.1), target).judge(0.95) == verdict


def test_a_hypothesis_stands_or_falls_with_its_claims():
    holds, is_open, fails = (Claim("it", "share", "above", plain(value, 0.1)) for value in (1.0, 0.0, -1.0))
    assert Hypothesis("t", "e", [holds, holds]).verdict == "came out"
    assert Hypothesis("t", "e", [holds, is_open]).verdict == "not decided"
    assert Hypothesis("t", "e", [holds, is_open, fails]).verdict == "did not come out"
    assert holds.shown(0.95) == "1.000 [0.904, 1.096]"


# ---- a small study ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study() -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(credit, "N_REPLICATES", 300)
        return credit.run(groups=240, seed=3)


def verdicts(study: Study) -> dict[str, str]:
    return {claim.text: claim.judge(0.99) for each in hypotheses.hypotheses(study.results) for claim in each.claims}


@pytest.mark.parametrize(
    "claim",
    [
        "rloo in 'lengths': no bias",
        "grpo, mean only in 'tasks': no bias",
        "rloo, loss / length in 'lengths': biased",
        "mt_grpo_biased, mean only in 'stop': biased",
        "mt_grpo in 'stop': no bias",
        "stratified_grpo, alpha 1 in 'search': credit of the choice",
        "stratified_grpo, alpha 1 in 'search': they carry none",
        "grpo, mean only in 'search': answers carry the offset of their stratum",
        "gigpo, mean only / grpo, mean only in 'rooms': needs fewer groups than without anchors",
        "turn_gae, exact, lam 0 / rloo in 'rooms': needs fewer groups",
    ],
)
def test_what_few_groups_show_already(study: Study, claim: str):
    assert verdicts(study)[claim] == "holds"


def test_dropping_oneself_from_the_baseline_is_a_factor(study: Study):
    """Dr. GRPO and RLOO differ by (G - 1)/G and nothing else."""
    for result in study.results.values():
        shrunk, whole = (result.measured[label] for label in ("dr_grpo", "rloo"))
        assert shrunk.scale.value == pytest.approx(7 / 8, abs=1e-9)
        assert whole.scale.value == pytest.approx(1, abs=1e-9)
        assert shrunk.groups.value == pytest.approx(whole.groups.value)


def test_methods_that_are_the_same_are_shown_once(study: Study):
    assert study.same["dr_grpo"] == "grpo, mean only" and study.same["flow_grpo"] == "grpo"
    assert "mt_grpo" not in study.same  # as rloo is only where there are no turn rewards
    assert report.labels(study)["grpo"] == "grpo = flow_grpo"
    assert "| grpo = flow_grpo |" in report.overview(study) and "\n| flow_grpo" not in report.overview(study)


def test_the_same_seed_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(credit, "N_REPLICATES", 50)
    first, again, other = (credit.run_scenario(TINY, 80, seed)[0].measured["gigpo"] for seed in (0, 0, 1))
    assert first.scale.as_dict() == again.scale.as_dict() and np.array_equal(first.mean, again.mean)
    assert first.scale.value != other.scale.value


@pytest.mark.parametrize(
    ("groups", "group_size", "words"), [(72, 8, "at least 80"), (84, 8, "multiple of 8"), (80, 1, "2 ep")]
)
def test_too_few_groups(groups: int, group_size: int, words: str):
    with pytest.raises(ConfigError, match=words):
        credit.run(groups, group_size=group_size)


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command gets the small study at once."""
    monkeypatch.setattr(credit, "run", lambda *given: study)


@pytest.mark.slow
def test_the_command_writes_tables_and_picture(ready: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib", reason="the picture needs the extra 'plots'")
    out = tmp_path / "new" / "study"
    assert main(["study", "credit", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["credit.json", "credit.md", "credit.png"]
    text = (out / "credit.md").read_text()
    printed = capsys.readouterr().out
    assert text.startswith(printed.strip()) and "## Hypotheses" in printed and "\n## rooms\n" in text
    found = json.loads((out / "credit.json").read_text())
    assert found["scenarios"]["stop"]["estimators"]["rloo"]["scale"]["value"] == pytest.approx(1)
    picture = (out / "credit.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 50_000
    assert main(["study", "credit", "--out", str(out)]) == 0  # again: the same files in their place
    assert (out / "credit.md").read_text() == text and (out / "credit.png").read_bytes() == picture


def test_a_picture_that_fails_leaves_no_part_of_itself(
    ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Without matplotlib the tables are written, and one line says what the picture needs."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["study", "credit", "--out", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert (
        line.startswith("agentrl: the picture of the study")
        and "agentrl-toolkit[plots]" in line
        and line.count("\n") == 1
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["credit.json", "credit.md"]


def test_json(ready: None, capsys: pytest.CaptureFixture[str]):
    assert main(["study", "credit", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["verdict"] for each in found["hypotheses"]} <= {"came out", "not decided", "did not come out"}
    assert found["scenarios"]["search"]["truth"]["nodes"][0] == "q"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["credits"], "Did you mean 'credit'"),
        (["credit", "--groups", "81"], "multiple of 8"),
        (["credit", "--out", "file"], "file"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    assert main(["study", *arguments]) == 2
    line = capsys.readouterr().err
    assert words in line and line.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_the_default_study_decides_every_hypothesis(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What the documentation says came out, at the size and seed that it says."""
    result = command.study("credit", 4000, 0, 8, tmp_path)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "study: chain, 1 of 6" and len(told) == len(credit.scenarios()) == 6
    assert {each.verdict for each in hypotheses.hypotheses(result.results)} == {"came out"}
