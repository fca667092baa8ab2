"""The tables of a run file: strict models with the defaults that a newcomer would choose.

The text below each key says what it means; ``configs/REFERENCE.md`` is written from this file (``make docs``), and a test fails
where a key has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
)

from agentrl.errors import ConfigError

Spec = dict[str, Any]  # {"name": …, parameters}
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Table(BaseModel):
    """A table of a run file. Unknown keys are refused; nothing is coerced from text. What stands below a key describes it, here
    and on the page ``configs/REFERENCE.md``."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class EnvTable(Table):
    """Which tasks are played. A run with several environments has several ``[[env]]``."""

    id: str
    """An environment, as ``agentrl list envs`` shows them; ``MODULE:ID`` imports MODULE first."""
    options: Spec = {}
    """The environment's own options."""
    split: str = "train"
    """The tasks that are trained on."""
    max_turns: Positive | None = None
    """The most turns of an episode (absent: the task's own, else 50)."""
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    """Tells two environments of one id apart (absent: the id's own name)."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Its share in the tasks that are drawn, exact over an epoch."""
    agent: Spec = {}
    """The keys of ``[agent]`` that differ here."""
    isolation: Literal["inline", "process"] = "inline"
    """Where an environment lives: "process" gives each a process of its own; only there can timeouts be enforced."""
    step_timeout_s: Annotated[float, Field(gt=0)] | None = None
    """The most seconds of a step; needs a process (absent: 60)."""
    reset_timeout_s: Annotated[float, Field(gt=0)] | None = None
    """The same of a reset (absent: 300)."""

    @property
    def title(self) -> str:
        """``name``, or what the id is called without its namespace: "Household-v0"."""
        return self.name or self.id.rpartition(":")[2].rpartition("/")[2]


class LoraTable(Table):
    """A low-rank adapter: only it is trained, and checkpoints hold only it. It wants a learning rate about ten times that of all
    weights."""

    rank: Positive = 16
    """The rank of each layer's two matrices."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The adapter's output is scaled by ``alpha`` / ``rank``."""
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """All linear layers but the head, or names of layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Named to be refused: updates train the distribution that was sampled, which has none."""


class ModelTable(Table):
    """Which weights."""

    path: str | None = None
    """A checkpoint folder, or a Hugging Face name that is at hand; "" is none: the override ``model.path=`` makes room for a
    ``config``."""
    config: Spec | None = None
    """Build a model with random weights (transformers' ``model_type`` and its keys); its tokenizer is made of the
    environment's vocabulary."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights that compute; bfloat16 is trained through float32 master weights, float16 plays only."""
    lora: LoraTable | None = None
    """Train an adapter instead of all weights."""
    gradient_checkpointing: bool = False
    """Computes each layer twice and keeps a layer's input only: slower, less memory, the same gradient."""
    attention: Literal["auto", "eager", "sdpa", "flex_attention", "flash_attention_2"] = "auto"
    """How attention is computed ("auto": as transformers chooses). On CUDA the last two skip what a packed row masks out; flash
    wants bfloat16 and the package flash-attn, flex has no gradient on the CPU. vLLM has its own."""

    @field_validator("path")
    @classmethod
    def _empty_is_none(cls, path: str | None) -> str | None:
        return path or None


class AgentTable(Table):
    """How observations become prompts, and completions actions."""

    name: str = "chat"
    """Who acts: "chat", one prompt and one completion a turn, or an agent made of modules: "agentflow", "critic", or a graph of
    one's own (``MODULE:NAME``). That takes the keys ``options``, ``roles``, ``limits``, ``context`` and ``template_options``; the
    others are the chat agent's."""
    options: Spec = {}
    """Of an agent made of modules: its own settings."""
    roles: dict[str, str | Spec] = {}
    """Of an agent made of modules: who speaks for a role: "trained" (the policy), "checkpoint:PATH" (frozen),
    "openai:URL#MODEL,…" or "rule:NAME" (a Python function, also ``rule:MODULE:NAME``), or a table of that ``speaker`` with
    ``trainable``, ``temperature``, ``max_tokens``, and ``options`` of a rule. Absent: as the agent itself says."""
    limits: Spec = {}
    """Of an agent made of modules: ``calls`` of a turn (16), ``tokens`` sampled and ``seconds`` of an episode (no bound)."""

    memory: Spec = {"name": "window", "turns": 4}
    """What of the past is shown: "window" renders the last ``turns`` turns anew (``item``, ``header``, ``empty``: their
    templates), "append" lets the conversation grow (``next``: what a later turn adds)."""
    prompt: str | None = None
    """A template of ``{history}``, ``{observation}``, ``{turn}`` and the texts of the environment's info (absent: made of
    what the environment shows)."""
    system: str = ""
    """A system message."""
    action_tags: bool | None = None
    """Whether an action stands in ``<action>`` tags (absent: unless the environment takes the model's whole reply)."""
    tools: Literal["text", "template"] = "text"
    """How a model is told of the environment's tools: "template" gives them to its chat template; the environment's own text
    then should not describe them (``options = { describe = "none" }``)."""
    think_tags: bool = False
    """Whether a ``<think>`` block is required."""
    projection: Literal["strict", "verl_agent"] = "strict"
    """How completions are read: "strict" plays only what has the wanted form, and calls an action that the environment does
    not list invalid; "verl_agent" does as that project's code."""
    earlier_turns: Literal["auto", "as_sampled", "as_template"] = "auto"
    """How a memory that appends shows the model's own turns: as the ids that were sampled, or as its chat template writes
    them ("auto": where that drops thoughts or rewrites turns)."""
    template_options: Spec = {}
    """Further variables of the chat template."""
    context: Positive | None = None
    """The most tokens of prompt and completion together (absent: what the model takes)."""


class VllmTable(Table):
    """The engine of `rollout.policy = "vllm"`."""

    context: Positive | None = None
    """The most tokens of prompt and completion (absent: `agent.context`, else the model's own bound)."""
    tensor_parallel: Positive = 1
    """Devices that share the model."""
    eager: bool | None = None
    """Without compiled graphs (absent: on the CPU)."""
    max_requests: Positive = 1024
    """The most requests that the engine holds at a time."""
    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """The time of one request."""
    restarts: Annotated[int, Field(ge=0)] = 3
    """How often an engine that died or hangs is started again between two updates."""
    lora: Literal["adapter", "merged"] = "adapter"
    """Whether updates of an adapted model send the adapter, or whole weights."""
    sleep: bool = False
    """The engine's memory is the learner's while it trains (CUDA)."""
    extra: Spec = {}
    """Further AsyncEngineArgs of vLLM."""


class RolloutTable(Table):
    """How is sampled."""

    policy: str = "transformers"
    """The engine that generates: "transformers", "vllm", or a policy of a plug-in."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of sampling; part of the log-probs that are trained."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Below 1 is refused in training: such log-probs are not those that are trained."""
    max_tokens: Positive = 64
    """The most tokens of a completion."""
    batch_size: Positive = 256
    """The most rows of a forward pass."""
    max_live: Positive | None = None
    """The most episodes that run at a time (absent: 1024; 32 where each is a process)."""
    attempts: Positive = 3
    """The tries of an episode that the machinery fails."""
    kv_cache: bool = True
    """Where the memory appends, a turn's prompt is computed from where the last turn ended."""
    kv_cache_gib: Annotated[float, Field(gt=0)] = 4.0
    """The most that is kept for that between turns, in GiB; of vLLM: the keys and values of all sequences."""
    vllm: VllmTable = VllmTable()
    """The engine of `policy = "vllm"`."""
    staleness: Annotated[int, Field(ge=0)] = 0
    """How many iterations old the weights may be that sample. 0: each iteration's episodes wait for the last one's updates; 1:
    they go on while the last one is trained on."""
    batching: Literal["rounds", "free"] | None = None
    """A policy that answers in batches does so in "rounds", when all live episodes wait (the same file and seed give the same
    tokens), or whenever it is "free", so that none waits for an environment (absent: "rounds" without staleness, else "free")."""

    @property
    def free(self) -> bool:
        """Whether batches are answered without a barrier."""
        return self.batching == "free" or self.staleness > 0

    def live(self, envs: Iterable[EnvTable]) -> int:
        """How many episodes run at a time in these environments."""
        return self.max_live or (32 if any(table.isolation == "process" for table in envs) else 1024)


class AlgorithmTable(Table):
    """One method a stage."""

    sampler: Spec = {"name": "uniform"}
    """Which tasks, and how many members a group has."""
    scores: list[Spec] = []
    """Rewards besides the environment's."""
    filters: list[Spec] = []
    """Which groups and trajectories are trained on, and what is asked for again."""
    rewards: list[Spec] = [{"name": "invalid_action"}]
    """What changes rewards, penalties and columns before credit."""
    credit: Spec | list[Spec] = {"name": "gigpo"}
    """Each turn's advantage; several add up, and one that reads the advantage changes what came before."""
    token_weights: list[Spec] = []
    """Weights and masks of tokens."""
    loss: Spec = {"name": "ppo_clip"}
    """The loss of the tokens."""
    regularizers: list[Spec] = []
    """What is added to the loss."""
    updates_per_iteration: Positive = 1
    """An iteration's samples are split into so many updates."""
    samples_per_update: Positive | None = None
    """Bounds the part of an update instead; the number of updates then follows the number of samples."""
    epochs: Positive = 1
    """How often they are gone over."""
    refill_rounds: Annotated[int, Field(ge=0)] = 2
    """How often an iteration plays again what filters ask for."""
    old_logprobs: Literal["sampler", "learner"] = "learner"
    """Those of the old policy: "sampler" trusts the ones of sampling (exact where sampler and learner are one model in one
    precision), "learner" computes them again."""


class OptimizerTable(Table):
    """AdamW, and memory."""

    lr: Annotated[float, Field(gt=0)] = 1e-6
    """The learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the two moments."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled, times the learning rate."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Updates until the rate is reached."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """A longer gradient is cut to this length."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """From the warm-up to the last update."""
    floor: Fraction = 0.0
    """Where it ends, as a share of ``lr``."""
    token_budget: Positive = 16384
    """The most tokens of a micro-batch, padding included; changes memory and speed, never the gradient."""
    logit_chunk: Positive | None = None
    """The most trained tokens whose logits exist at a time (absent: as many as make 256 MiB of them); likewise."""
    packing: bool | Literal["auto"] = "auto"
    """Several samples in a row, one after the other, in place of padding; "auto" does so where it saves a tenth of the work;
    likewise."""


class CriticTable(Table):
    """A critic, for credit that reads ``value``: a second model, made of the policy as it is at the start. Betas, weight decay and
    memory are those of ``[optimizer]``."""

    lr: Annotated[float, Field(gt=0)] = 1e-5
    """Its learning rate, constant after the warm-up."""
    loss: Spec = {"name": "value"}
    """A loss of values."""
    epochs: Positive | None = None
    """How often the turns of an iteration are gone over (absent: ``algorithm.epochs``)."""
    updates_per_iteration: Positive | None = None
    """Updates of each (absent: as many as the policy's)."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Updates until the rate is reached."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """A longer gradient is cut to this length."""


class EvaluationTable(Table):
    """A fixed panel: always the same tasks, in the same order."""

    split: str = "valid_seen"
    """Where its tasks are from."""
    episodes: Annotated[int, Field(ge=0)] = 200
    """The first so many tasks; 0: no panel."""
    every: Annotated[int, Field(ge=0)] = 0
    """Also every so many iterations; 0: only before and after."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Of sampling; 0 is greedy."""
    greedy: bool = True
    """Whether the panel is also played greedily, before and after."""
    games: str | None = None
    """A folder of real games in ALFWorld's layout, played before and after."""
    max_turns: Positive | None = None
    """The most turns of an episode (absent: as in training)."""
    games_max_turns: Positive = 50
    """The same of a real game."""


class CheckpointTable(Table):
    """What a killed run goes on from."""

    every: Positive = 10
    """Iterations between two checkpoints."""
    keep: Annotated[int, Field(ge=0)] = 2
    """How many of the latest stay; 0: all. With `evaluation.every` the best by success on the sampled panel stays, too, as
    `checkpoints/best`."""


def _threshold(value: float | bool) -> float | bool:
    if value is True or (value <= 0 and value is not False):
        raise ValueError("wanted a number above 0, or false to switch the alarm off")
    return value


Threshold = Annotated[float | bool, AfterValidator(_threshold)]


class AlarmsTable(Table):
    """From where on an iteration raises an alarm, each over the mean of the last `window` iterations; false: never."""

    window: Positive = 5
    """Iterations of the mean that is compared."""
    entropy_collapse: Threshold = 0.1
    """Below this share of the first iterations' entropy."""
    entropy_explosion: Threshold = 3.0
    """Above this many times the first iterations' entropy."""
    valid_actions: Threshold = 0.5
    """Below this share of valid actions."""
    repeated_actions: Threshold = 0.3
    """Above this share of turns that repeat the last one's action on an unchanged state."""
    zero_variance: Threshold = 0.8
    """Above this share of groups with equal rewards."""
    length_growth: Threshold = 3.0
    """Above this many times the first iterations' length of completions."""
    length_limit: Threshold = 0.3
    """Above this share of completions cut off at `max_tokens`."""
    sampler_gap: Threshold = 0.05
    """Above this mean difference of the sampler's and the learner's log-probs, a token."""
    success_flat: Threshold = 20.0
    """After this many iterations in a row without a success."""


class ResourcesTable(Table):
    """Where is computed."""

    backend: Literal["local", "ray"] = "local"
    """Where episodes are played: "local" in this process, "ray" by workers of a Ray cluster, on one machine or many. The keys
    from `rollout_workers` on are for "ray"."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models are; "auto" is the GPU where there is one."""
    threads: Positive | None = None
    """torch's threads on the CPU (absent: the cores this process may use; of a rollout worker: its `worker_cpus`)."""
    learners: Positive = 1
    """Processes that train together, on CUDA each on a device of its own; what is learnt does not depend on it."""
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    """What each of several learners holds: "ddp" the whole model, "fsdp2" a part of each layer and of the optimiser's state."""
    learner_timeout_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 60.0
    """A learner that shows no sign of life for so long (it was stopped, its machine is gone) is given up."""
    restarts: Annotated[int, Field(ge=0)] = 3
    """How often the run goes on from its last checkpoint by itself after one of several learners was lost; 0: that ends it."""
    rollout_workers: Positive = 1
    """Processes that play episodes, each with an engine and environments of its own."""
    address: Annotated[str, Field(min_length=1)] | None = None
    """The cluster to join: "auto" (the one of this machine), or HOST:PORT (absent: a Ray of the run's own on this machine)."""
    worker_cpus: Annotated[float, Field(ge=0)] = 1.0
    """Cores of a rollout worker."""
    worker_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs of a rollout worker; 0.5 shares one between two (absent: 1 where the cluster has any, else none)."""
    learner_cpus: Annotated[float, Field(ge=0)] = 1.0
    """Cores of each learner but the first, which is the training process."""
    learner_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs of the same (absent: as for workers)."""
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = "pack"
    """On which machines: "pack" on few, "spread" over many; "strict_pack" on one, "strict_spread" on one each."""
    worker_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """A worker that gives no sign of life for so long is killed and replaced. An environment that is "inline" keeps its worker from
    answering for as long as a step takes."""
    worker_restarts: Annotated[int, Field(ge=0)] = 3
    """How often a worker is replaced between two updates before the run gives up."""
    runtime_env: Spec = {}
    """Ray's runtime environment of the workers: `working_dir`, `pip`, `env_vars` …, for machines that share no folder."""


class RunTable(Table):
    """Name, seed, length."""

    name: Annotated[str, Field(pattern=r"^\w[\w .,+=@-]*$")] = "run"
    """Names the folder under ``runs/``: letters, digits and some signs, no path."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The root of every random stream."""
    iterations: Annotated[int, Field(ge=0)] = 100
    """How many iterations."""
    time_limit_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Ends the iterations early, so that the last evaluation still fits into it, counted from the start of the process."""
    trackio: Annotated[str, Field(pattern=r"^\w[\w .-]*$")] | None = None
    """A project of trackio on this machine that gets the metrics, too."""
    report: bool = True
    """Write report.html at the end; `agentrl view` writes it at any time."""


class DemosTable(Table):
    """How ``agentrl demos`` makes demonstrations."""

    agent: Spec = {"name": "expert"}
    """Who plays."""
    episodes: Positive = 1000
    """How many tasks of the split."""
    first: Annotated[int, Field(ge=0)] = 0
    """The place of the first."""
    only_success: bool = False
    """Keep only the episodes that succeed."""
    imitate_noise: bool = False
    """Also learn from the turns that were the agent's noise."""
    roles: dict[str, str | Spec] = {}
    """Where ``[agent]`` is made of modules: the rule that shows what each trained role is to say, in place of ``agent``."""


class SftTable(Table):
    """Supervised learning by ``agentrl sft``, from demonstrations or from a training run's own trajectories."""

    updates: Positive = 1000
    """How many updates."""
    batch_size: Positive = 128
    """Samples of an update."""
    balance: Literal["verb", "none"] = "verb"
    """How samples are drawn: "verb" by 1/√(count of the action's first word), "none" evenly."""
    context_weight: Fraction = 0.0
    """Also train the prompt's tokens, at this weight against 1 for a demonstrated token."""
    only_success: bool = True
    """Of a training run: leave the failures out (of demonstrations, ``[demos]`` decided when they were made)."""
    first_iteration: Annotated[int, Field(ge=0)] = 0
    """Of a training run: leave the earlier iterations out."""


class RunConfig(Table):
    """A whole run file."""

    env: Annotated[tuple[EnvTable, ...], Field(min_length=1)]
    model: ModelTable = ModelTable()
    agent: AgentTable = AgentTable()
    rollout: RolloutTable = RolloutTable()
    algorithm: AlgorithmTable = AlgorithmTable()
    optimizer: OptimizerTable = OptimizerTable()
    critic: CriticTable | None = None
    evaluation: EvaluationTable = EvaluationTable()
    checkpoint: CheckpointTable = CheckpointTable()
    alarms: AlarmsTable = AlarmsTable()
    resources: ResourcesTable = ResourcesTable()
    run: RunTable = RunTable()
    demos: DemosTable = DemosTable()
    sft: SftTable = SftTable()

    @field_serializer("env", mode="wrap")
    def _one_or_more(self, tables: Any, dump: SerializerFunctionWrapHandler) -> Any:
        first, *further = dump(tables)
        return [first, *further] if further else first

    @property
    def only_env(self) -> EnvTable:
        """The environment of a run file that has one. Raises ConfigError where it has several."""
        if len(self.env) > 1:
            titles = ", ".join(table.title for table in self.env)
            raise ConfigError(f"wanted a run file with one environment; this one has {titles}; leave one [[env]]")
        return next(iter(self.env))

    def agent_of(self, table: EnvTable) -> AgentTable:
        """The agent that plays an environment: ``[agent]`` with what the environment's own ``agent`` changes."""
        return AgentTable.model_validate({**self.agent.model_dump(exclude_unset=True), **table.agent})
