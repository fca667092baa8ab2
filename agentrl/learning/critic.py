"""A critic: what the rewards from a turn on are expected to be, before the agent acts.

    V = w · h + b,   h: the last hidden state of the turn's prompt, at the position that predicts the first sampled token

The critic is a model of its own: a copy of the policy as it was at the start of the run, without its output embedding, with a
linear head of one output that begins at zero, so V = 0 before the first update. It has its own optimiser and trains all its
weights, also where the policy trains an adapter only. As in ``learner``, each value has a coefficient that is fixed over the
whole update: the gradient is the same whatever the micro-batches and the padding (``tests/test_critic.py``). The head computes in
float32 whatever the model's dtype.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from agentrl.algorithms.aggregate import coefficients
from agentrl.algorithms.inputs import LossInputs
from agentrl.errors import CheckpointError
from agentrl.learning import lora
from agentrl.learning.checkpointing import LayerCheckpoints
from agentrl.learning.optimizer import Masters, OptimizerSettings
from agentrl.learning.samples import pad_right
from agentrl.learning.team import Team, everywhere, number
from agentrl.types import Trajectory
from agentrl.work import Work


@dataclass(slots=True)
class Prompts:
    """What a critic reads: S token histories, and the P places in them at which the agent is asked, history after history."""

    histories: list[np.ndarray]  # [S] of [L] int64
    sequence: np.ndarray  # [P] its history
    position: np.ndarray  # [P] index of the last prompt token
    row: np.ndarray  # [P] row in the turn table
    trajectory: np.ndarray  # [P]
    start: np.ndarray  # [S + 1] first place of each history
    end_row: np.ndarray  # [M] the row after the last one of each trajectory

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> Prompts:
        """The prompt of each turn's first trainable call; rows count the turns of all trajectories, in order. A prompt that extends
        the one before it joins its history."""
        histories: list[np.ndarray] = []
        places: list[tuple[int, int, int, int]] = []
        row, ends = 0, []
        for index, trajectory in enumerate(trajectories):
            latest: dict[str, int] = {}
            for turn in trajectory.turns:
                call = next((call for call in turn.calls if call.trainable and len(call.prompt_ids)), None)
                if call is not None:
                    ids, last = np.asarray(call.prompt_ids, dtype=np.int64), latest.get(call.role)
                    if last is not None and _starts_with(ids, histories[last]):
                        histories[last] = ids
                    else:
                        latest[call.role] = len(histories)
                        histories.append(ids)
                    places.append((latest[call.role], len(ids) - 1, row, index))
                row += 1
            ends.append(row)
        sequence, position, rows, trajectory = np.array(sorted(places), dtype=np.int64).reshape(-1, 4).T
        start = np.searchsorted(sequence, np.arange(len(histories) + 1))
        return cls(histories, sequence, position, rows, trajectory, start, np.array(ends, dtype=np.int64))

    def places_of(self, histories: Sequence[int]) -> np.ndarray:
        """Flat indices of the places in some histories, in their order."""
        parts = [np.arange(self.start[index], self.start[index + 1]) for index in histories]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def by_turn(self, values: np.ndarray) -> np.ndarray:
        """Values [P] as a column of the turn table, [K]. A turn in which the policy was not asked has the value of the next one of
        its trajectory, 0 after the last."""
        column = np.full(self.end_row[-1] if len(self.end_row) else 0, np.nan)
        column[self.row] = values
        ahead, ends = 0.0, set(self.end_row.tolist())
        for row in reversed(range(len(column))):
            ahead = 0.0 if row + 1 in ends else ahead
            ahead = column[row] = ahead if np.isnan(column[row]) else column[row]
        return column


class ValueModel(torch.nn.Module):
    """The layers of a causal language model below its output embedding, with a head of one output on them."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        model = copy.deepcopy(policy)
        model = lora.merged(model) if lora.has_adapter(model) else model
        self.body: Any = model.base_model.requires_grad_(True)
        width = model.get_output_embeddings().weight.shape[1]
        weight = next(self.body.parameters())
        self.head = torch.nn.Linear(width, 1, device=weight.device)
        self.head.to(torch.promote_types(weight.dtype, torch.float32))
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, ids: torch.Tensor, row: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Values [n] after the tokens at ``position [n]`` of the rows ``row [n]`` of ``ids [B, L]``."""
        hidden = self.body(input_ids=ids, use_cache=False).last_hidden_state[row, position]
        return self.head(hidden.to(self.head.weight.dtype)).sum(1)  # of one: a view would trouble FSDP's hooks


@dataclass
class Critic:
    """Holds the value model made of ``policy`` as it is now, its optimiser and its counter of updates. ``loss`` reads ``value``,
    ``value_old`` and ``returns``; ``token_budget`` bounds a micro-batch, padding included. ``team``: the ranks that train it."""

    policy: Any
    loss: Any
    settings: OptimizerSettings = field(default_factory=OptimizerSettings)
    token_budget: int = 16384
    gradient_checkpointing: bool = False
    accelerator: Any = None  # an accelerate.Accelerator; None: one for the policy's device
    team: Team = field(default_factory=Team)

    def __post_init__(self) -> None:
        model = ValueModel(self.policy)
        self.layers = LayerCheckpoints(model.body) if self.gradient_checkpointing else None
        if self.accelerator is None:
            self.accelerator = Accelerator(cpu=model.head.weight.device.type == "cpu")
        self.model = self.accelerator.prepare(model)
        self.team.shard(self.model)
        self.masters = Masters(self.model)
        self.optimizer = self.accelerator.prepare(self.settings.optimizer(self.masters.parameters))
        self.model.eval()
        self.n_updates = 0
        self.work = {"scoring": Work(), "training": Work()}
        del self.policy  # it moves on; the critic began from what it was

    def read(self, trajectories: Sequence[Trajectory]) -> Prompts:
        """What it reads of some trajectories."""
        return Prompts.of(trajectories)

    @everywhere
    def values(self, prompts: Prompts) -> np.ndarray:
        """V at each place, without gradient, [P] float64."""
        found = np.zeros(len(prompts.row))
        with torch.no_grad():
            for batch, places in self._micro_batches(prompts, range(len(prompts.histories))):
                found[places] = self._forward(prompts, batch, places).double().cpu().numpy()
        return self.team.sum(found)[0]

    @everywhere
    def update(
        self, prompts: Prompts, value_old: np.ndarray, returns: np.ndarray, chosen: Sequence[int]
    ) -> dict[str, float]:
        """One optimiser step on the ``chosen`` histories; returns metrics of the update.

        value_old, returns: [P], V before the iteration's updates and what it should be. Raises FloatingPointError, with nothing
        changed, where the loss or the gradient is not finite.
        """
        places = prompts.places_of(chosen)
        coef = np.zeros(len(prompts.row))
        kind: Any = getattr(self.loss, "aggregate", "token_mean")
        constant = getattr(self.loss, "constant", None)
        coef[places] = coefficients(
            kind, prompts.sequence[places], prompts.row[places], prompts.trajectory[places], constant
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr_at(self.n_updates)
        self.optimizer.zero_grad()
        total, value = 0.0, np.zeros(len(prompts.row))
        with self.layers.on() if self.layers is not None else nullcontext():
            for batch, here in self._micro_batches(prompts, chosen):
                now = self._forward(prompts, batch, here)
                loss = now.sum()  # of no histories, with their graph: see Team.batches
                if batch:
                    inputs = self._inputs(prompts, here, coef, now, value_old, returns)
                    loss = (inputs.coef * self.loss(inputs)).sum()
                self.accelerator.backward(loss)
                self.masters.collect()
                total += float(loss.detach())
                value[here] = now.detach().double().cpu().numpy()
        loss_sum, value = self.team.sum(np.array(total), value)
        total = float(loss_sum)
        self.team.sum_gradients(self.masters.parameters)
        norm = number(self.accelerator.clip_grad_norm_(self.masters.parameters, self.settings.max_grad_norm))
        if not (math.isfinite(norm) and math.isfinite(total)):
            self.optimizer.zero_grad()
            problem = f"the critic's update {self.n_updates}: loss {total}, gradient norm {norm}"
            raise FloatingPointError(f"{problem}; nothing was changed")
        self.optimizer.step()
        self.optimizer.zero_grad()  # its memory is the policy's until the next update
        self.masters.publish()
        self.n_updates += 1
        seen = self._inputs(prompts, places, coef, torch.from_numpy(value[places]), value_old, returns)
        further = getattr(self.loss, "metrics", lambda _: {})(seen)
        return {"value/loss": total, "value/grad_norm": norm, **{name: float(each) for name, each in further.items()}}

    # ── the arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────

    def _forward(self, prompts: Prompts, batch: Sequence[int], places: np.ndarray) -> torch.Tensor:
        """V at the places of a micro-batch, [n], in the order of ``places``."""
        device = self.accelerator.device
        histories = [prompts.histories[index] for index in batch] or [np.zeros(1, np.int64)]
        ids = torch.from_numpy(pad_right(histories)).to(device)
        rows = np.repeat(np.arange(len(batch)), np.diff(prompts.start)[list(batch)])
        position = torch.from_numpy(prompts.position[places]).to(device)
        done = self.work["training" if torch.is_grad_enabled() else "scoring"]
        done.add(((len(prompts.histories[index]), 0) for index in batch), 0)  # a head of one output costs nothing
        return self.model(ids, torch.from_numpy(rows).to(device), position)

    def _inputs(
        self, prompts: Prompts, places: np.ndarray, coef: np.ndarray, value: torch.Tensor, value_old: np.ndarray,
        returns: np.ndarray,
    ) -> LossInputs:  # fmt: skip
        def floats(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values[places]).to(value)

        def integers(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values[places]).to(value.device)

        nothing = torch.zeros_like(value)  # a critic samples no token and has no advantage
        return LossInputs(
            logp=nothing,
            advantage=nothing,
            coef=floats(coef),
            row=integers(prompts.row),
            sequence=integers(prompts.sequence),
            trajectory=integers(prompts.trajectory),
            group=torch.zeros_like(integers(prompts.row)),
            value=value,
            value_old=floats(value_old),
            returns=floats(returns),
        )

    def _micro_batches(self, prompts: Prompts, chosen: Sequence[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        """(histories, flat indices of their places) of each micro-batch of this rank."""
        for rows in self.team.batches([len(prompts.histories[index]) for index in chosen], self.token_budget):
            batch = [chosen[place] for (place,) in rows]
            yield batch, prompts.places_of(batch)

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────

    @everywhere
    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser state and the counter, the same for any number of ranks."""
        state = {
            "model": dict(self.accelerator.unwrap_model(self.model).state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "masters": self.masters.state(),
        }
        return {**self.team.full(state), "n_updates": self.n_updates}

    @everywhere
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises CheckpointError for the state of another critic."""
        try:
            model = self.accelerator.unwrap_model(self.model)
            own = model.state_dict()
            model.load_state_dict(
                {name: self.team.part(value, own.get(name, value)) for name, value in state["model"].items()}
            )
            self.masters.load_state(state["masters"], self.team.part)
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self.optimizer.load_state_dict(self.team.optimizer_parts(state["optimizer"], parameters))
            self.n_updates = int(state["n_updates"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            problem = " ".join(str(error).split())[:200]
            raise CheckpointError(f"the critic's state does not fit this model: {problem}") from error


def explained_variance(value: np.ndarray, returns: np.ndarray) -> float:
    """1 - Var(T - V) / Var(T): 1 where V tells the returns T exactly, 0 where a constant would do as well; 0 where T is one."""
    spread = float(np.var(returns))
    return 1 - float(np.var(returns - value)) / spread if spread else 0.0


def _starts_with(ids: np.ndarray, beginning: np.ndarray) -> bool:
    return len(ids) >= len(beginning) and np.array_equal(ids[: len(beginning)], beginning)
