"""From samples and advantages to an update.

The learner knows no algorithm: a loss and regularizers give one value a trained token, and each token has a coefficient that
is fixed over the whole update. So the gradient is the same whatever the micro-batches, the padding and the order
(``tests/test_learner.py``). Logits are computed at trained positions only.

A loss or regularizer whose ``scope`` is "group" or "update" sees all tokens at once and gives its share of the loss as one number:
pass 1 computes every log-prob and entropy without gradient and c = ∂loss/∂logp, h = ∂loss/∂entropy; pass 2 runs backward
of Σ c·logp + h·entropy in the same micro-batches.

Dropout stays off: what is trained is the log-prob of the distribution that was sampled from.

What is float32 whatever the model's dtype: temperature, log-softmax, losses, sums of gradients, master weights, AdamW's state
(see ``logprobs`` and ``optimizer``). In bfloat16 are the weights that compute, activations, and the logits as they leave the head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator

from agentrl.algorithms.aggregate import coefficients
from agentrl.algorithms.inputs import LossInputs
from agentrl.algorithms.method import WHOLE, columns, scope
from agentrl.algorithms.table import TurnTable
from agentrl.errors import CheckpointError, ConfigError
from agentrl.learning.checkpointing import LayerCheckpoints
from agentrl.learning.logprobs import Head, LogProbs, TokenScores, keeps_apart
from agentrl.learning.lora import Reference, causal_lm
from agentrl.learning.optimizer import Masters, OptimizerSettings
from agentrl.learning.samples import Packing, Sample, pad_right
from agentrl.learning.team import Team, everywhere, number
from agentrl.work import Work


@dataclass(slots=True)
class TokenData:
    """The N trained tokens of some samples, flat, sample after sample. All [N]."""

    sequence: np.ndarray
    position: np.ndarray  # index in its sample
    row: np.ndarray
    trajectory: np.ndarray
    group: np.ndarray
    temperature: np.ndarray
    logp_sampler: np.ndarray  # NaN where the sampler gave none
    advantage: np.ndarray
    start: np.ndarray  # [S + 1] first token of each sample
    logp_old: np.ndarray | None = None
    logp_ref: np.ndarray | None = None
    weight: np.ndarray | None = None  # of the token weights, in the update under way; None: 1

    @classmethod
    def of(cls, samples: Sequence[Sample], advantages: np.ndarray | None, table: TurnTable | None) -> TokenData:
        """``advantages [K]`` by table row; group codes come from the table (without one: all 0)."""
        positions = [sample.positions() for sample in samples]
        counts = np.array([len(p) for p in positions], dtype=np.int64)
        sequence = np.repeat(np.arange(len(samples)), counts)
        position = np.concatenate(positions) if positions else np.zeros(0, np.int64)

        def gather(name: str) -> np.ndarray:
            parts = [getattr(sample, name)[p] for sample, p in zip(samples, positions, strict=True)]
            return np.concatenate(parts) if parts else np.zeros(0)

        row = gather("row").astype(np.int64)
        group = np.zeros(len(row), np.int64) if table is None else np.asarray(table["group"])[row].astype(np.int64)
        return cls(
            sequence=sequence,
            position=position,
            row=row,
            trajectory=np.array([sample.trajectory for sample in samples], dtype=np.int64)[sequence],
            group=group,
            temperature=gather("temperature"),
            logp_sampler=gather("logprobs"),
            advantage=np.zeros(len(row)) if advantages is None else np.asarray(advantages, dtype=np.float64)[row],
            start=np.concatenate([[0], np.cumsum(counts)]),
        )

    def tokens_of(self, samples: Sequence[int]) -> np.ndarray:
        """Flat indices of the tokens of some samples, in their order."""
        parts = [np.arange(self.start[index], self.start[index + 1]) for index in samples]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


@dataclass(slots=True)
class Scores:
    """What the policy before the updates and the reference say of the N trained tokens of some samples. All [N]."""

    row: np.ndarray
    logp_old: np.ndarray
    logp_ref: np.ndarray | None = None
    entropy: np.ndarray | None = None

    def turn_sums(self, values: np.ndarray, n_turns: int) -> np.ndarray:
        """Sums [K] over the tokens of each turn; 0 for a turn without any."""
        return np.bincount(self.row, values, minlength=n_turns)

    def turn_means(self, values: np.ndarray, n_turns: int) -> np.ndarray:
        """Means [K] over the tokens of each turn; 0 for a turn without any."""
        counts = np.bincount(self.row, minlength=n_turns)
        return self.turn_sums(values, n_turns) / np.maximum(counts, 1)


@dataclass
class Learner:
    """Holds the model, the optimiser and the update counter.

    ``token_budget`` bounds a micro-batch (padding included). ``old_logprobs``: "sampler" trusts the log-probs of the sampling
    policy as those of the old policy (exact where sampler and learner are one model), "learner" recomputes them.
    ``with_reference`` keeps the policy as it is now, for what reads ``logp_ref``. ``token_weights`` change the update: a token that
    is masked out leaves the mean, a weight multiplies its share of the loss (not of the regularizers). ``accelerator``: where it
    computes (None: on the model's device). ``chunk`` bounds the tokens whose logits exist at a time, ``gradient_checkpointing``
    keeps a layer's input only and computes the layer again in backward: both change memory and speed, never the gradient, and
    so does ``packing``, which puts several samples into a row (``samples.layouts``). ``team``: the ranks that train together; where
    they hold the model in parts, ``whole`` is the given model, which ``gather`` brings up to date.
    """

    model: Any
    loss: Any
    regularizers: Sequence[Any] = ()
    settings: OptimizerSettings = field(default_factory=OptimizerSettings)
    token_budget: int = 16384
    old_logprobs: Literal["sampler", "learner"] = "learner"
    token_weights: Sequence[Any] = ()
    with_reference: bool = False
    accelerator: Any = None  # an accelerate.Accelerator
    states: Mapping[str, Any] = field(default_factory=dict)  # of methods that remember, by place (agentrl.stages)
    chunk: int | None = None
    gradient_checkpointing: bool = False
    team: Team = field(default_factory=Team)
    packing: Packing = False

    def __post_init__(self) -> None:
        methods = (self.loss, *self.regularizers)
        self.by_token = [method for method in methods if scope(method) not in WHOLE]  # micro-batches hold whole samples
        self.by_update = [method for method in methods if scope(method) in WHOLE]
        self.places = {id(self.loss): "loss"}
        for stage in ("regularizers", "token_weights"):
            self.places |= {id(method): f"{stage}[{place}]" for place, method in enumerate(getattr(self, stage))}
        if self.packing and not keeps_apart(self.model):
            if self.packing is True:
                raise ConfigError(
                    f"optimizer.packing = true: {type(causal_lm(self.model)).__name__} does not keep the samples of a row apart; "
                    'use "auto" or false'
                )
            self.packing = False
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        if on_cpu and causal_lm(self.model).config._attn_implementation == "flex_attention":
            raise ConfigError('model.attention = "flex_attention" has no gradient on the CPU; use "sdpa" there')
        self.width = causal_lm(self.model).get_output_embeddings().weight.shape[1]
        self.whole = self.model if self.team.rank == 0 else None  # what samples and is saved
        self.model = self.team.own(self.model)
        with_entropy = any("entropy" in columns(method) for method in methods)
        self.log_probs = LogProbs(Head.of(self.model), self.chunk, with_entropy)
        self.layers = LayerCheckpoints(causal_lm(self.model)) if self.gradient_checkpointing else None
        if self.accelerator is None:
            self.accelerator = Accelerator(cpu=on_cpu)
        self.model = self.accelerator.prepare(self.model)
        self.reference = Reference(self.model) if self.with_reference else None
        self._scorers = {id(model): TokenScores(model, self.log_probs) for model in self._models()}
        for scorer in self._scorers.values():
            self.team.shard(scorer)
        self.masters = Masters(self.model)
        self.optimizer = self.accelerator.prepare(self.settings.optimizer(self.masters.parameters))
        self.n_updates = 0
        self.work = {"scoring": Work(), "training": Work()}  # without a gradient, and with one

    def _models(self) -> list[Any]:
        """The policy, and the copy of it that is the reference where that is one."""
        frozen = None if self.reference is None else self.reference.copy
        return [self.accelerator.unwrap_model(self.model), *([] if frozen is None else [frozen])]

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def n_trained(self) -> int:
        """How many parameters are trained."""
        return sum(parameter.numel() for parameter in self.masters.parameters)

    def gather(self) -> int:
        """Brings ``whole`` up to date, for sampling and checkpoints; returns how many bytes were copied: none where it is the
        model that is trained."""
        return self._gather() if self.team.sharded else 0

    @everywhere
    def _gather(self) -> int:
        return self.team.gather(self.model, self.whole)

    # ── what an iteration asks for ───────────────────────────────────────────────────────────────────────────────────

    def prepare(
        self,
        samples: Sequence[Sample],
        advantages: np.ndarray,
        table: TurnTable | None,
        scores: Scores | None = None,
    ) -> TokenData:
        """Token data of an iteration, with the log-probs of the old and the reference policy, before its first update.
        ``scores``: what ``score`` gave for the same samples, so that nothing is computed twice."""
        data = TokenData.of(samples, advantages, table)
        scores = self.score(samples) if scores is None else scores
        data.logp_old, data.logp_ref = scores.logp_old, scores.logp_ref
        return data

    @everywhere
    def score(self, samples: Sequence[Sample], *, entropy: bool = False) -> Scores:
        """The log-probs of the old and the reference policy before an iteration's first update; the entropies of the old one where
        asked for."""
        data = TokenData.of(samples, None, None)
        trusted = self.old_logprobs == "sampler" and not np.isnan(data.logp_sampler).any()
        found = Scores(data.row, data.logp_sampler.copy())
        if entropy or not trusted:
            logp, found.entropy = self.logprobs(samples, data)
            found.logp_old = found.logp_old if trusted else logp
        if self.reference is not None:
            with self.reference.of(self.accelerator.unwrap_model(self.model)) as frozen:
                found.logp_ref = self.logprobs(samples, data, model=frozen)[0]
        return found

    @everywhere
    def logprobs(
        self, samples: Sequence[Sample], data: TokenData, chosen: Sequence[int] | None = None, model: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probs and entropies of the trained tokens of the ``chosen`` samples (default: all) without gradient, [N] float64
        each; NaN elsewhere."""
        model = self.model if model is None else model
        model.eval()
        found = np.zeros((2, len(data.row)))
        with torch.no_grad():
            for rows, tokens in self._micro_batches(samples, data, chosen):
                for values, place in zip(self._forward(model, samples, rows, data, tokens), found, strict=True):
                    place[tokens] = values.double().cpu().numpy()
        logp, entropy = self.team.sum(found)[0]
        if chosen is not None:
            elsewhere = np.ones(len(data.row), dtype=bool)
            elsewhere[data.tokens_of(chosen)] = False
            logp[elsewhere], entropy[elsewhere] = np.nan, np.nan
        return logp, entropy

    @everywhere
    def update(
        self, samples: Sequence[Sample], data: TokenData, table: TurnTable | None, chosen: Sequence[int] | None = None
    ) -> dict[str, float]:
        """One optimiser step on the ``chosen`` samples (default: all). Returns metrics of the update.

        Raises FloatingPointError, with nothing changed, where the loss or the gradient is not finite, and ValueError where
        there is nothing to train on.
        """
        chosen = list(range(len(samples))) if chosen is None else list(chosen)
        tokens = data.tokens_of(chosen)
        if not len(tokens):
            raise ValueError("an update needs at least one trained token; these samples have none")
        coef = self._coefficients(samples, data, table, chosen)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr_at(self.n_updates)
        self.optimizer.zero_grad()
        with self._updating():
            total, logp, entropy = self._backward(samples, data, table, chosen, coef)
        self.team.sum_gradients(self.masters.parameters)
        norm = number(self.accelerator.clip_grad_norm_(self.masters.parameters, self.settings.max_grad_norm))
        if not (math.isfinite(norm) and math.isfinite(total)):
            self.optimizer.zero_grad()
            problem = f"update {self.n_updates}: loss {total}, gradient norm {norm}"
            raise FloatingPointError(f"{problem}; nothing was changed")
        self.optimizer.step()
        self.masters.publish()
        self.n_updates += 1
        return {
            "loss": total,
            "grad_norm": norm,
            "lr": self.optimizer.param_groups[0]["lr"],
            **self._metrics(data, table, tokens, coef, logp, entropy),
        }

    @contextmanager
    def _updating(self) -> Iterator[None]:
        """In the block the model is in the mode that updates compute in: without dropout, layers made again where asked for."""
        self.model.eval()
        if self.layers is None:
            yield
        else:
            with self.layers.on():
                yield

    def _coefficients(
        self, samples: Sequence[Sample], data: TokenData, table: TurnTable | None, chosen: Sequence[int]
    ) -> np.ndarray:
        """Each token's share of the update's loss, [N]; 0 for tokens that are not in the update or masked out."""
        tokens = data.tokens_of(chosen)
        data.weight = None
        if self.token_weights:
            weight = np.ones(len(tokens))
            logp, entropy = self.logprobs(samples, data, chosen)
            parts = (torch.from_numpy(logp[tokens]), torch.from_numpy(entropy[tokens]))
            inputs = self._inputs(data, table, tokens, np.zeros(len(data.row)), *parts)
            kept = np.ones(len(tokens), dtype=bool)
            for method in self.token_weights:
                share, mask = method(inputs, *self._state(method))
                weight *= np.asarray(share, dtype=np.float64)
                kept &= np.asarray(mask, dtype=bool)
            data.weight = np.ones(len(data.row))
            data.weight[tokens] = weight
            tokens = tokens[kept]
        coef = np.zeros(len(data.row))
        aggregate: Any = getattr(self.loss, "aggregate", "token_mean")
        constant = getattr(self.loss, "constant", None)
        shares = coefficients(aggregate, data.sequence[tokens], data.row[tokens], data.trajectory[tokens], constant)
        coef[tokens] = shares
        return coef

    def _state(self, method: Any) -> tuple[Any, ...]:
        """What a method that remembers gets besides the inputs."""
        place = self.places[id(method)]
        return (self.states[place],) if place in self.states else ()

    def _sum(self, method: Any, inputs: LossInputs) -> torch.Tensor:
        """What a loss or regularizer of tokens adds to the loss of the update. Token weights scale the loss alone."""
        weighted = method is self.loss and inputs.weight is not None
        coef = inputs.coef * inputs.require("weight") if weighted else inputs.coef
        return (coef * method(inputs, *self._state(method))).sum()

    # ── the arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────

    def _forward(
        self, model: Any, samples: Sequence[Sample], rows: Sequence[Sequence[int]], data: TokenData, tokens: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-prob and entropy of the trained tokens of a micro-batch, [n] each, in the order of ``tokens``. A micro-batch without
        samples has no tokens, and still a graph: see ``Team.batches``."""
        texts = [np.concatenate([samples[index].token_ids for index in row]) for row in rows] or [np.zeros(1, np.int64)]
        batch = [index for row in rows for index in row]
        counts = np.diff(data.start)[batch]
        row_of = np.repeat([number for number, row in enumerate(rows) for _ in row], counts).astype(np.int64)
        done = self.work["training" if torch.is_grad_enabled() else "scoring"]
        done.add(((samples[index].length, 0) for index in batch), len(tokens))
        starts = [start for row in rows for start in _starts(samples, row)]
        position = data.position[tokens] + np.repeat(starts, counts).astype(np.int64)
        places = None
        if any(len(row) > 1 for row in rows):
            places = pad_right(np.concatenate([np.arange(samples[index].length) for index in row]) for row in rows)
        given = (pad_right(texts), row_of, position, data.temperature[tokens], places)
        scorer = self._scorers[id(self.accelerator.unwrap_model(model))]
        return scorer(*(None if each is None else torch.from_numpy(each).to(self.device) for each in given))

    def _inputs(
        self, data: TokenData, table: TurnTable | None, tokens: np.ndarray, coef: np.ndarray,
        logp: torch.Tensor, entropy: torch.Tensor,
    ) -> LossInputs:  # fmt: skip
        def floats(values: np.ndarray | None) -> torch.Tensor | None:
            return None if values is None else torch.from_numpy(values[tokens]).to(logp)

        def integers(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values[tokens]).to(logp.device)

        sampler = None if np.isnan(data.logp_sampler[tokens]).any() else data.logp_sampler
        return LossInputs(
            logp=logp,
            advantage=torch.from_numpy(data.advantage[tokens]).to(logp),
            coef=torch.from_numpy(coef[tokens]).to(logp),
            row=integers(data.row),
            sequence=integers(data.sequence),
            trajectory=integers(data.trajectory),
            group=integers(data.group),
            logp_old=floats(data.logp_old),
            logp_sampler=floats(sampler),
            logp_ref=floats(data.logp_ref),
            entropy=entropy,
            weight=floats(data.weight),
            table=table if table is not None else {},
        )

    def _whole(
        self, samples: Sequence[Sample], data: TokenData, table: TurnTable | None, chosen: Sequence[int],
        coef: np.ndarray,
    ) -> tuple[float, np.ndarray, np.ndarray]:  # fmt: skip
        """What the methods that must see the whole update add to the loss, its ∂/∂logp [N] and its ∂/∂entropy [N]."""
        by_logp, by_entropy = np.zeros(len(data.row)), np.zeros(len(data.row))
        if not self.by_update:
            return 0.0, by_logp, by_entropy
        tokens = data.tokens_of(chosen)
        logp, entropy = (torch.from_numpy(x[tokens]).requires_grad_() for x in self.logprobs(samples, data, chosen))
        inputs = self._inputs(data, table, tokens, coef, logp, entropy)
        value = torch.stack([method(inputs, *self._state(method)).sum() for method in self.by_update]).sum()
        gradients = torch.autograd.grad(value, (logp, entropy), allow_unused=True)
        for place, gradient in zip((by_logp, by_entropy), gradients, strict=True):
            if gradient is not None:
                place[tokens] = gradient.numpy()
        return float(value.detach()), by_logp, by_entropy

    def _backward(
        self, samples: Sequence[Sample], data: TokenData, table: TurnTable | None, chosen: Sequence[int],
        coef: np.ndarray,
    ) -> tuple[float, np.ndarray, np.ndarray]:  # fmt: skip
        """Accumulates the gradient. Returns the loss, and log-probs and entropies [N] (0 outside of the update)."""
        whole, by_logp, by_entropy = self._whole(samples, data, table, chosen, coef)
        total = 0.0
        logp_all, entropy_all = np.zeros(len(data.row)), np.zeros(len(data.row))
        for rows, tokens in self._micro_batches(samples, data, chosen):
            logp, entropy = self._forward(self.model, samples, rows, data, tokens)
            loss = logp.new_zeros(()) if rows else logp.sum()  # the sum of no samples, with their graph
            if rows:
                inputs = self._inputs(data, table, tokens, coef, logp, entropy)
                loss = torch.stack([loss, *(self._sum(method, inputs) for method in self.by_token)]).sum()
            total += float(loss.detach())
            if self.by_update:
                loss = loss + (torch.from_numpy(by_logp[tokens]).to(logp) * logp).sum()
                loss = loss + (torch.from_numpy(by_entropy[tokens]).to(entropy) * entropy).sum()
            self.accelerator.backward(loss)
            self.masters.collect()
            logp_all[tokens] = logp.detach().double().cpu().numpy()
            entropy_all[tokens] = entropy.detach().double().cpu().numpy()
        by_token, logp_all, entropy_all = self.team.sum(np.array(total), logp_all, entropy_all)
        return whole + float(by_token), logp_all, entropy_all

    def _micro_batches(
        self, samples: Sequence[Sample], data: TokenData, chosen: Sequence[int] | None
    ) -> Iterator[tuple[list[list[int]], np.ndarray]]:
        """(the samples of each row, flat indices of their tokens) of each micro-batch of this rank."""
        indices = list(range(len(samples))) if chosen is None else list(chosen)
        lengths = [samples[index].length for index in indices]
        for batch in self.team.batches(lengths, self.token_budget, self.packing, self.width):
            rows = [[indices[place] for place in row] for row in batch]
            yield rows, data.tokens_of([index for row in rows for index in row])

    def _metrics(
        self, data: TokenData, table: TurnTable | None, tokens: np.ndarray, coef: np.ndarray, logp: np.ndarray,
        entropy: np.ndarray,
    ) -> dict[str, float]:  # fmt: skip
        found = {"entropy": float(entropy[tokens].mean()), "n_trained_tokens": float(len(tokens))}
        now, old = torch.from_numpy(logp[tokens]), data.logp_old
        inputs = self._inputs(data, table, tokens, coef, now, torch.from_numpy(entropy[tokens]))
        for method in (*self.token_weights, self.loss, *self.regularizers):
            measure = getattr(method, "metrics", None)
            if measure is not None:
                measured = measure(inputs, *self._state(method))
                found.update({name: float(value) for name, value in measured.items()})
        if inputs.logp_sampler is not None and old is not None:
            gap = np.abs(data.logp_sampler[tokens] - (old[tokens] if self.old_logprobs == "learner" else logp[tokens]))
            found["sampler_gap/max"] = float(gap.max(initial=0.0))
            found["sampler_gap/mean"] = float(gap.mean()) if len(gap) else 0.0
        return found

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────

    @everywhere
    def state_dict(self) -> dict[str, Any]:
        """Optimiser state and counters, the same for any number of ranks; the weights are saved in Hugging Face form beside it."""
        state = {"optimizer": self.optimizer.state_dict(), "masters": self.masters.state()}
        return {**self.team.full(state), "n_updates": self.n_updates}

    @everywhere
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from the weights of ``whole`` with this state. Raises CheckpointError for that of another model or optimiser."""
        self.team.spread(self.whole, self.model)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        try:
            self.masters.load_state(state.get("masters", ()), self.team.part)
            self.optimizer.load_state_dict(self.team.optimizer_parts(state["optimizer"], parameters))
            self.n_updates = int(state["n_updates"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the optimiser's state does not fit this model: {error}") from error


def _starts(samples: Sequence[Sample], row: Sequence[int]) -> list[int]:
    """Where each sample of a row begins."""
    return list(itertools.accumulate((samples[index].length for index in row[:-1]), initial=0))
