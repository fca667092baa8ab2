"""GRPO from scratch in one file: a small language model learns to keep house over many turns. Minutes on two CPU cores.

python examples/07_grpo_from_scratch.py
python examples/07_grpo_from_scratch.py --iterations 1 --tasks 2 --houses 4        a look at it, in seconds

From agentrl come the houses and the weights to start from (a model that has seen an expert play, badly). All else stands here:

    several tasks, for each a group of episodes ─► one reward an episode ─► A_i = (R_i - mean) / std within the group
    ─► each turn is a sample with its episode's A ─► clipped loss over the sampled tokens ─► AdamW

What is left out, and what agentrl does about it:

- credit for turns: here all turns of an episode get the same advantage; GiGPO compares the turns that stood in the same state;
- a conversation that grows: here each turn's prompt is made anew from the last four actions, so nothing is ever encoded twice;
  where a prompt grows, what was sampled must stay as ids, and a template that rewrites earlier turns has to be found;
- a KL penalty and a reference model; penalties for invalid actions; entropy; schedules other than the warm-up;
- faults: an exception of the environment ends this program; there it is typed, and the episode is played again;
- the difference between the model that samples and the one that learns: here both are one, in float32;
- inert text: an observation that held the text "<|end|>" would be read as the marker here;
- random streams with names: here an episode depends on its neighbours in the batch, so nothing can be resumed or replayed;
- micro-batches by tokens, bfloat16, gradient checkpointing, adapters, a cache of keys and values across turns;
- checkpoints, records of trajectories, intervals of the evaluation.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: beside other processes, spinning is slow

import gymnasium
import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

import agentrl.configs
import agentrl.envs  # registers agentrl/Household-v0 with Gymnasium

WARM_START = os.path.join(os.path.dirname(agentrl.configs.__file__), "warmstart")
TASK_TYPES = [f"pick_{part}_then_place_in_recep" for part in ("clean", "heat", "cool")] + ["pick_and_place_simple"]
MAX_TURNS = 15
MAX_TOKENS = 16  # of one action
LOW, HIGH = 0.2, 0.28  # the ratio's bounds are 1 - LOW and 1 + HIGH


# ── an episode ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Episode:
    """One house being played. ``samples`` holds (prompt ids, completion ids, log-probs of the completion) of each turn."""

    env: gymnasium.Env[str, str]
    observation: str
    info: dict[str, Any]
    actions: list[str]
    samples: list[tuple[list[int], list[int], list[float]]]
    reward: float = 0.0
    done: bool = False

    @classmethod
    def of(cls, task: Any) -> Episode:
        """The house of a task, before the first turn."""
        env = gymnasium.make("agentrl/Household-v0", difficulty="tiny", task_types=TASK_TYPES, disable_env_checker=True)
        observation, info = env.reset(seed=task.seed, options={"task": task})
        return cls(env, observation, info, [], [])

    def prompt(self) -> str:
        """What the model reads: places, its last actions, where it has not looked, what it holds and sees, and the goal last."""
        last = "".join(f"{action}; " for action in self.actions[-4:])
        info = self.info
        seen = (
            f"{info['places']}\n{last}\n{info['unseen']}\nYou hold {info['held']}\n{self.observation}\n{info['goal']}"
        )
        return f"<|user|>{seen}<|end|><|assistant|>"

    def take(self, completion: str) -> None:
        """Plays what stands in the action tags; a completion without them plays "", which changes nothing."""
        found = re.search(r"<action>(.*?)</action>", completion, re.DOTALL)
        action = found.group(1).strip() if found else ""
        self.observation, reward, terminated, truncated, self.info = self.env.step(action)
        self.actions.append(action)
        self.reward += float(reward)
        self.done = terminated or truncated or len(self.actions) == MAX_TURNS


# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def sample(
    model: Any, prompts: list[list[int]], end: int, random: torch.Generator
) -> list[tuple[list[int], list[float]]]:
    """A completion for each prompt at temperature 1, with the log-prob of each of its tokens, the end marker included."""
    ids, mask = padded_left(prompts)
    position = mask.cumsum(1) - 1
    cache, alive = None, torch.ones(len(prompts), dtype=torch.bool)
    drawn: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
    for _ in range(MAX_TOKENS):
        out = model(
            ids,
            attention_mask=mask,
            position_ids=position.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logp = out.logits[:, -1].float().log_softmax(-1)  # [B, V]
        ids = torch.multinomial(logp.exp(), 1, generator=random)  # [B, 1]
        for row, (token, value) in enumerate(zip(ids[:, 0].tolist(), logp.gather(1, ids)[:, 0].tolist(), strict=True)):
            if alive[row]:
                drawn[row][0].append(token)
                drawn[row][1].append(value)
        alive &= ids[:, 0] != end
        if not alive.any():
            break
        cache = out.past_key_values
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        position = position[:, -1:] + 1
    return drawn


def padded_left(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, L], every row ending in the last column, and where they are none of the padding [B, L]."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def play(model: Any, tokenizer: Any, tasks: list[Any], random: torch.Generator) -> list[Episode]:
    """One episode a task, all of them side by side, turn by turn."""
    model.eval()
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    episodes = [Episode.of(task) for task in tasks]
    while live := [episode for episode in episodes if not episode.done]:
        prompts = [tokenizer(episode.prompt()).input_ids for episode in live]
        drawn = sample(model, prompts, end, random)
        for episode, prompt, (completion, logps) in zip(live, prompts, drawn, strict=True):
            episode.samples.append((prompt, completion, logps))
            episode.take(tokenizer.decode(completion))
    return episodes


# ── the algorithm ────────────────────────────────────────────────────────────────────────────────────────────────────


def group_advantages(rewards: np.ndarray) -> np.ndarray:
    """A = (R - mean of the group) / (std of the group + 1e-6), [groups, members] -> the same shape.

    Every episode counts once, however many turns it has. A group whose members all earned the same gives exactly 0.
    """
    centred = rewards - rewards.mean(1, keepdims=True)
    spread = rewards.std(1, ddof=1, keepdims=True)
    return np.where(np.ptp(rewards, axis=1, keepdims=True) > 0, centred / (spread + 1e-6), 0.0)


def clipped_loss(logp: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """max(-A r, -A clip(r, 1 - LOW, 1 + HIGH)) of each token, r = exp(logp - old); all [N]."""
    ratio = (logp - old).exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - LOW, 1 + HIGH))


def update(
    model: Any, optimizer: torch.optim.Optimizer, samples: list[tuple[list[int], list[int], list[float], float]]
):
    """One step on (prompt, completion, log-probs, advantage) of some turns: the mean over all their sampled tokens, in parts
    of 128 turns, which changes memory and nothing else."""
    model.train()
    n_tokens = sum(len(completion) for _, completion, _, _ in samples)
    for first in range(0, len(samples), 128):
        prompts, completions, logps, advantages = zip(*samples[first : first + 128], strict=True)
        ids, mask = padded_left([p + c for p, c in zip(prompts, completions, strict=True)])
        longest = max(map(len, completions))
        trained = padded_left(list(completions))[1].bool()  # [B, C]: completions stand at the end of the rows
        out = model(
            ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=longest + 1,
        )
        # the logits at a token are those of the next one
        every = out.logits[:, :-1].float().log_softmax(-1)
        logp = every.gather(2, ids[:, -longest:, None])[:, :, 0][trained]
        old = torch.tensor([value for row in logps for value in row])
        advantage = torch.tensor(advantages, dtype=torch.float32)[:, None].expand(trained.shape)[trained]
        (clipped_loss(logp, old, advantage).sum() / n_tokens).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def success(model: Any, tokenizer: Any, tasks: list[Any], seed: int) -> float:
    """The share of these houses that a sampled episode wins."""
    episodes = play(model, tokenizer, tasks, torch.Generator().manual_seed(seed))
    return float(np.mean([episode.reward > 0 for episode in episodes]))


def main() -> None:
    """Evaluates, trains, evaluates."""
    parser = argparse.ArgumentParser(description="GRPO from scratch on small houses.")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--tasks", type=int, default=12, help="groups an iteration")
    parser.add_argument("--group-size", type=int, default=8, help="episodes of a group")
    parser.add_argument("--houses", type=int, default=200, help="held-out houses of the evaluation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    order, random = np.random.default_rng(args.seed), torch.Generator().manual_seed(args.seed)
    logging.disable_progress_bar()
    # AutoTokenizer goes by the type of the model, and would cut these words into bytes
    tokenizer = PreTrainedTokenizerFast.from_pretrained(WARM_START)
    model = AutoModelForCausalLM.from_pretrained(WARM_START, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.01)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
    env = gymnasium.make("agentrl/Household-v0", difficulty="tiny", task_types=TASK_TYPES, disable_env_checker=True)
    train, held_out = (env.get_wrapper_attr("tasks")(split) for split in ("train", "valid_seen"))

    started = time.perf_counter()
    before = success(model, tokenizer, held_out[: args.houses], args.seed)
    print(f"before: success {before:.3f} on {args.houses} held-out houses", flush=True)
    for iteration in range(args.iterations):
        chosen = [train[int(place)] for place in order.choice(len(train), args.tasks, replace=False)]
        episodes = play(model, tokenizer, [task for task in chosen for _ in range(args.group_size)], random)
        rewards = np.array([episode.reward for episode in episodes]).reshape(args.tasks, args.group_size)
        advantages = group_advantages(rewards).ravel()
        samples = [
            (*turn, float(advantage))
            for episode, advantage in zip(episodes, advantages, strict=True)
            for turn in episode.samples
            if advantage != 0.0
        ]
        shuffled = [samples[int(place)] for place in order.permutation(len(samples))]
        parts = [shuffled[part::4] for part in range(4) if shuffled[part::4]]  # four updates an iteration
        for part in parts:
            update(model, optimizer, part)
            warm_up.step()
        differ = int((np.ptp(rewards, axis=1) > 0).sum())
        line = f"iteration {iteration:3d}  reward {rewards.mean():.3f}  groups that differ {differ:2d}"
        print(f"{line}  turns trained {len(samples):4d}  {time.perf_counter() - started:4.0f} s", flush=True)
    after = success(model, tokenizer, held_out[: args.houses], args.seed)
    print(f"after:  success {after:.3f}, before {before:.3f}; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
