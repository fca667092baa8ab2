"""Sampling with vLLM's asynchronous engine, in a process of its own.

    policy = VllmPolicy(model, root_seed=0, context=1024)
    completion = await policy.generate(prompt_ids, Sampling(key=("episode", 3)), "episode=3/turn=0")
    policy.update(model, version=1)      # the engine goes on with these weights
    policy.close()

Token ids go in and out; nothing is decoded. Log-probs are those of the distribution that was drawn from (temperature and
truncation included). A request draws from its own seed, so the same requests give the same ids on the same machine as long as
rounding is the same; unlike the transformers policy's, the engine's rounding depends on who shares a step.

Prompts that begin like an earlier one are computed from there (prefix caching), also across turns. An update empties the cache.
A request whose caller is cancelled is aborted in the engine. An engine that dies or hangs is a fault of each request that it
held (PolicyFault: the episode is retried by replay), and is started again with the weights it had, ``restarts`` times between two
updates, and anew an hour after its last start (a server takes no updates).
"""

# What is not installed everywhere has no types everywhere.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportOptionalMemberAccess=false
# pyright: reportUnnecessaryTypeIgnoreComment=false

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import torch
from vllm.exceptions import VLLMClientError
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from agentrl import seeding
from agentrl.errors import AgentRLError, ConfigError, EngineLost, PolicyFault
from agentrl.policies.loop_thread import LoopThread
from agentrl.policies.vllm_engine import RANKS, STEP_TOKENS, EngineSettings, start
from agentrl.policies.vllm_weights import WeightsFolder, has_adapter, head_size
from agentrl.registry import register
from agentrl.types import Completion, Finish, Sampling
from agentrl.work import Work

HEALTHY_S = 3600.0  # after which an engine does not fail for what made it fail before
COLDEST = 0.01  # vLLM raises any lower temperature but 0 to this


@register("policy", "vllm")
class VllmPolicy:
    """``model`` gives the first weights, ``update`` the later ones; the engine keeps its own copy.

    ``context`` bounds prompt + completion (absent: the model's own limit), ``batch_size`` the sequences of one step,
    ``max_requests`` the requests in flight (others wait here), ``timeout_s`` the time of one. ``kv_cache_bytes`` bounds the keys
    and values of running and remembered sequences together. ``threads`` are the engine's own. ``lora``: an adapted model's
    updates send the "adapter" alone, or "merged" weights, which work wherever the model does. ``sleep``: the engine gives its
    memory back between ``sleep()`` and the next update (CUDA; on a CPU it only empties the cache). Raises ConfigError where the
    engine cannot start.
    """

    capabilities: frozenset[str] = frozenset({"logprobs", "trainable", "engine"})

    def __init__(
        self,
        model: Any,
        *,
        root_seed: int = 0,
        device: str = "auto",
        context: int | None = None,
        batch_size: int = 256,
        kv_cache_bytes: int = 2**30,
        prefix_caching: bool = True,
        threads: int = 1,
        tensor_parallel: int = 1,
        eager: bool | None = None,
        max_requests: int = 1024,
        timeout_s: float = 600.0,
        restarts: int = 3,
        lora: Literal["adapter", "merged"] = "adapter",
        sleep: bool = False,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.root_seed = root_seed
        self.timeout_s = timeout_s
        self.restarts = restarts
        self.version = 0
        self.n_prompt_tokens = 0  # of all requests that were answered
        self.n_cached_tokens = 0  # of those, what was not computed again
        self.n_restarts = 0
        self._failures = 0  # of the engine since it last took weights
        self.asleep = False
        self.sleeps = sleep
        self.in_flight = 0  # requests that the engine holds
        used = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        shape = (model.get_base_model() if has_adapter(model) else model).config.get_text_config()
        size = _head_size(head_size(shape), used)
        context = context or int(getattr(shape, "max_position_embeddings", 4096))
        padded = size is not None
        alone = has_adapter(model) and lora == "adapter" and not padded
        first = next(model.parameters())
        room = min(kv_cache_bytes, _most_cached(shape, batch_size, context, size) * first.element_size())
        self.settings = EngineSettings(
            device=used, dtype=str(first.dtype).removeprefix("torch."), context=context, batch_size=batch_size,
            cache_bytes=room, prefix_caching=prefix_caching, threads=threads, tensor_parallel=tensor_parallel,
            eager=eager, lora_rank=_rank(model) if alone else 0, sleeps=sleep, seed=root_seed % 2**31, extra=extra or {},
        )  # fmt: skip
        # Of what was answered; on several devices together it would be no bound of what one of them measures.
        self.work = {"reading": Work(), "decoding": Work()} if tensor_parallel == 1 else {}
        self._folder = WeightsFolder(size=size, adapter_alone=alone)
        self._llm: AsyncLLM | None = None
        self._adapter: LoRARequest | None = None
        self._started = self._heard = 0.0  # when the engine began, and when it last answered
        self._loop = LoopThread("vllm")
        try:
            self._base = self._folder.write_base(model) if alone else None
            self._weights, _ = self._folder.write(model, 0)
            self.limit(max_requests)
            self._loop.run(self._prepare())
        except BaseException:
            self.close()
            raise

    def limit(self, max_requests: int) -> None:
        """From the next request on the engine holds so many at most."""
        self._slots = asyncio.Semaphore(max_requests)

    async def _prepare(self) -> None:
        self._starting = asyncio.Lock()
        await self._start()

    # ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Completion:
        """Raises PolicyFault where the engine failed or did not answer in time, and ConfigError for what it cannot do."""
        return await asyncio.wrap_future(self.submit(prompt_ids, sampling, request_id))

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Future[Completion]:
        """The same for callers without an event loop. Cancelling the future aborts the request."""
        return self._loop.submit(self._generate(list(prompt_ids), self._parameters(sampling), request_id))

    def _parameters(self, sampling: Sampling) -> SamplingParams:
        if 0 < sampling.temperature < COLDEST:
            raise ConfigError(
                f"vLLM samples at temperatures from {COLDEST:g} on, and 0; {sampling.temperature:g} is neither"
            )
        try:
            return SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                stop_token_ids=list(sampling.stop_ids),
                ignore_eos=True,  # a turn ends with what the chat template ends it with
                seed=seeding.seed(self.root_seed, "sampling", *sampling.key),
                logprobs=0,  # of the sampled token alone
                flat_logprobs=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
        except (VLLMClientError, ValueError) as error:
            raise ConfigError(f"vLLM does not sample so: {error}") from error

    async def _generate(self, prompt_ids: list[int], parameters: SamplingParams, request_id: str) -> Completion:
        async with self._slots:
            llm = await self._living()
            began = time.monotonic()
            self.in_flight += 1
            try:
                async with asyncio.timeout(self.timeout_s):
                    found = await self._ask(llm, prompt_ids, parameters, request_id)
            except TimeoutError as error:
                if self._heard < began:  # nobody got an answer in all that time
                    self._bury(llm)
                raise PolicyFault(f"vLLM did not answer {request_id} in {self.timeout_s:g} s") from error
            except VLLMClientError as error:  # a prompt that does not fit, a parameter that it does not take
                raise ConfigError(f"vLLM refuses {request_id}: {error}") from error
            except EngineDeadError as error:
                self._bury(llm)
                raise PolicyFault(f"vLLM's engine died while it held {request_id}") from error
            except Exception as error:
                raise PolicyFault(f"vLLM failed at {request_id}: {error.__cause__ or error!r}") from error
            finally:
                self.in_flight -= 1
        self._heard = time.monotonic()
        self.n_prompt_tokens += len(prompt_ids)
        self.n_cached_tokens += found.num_cached_tokens or 0
        completion = self._completion(found, request_id)
        if self.work:
            self._count(len(prompt_ids), found.num_cached_tokens or 0, len(completion.ids))
        return completion

    def _count(self, n_prompt: int, n_cached: int, n_sampled: int) -> None:
        """The work of a request. Which of them shared a pass only the engine knows: passes are as few as there can be."""
        reading, decoding = self.work["reading"], self.work["decoding"]
        reading.add([(n_prompt - n_cached, n_cached)], logits=1)
        reading.forwards = math.ceil(reading.tokens / max(STEP_TOKENS, self.settings.context))
        steps = n_sampled - 1  # the first token is read off the prompt
        past = steps * n_prompt + steps * (steps - 1) // 2
        decoding += Work(0, steps, steps, past + steps, past)
        decoding.forwards = math.ceil(decoding.tokens / self.settings.batch_size)
        self.work["decoding"] = decoding

    async def _ask(
        self, llm: AsyncLLM, prompt_ids: list[int], parameters: SamplingParams, request_id: str
    ) -> RequestOutput:
        prompt: Any = {"prompt_token_ids": prompt_ids}
        answers = llm.generate(prompt, parameters, request_id, lora_request=self._adapter)
        found = [answer async for answer in answers]  # one, the whole completion
        if not found:
            raise PolicyFault(f"vLLM gave nothing for {request_id}")
        return found[-1]

    def _completion(self, found: RequestOutput, request_id: str) -> Completion:
        output = found.outputs[0]
        if output.finish_reason not in ("stop", "length"):
            raise PolicyFault(f"vLLM ended {request_id} before its time: {output.finish_reason}")
        finish: Finish = "stop" if output.finish_reason == "stop" else "length"
        chosen: Any = output.logprobs  # flat: one entry a token
        ids = list(output.token_ids)
        if chosen is None or list(chosen.token_ids) != ids:
            raise PolicyFault(f"vLLM gave log-probs of other tokens than it sampled for {request_id}")
        versions = [int(span.version) for span in output.weight_versions or () for _ in range(span.start, span.end)]
        mixed = len(set(versions)) > 1
        return Completion(
            ids=ids,
            logprobs=list(chosen.logprobs),
            finish=finish,
            version=versions[0] if versions else self.version,
            versions=versions if mixed else None,
        )

    # ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def update(self, model: Any, version: int, *, in_flight: Literal["keep", "wait"] = "keep") -> int:
        """From here on the engine samples with the model's weights as they are now; returns how many bytes were handed over.

        Requests in flight go on with the new weights ("keep": what they had read is computed again, and their completions say
        which token is whose), or are finished first ("wait", and always where an adapter is sent alone). A sleeping engine
        wakes. Raises AgentRLError where the engine does not take them.
        """
        path, n_bytes = self._folder.write(model, version)
        self._weights = path
        try:
            self._loop.run(self._load(version, in_flight))
        except AgentRLError:
            raise
        except Exception as error:
            raise AgentRLError(f"vLLM does not take the weights of version {version}: {error!r}") from error
        return n_bytes

    async def _load(self, version: int, in_flight: Literal["keep", "wait"]) -> None:
        dead = self._llm is None or self._llm.errored
        previous, self.version = self.version, version
        llm = await self._living()
        if dead:
            return  # it has started with these weights
        try:
            if self.asleep:
                await llm.wake_up(["weights"])
            else:
                await llm.pause_generation(mode="wait" if self.settings.lora_rank else in_flight, clear_cache=False)
            await self._put(llm)
            await llm.reset_prefix_cache(reset_running_requests=True)
            await (llm.wake_up() if self.asleep else llm.resume_generation())
            self._failures = 0
        except EngineDeadError:
            self._bury(llm)
            await self._living()
        except BaseException:
            self.version = previous
            raise
        self.asleep = False

    async def _put(self, llm: AsyncLLM) -> None:
        """The weights of ``self._weights`` into a running engine."""
        if self.settings.lora_rank:
            adapter = LoRARequest(
                f"version-{self.version}-{self._weights.name}", _number(self._weights), str(self._weights)
            )
            await llm.add_lora(adapter)
            if self._adapter is not None:
                await llm.remove_lora(self._adapter.lora_int_id)
            self._adapter = adapter
        else:
            await llm.collective_rpc("take_weights", args=(str(self._weights),))
        await llm.update_weight_version(str(self.version))

    def sleep(self) -> None:
        """Until the next ``update`` or ``wake`` no request is answered, the cache is empty, and on CUDA the memory of weights
        and cache is free for the learner. Does nothing where ``sleep`` was not asked for."""
        if self.sleeps and not self.asleep:
            # Level 2 forgets the weights, since the update brings all of them; those below an adapter must stay (level 1).
            level = 1 if self.settings.lora_rank else 2
            self._loop.run(self._sleep(level))

    async def _sleep(self, level: int) -> None:
        await (await self._living()).sleep(level, mode="wait")
        self.asleep = True

    def wake(self) -> None:
        """Ends a sleep with the weights that were handed over last."""
        if self.asleep:
            self._loop.run(self._load(self.version, "wait"))

    # ── the engine's life ────────────────────────────────────────────────────────────────────────────────────────────

    async def _start(self) -> None:
        # A start blocks this loop: nobody can be answered before it is over.
        llm = self._llm = start(self.settings, self._base or self._weights)
        self._adapter = None
        self._started = self._heard = time.monotonic()
        self.asleep = False
        if self._base is not None:
            await self._put(llm)
        else:
            await llm.update_weight_version(str(self.version))

    async def _living(self) -> AsyncLLM:
        """The engine, started again where it has died. Raises PolicyFault where that fails, and EngineLost where it is not tried
        any more."""
        async with self._starting:
            if self._llm is not None and self._llm.errored:
                self._bury(self._llm)
            if self._llm is None:
                if time.monotonic() - self._started > HEALTHY_S:
                    self._failures = 0
                if self._failures >= self.restarts:
                    raise EngineLost(
                        f"vLLM's engine has failed {self._failures + 1} times; it is not started again; VLLM_LOGGING_LEVEL=INFO "
                        "shows what it does"
                    )
                self._failures += 1
                self.n_restarts += 1
                try:
                    await self._start()
                except ConfigError as error:
                    raise PolicyFault(f"vLLM's engine cannot be started again: {error}") from error
            assert self._llm is not None
            return self._llm

    def _bury(self, llm: AsyncLLM) -> None:
        """Ends an engine that is of no use, once."""
        if self._llm is llm:
            self._llm = None
            llm.shutdown(timeout=0)

    def close(self) -> None:
        """Ends the engine and its processes; twice is once."""
        llm, self._llm = self._llm, None
        if llm is not None:
            self._loop.run(_shut(llm))
        self._loop.close()
        self._folder.close()


async def _shut(llm: AsyncLLM) -> None:
    llm.shutdown()


def _number(path: Path) -> int:
    """The running number of a folder of weights, from 1 on."""
    return int(path.name.split("-")[0])


def _most_cached(shape: Any, batch_size: int, context: int, size: int | None) -> int:
    """Numbers in the keys and values of twice as many sequences as a step has, all of them as long as may be."""
    heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    return 2 * batch_size * context * 2 * shape.num_hidden_layers * heads * (size or head_size(shape))


def _rank(model: Any) -> int:
    rank = model.peft_config[model.active_adapter].r
    if rank > RANKS[-1]:
        raise ConfigError(
            f'vLLM takes adapters up to rank {RANKS[-1]}, this one has {rank}; use rollout.vllm.lora = "merged"'
        )
    return rank


def _head_size(own: int, device: str) -> int | None:
    """The size to which heads must be filled up, None where they are as the engine takes them."""
    if device != "cpu":
        return None
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    known = CPUAttentionBackend.get_supported_head_sizes()
    if own in known:
        return None
    larger = [size for size in known if size > own]
    if not larger:
        raise ConfigError(f"vLLM's attention on a CPU takes heads up to size {max(known)}, and this model's have {own}")
    return min(larger)
