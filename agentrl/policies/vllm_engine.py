"""vLLM's asynchronous engine, kept in a thread with an event loop of its own.

Rollouts make an event loop for every call; the engine lives in one loop for as long as it lives. Its model runs in another
process: on a CPU vLLM binds torch's threads, which a learner beside it must not inherit.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from agentrl.errors import ConfigError

STEP_TOKENS = 8192  # of prompts that one step reads on a CPU
RANKS = (8, 16, 32, 64, 128, 256, 512)  # of adapters, that vLLM makes room for


# Standard output is for what a command prints, with --json for machines.
for _handler in logging.getLogger("vllm").handlers:
    if isinstance(_handler, logging.StreamHandler):
        _handler.setStream(sys.stderr)
if "VLLM_LOGGING_LEVEL" not in os.environ:
    logging.getLogger("vllm").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the engine is told when it starts. ``context`` bounds prompt + completion in tokens, ``batch_size`` the sequences of a
    step, ``cache_bytes`` the keys and values of all of them; ``lora_rank`` is 0 without adapters. ``extra`` are further fields of
    vLLM's AsyncEngineArgs."""

    device: str = "cpu"
    dtype: str = "float32"
    context: int = 1024
    batch_size: int = 256
    cache_bytes: int = 2**30
    prefix_caching: bool = True
    threads: int = 1
    tensor_parallel: int = 1
    eager: bool | None = None
    lora_rank: int = 0
    sleeps: bool = False
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def arguments(self, folder: Path) -> dict[str, Any]:
        """Fields of AsyncEngineArgs."""
        given: dict[str, Any] = {
            "model": str(folder),
            "skip_tokenizer_init": True,
            "dtype": self.dtype,
            "max_model_len": self.context,
            "max_num_seqs": self.batch_size,
            "kv_cache_memory_bytes": self.cache_bytes,
            "enable_prefix_caching": self.prefix_caching,
            "tensor_parallel_size": self.tensor_parallel,
            "enforce_eager": self.device == "cpu" if self.eager is None else self.eager,
            # What vLLM calls processed are the log-probs after temperature and truncation: those of what was drawn from.
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            "seed": self.seed,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "worker_extension_cls": "agentrl.policies.vllm_worker.WorkerExtension",
        }
        if self.device == "cpu":
            given["block_size"] = 32  # tokens that are cached together, the fewest of the CPU's attention
            # Where a step reads a part of a prompt, vLLM sets a request's random stream back, which the CPU's cannot do.
            whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(STEP_TOKENS, self.context)}
            given |= whole
        if self.lora_rank:
            given |= {"enable_lora": True, "max_lora_rank": min(r for r in RANKS if r >= self.lora_rank)}
        if self.sleeps and self.device == "cuda":
            given["enable_sleep_mode"] = True
        return given | self.extra

    def environment(self) -> dict[str, str]:
        """Variables of the engine's process."""
        given = {
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
            "VLLM_LOGGING_STREAM": "ext://sys.stderr",
            "PYTHONWARNINGS": "ignore",
            "AGENTRL_ENGINE_OWNER": str(os.getpid()),
        }
        if self.device == "cpu":
            # Without it the first log-probs wait for a compiler, for a minute on a busy machine.
            given["TORCHDYNAMO_DISABLE"] = "1"
            given |= {"OMP_NUM_THREADS": str(self.threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
            if self.tensor_parallel == 1:
                given["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine's process is its only worker
        return given


def start(settings: EngineSettings, folder: Path) -> AsyncLLM:
    """An engine of the model in ``folder``; to be called inside the event loop that it shall live in. Raises ConfigError where it
    cannot start."""
    threads = torch.get_num_threads()
    try:
        with _environment(settings.environment()):
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**settings.arguments(folder)))
    except Exception as error:  # what vLLM raises here shares no base class
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"vLLM cannot start: {first}; VLLM_LOGGING_LEVEL=INFO shows what it does") from error
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Variables for the processes that are started in the block. vLLM adds its own (LD_PRELOAD, LOCAL_WORLD_SIZE …), which would
    reach every later process of this one."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
