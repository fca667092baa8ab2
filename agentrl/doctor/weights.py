"""Checks of a model's own files: what its config promises, and whether its weights can be loaded and trained."""

from __future__ import annotations

from agentrl.doctor.checks import Finding, collector, ok
from agentrl.doctor.subject import Subject
from agentrl.errors import CheckpointError, ConfigError

BEFORE, before = collector("model")  # nothing is loaded
CHECKS, check = collector("model")
UNBOUNDED = 10**9  # what tokenizers call a limit and is none
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "min_p": 0.0, "typical_p": 1.0}
SAMPLERS = (*NEUTRAL, "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "forced_bos_token_id")


@before("tokenizer")
def generation_config(subject: Subject) -> Finding:
    """What the model's generation_config.json says of sampling, and what of it is used."""
    given = {key: value for key in SAMPLERS if (value := subject.generation.get(key)) is not None}
    ignored = {key: value for key, value in given.items() if value != NEUTRAL.get(key)}
    used = f"eos_token_id = {subject.generation_ends}" if subject.generation_ends else "no eos_token_id"
    if not ignored:
        return ok(f"it says nothing of sampling; used: {used}")
    temperature = subject.settings.rollout.temperature
    shown = ", ".join(f"{key} = {value}" for key, value in ignored.items())
    return Finding(
        "note",
        f"not used: {shown}; used: {used}",
        "answers are more random here than where those hold; a truncated distribution cannot be trained exactly",
        f"samples from the whole distribution at rollout.temperature = {temperature:g}",
        "rollout.temperature",
        {"ignored": ignored},
    )


@before("tokenizer")
def context(subject: Subject) -> Finding:
    """How many tokens the model takes, and who else says so."""
    positions, asked = subject.shape.positions, subject.table.context
    said = getattr(subject.tokenizer, "model_max_length", None)
    said = said if isinstance(said, int) and said < UNBOUNDED else None
    numbers = {"positions": positions, "tokenizer": said, "agent": asked}
    if positions is None:
        return Finding(
            "note" if asked else "warning",
            "the model's config does not say how many positions it has",
            "prompts may grow beyond what it was trained on",
            f"bounds prompt and completion by agent.context = {asked}" if asked else "bounds prompts by nothing",
            "agent.context",
            numbers,
        )
    if asked is not None and asked > positions:
        return Finding(
            "failure",
            f"agent.context = {asked}, and the model has {positions} positions",
            "positions beyond its own were never trained",
            "refuses such a run",
            f"agent.context, to {positions} or fewer",
            numbers,
        )
    if said is not None and said < min(asked or positions, positions):
        return Finding(
            "note",
            f"the model has {positions} positions, its tokenizer says {said}",
            "one of the two is wrong, or the longer range needs another setting of the model's positions",
            f"goes by {'agent.context' if asked else 'the model'}: {asked or positions}",
            f"agent.context = {said}, to be on the safe side",
            numbers,
        )
    return Finding("ok", f"{positions} positions" + (f", agent.context = {asked}" if asked else ""), numbers=numbers)


@before("tokenizer")
def dtype(subject: Subject) -> Finding:
    """The precision that the weights were saved in, and the one that is to be used."""
    saved = str(subject.config.get("dtype") or subject.config.get("torch_dtype") or "unknown")
    wanted = subject.settings.model.dtype
    if wanted == "float16":
        return Finding(
            "warning",
            "model.dtype = 'float16'",
            "it plays, but its gradients would vanish or overflow",
            "samples with it and does not train it",
            'model.dtype = "bfloat16"',
        )
    if saved in ("bfloat16", "float16") and wanted == "float32":
        return Finding(
            "note",
            f"saved in {saved}, used in float32",
            "it takes twice the memory and, on a GPU, several times the time",
            "computes exactly; log-probs of sampler and trainer agree to many digits",
            'model.dtype = "bfloat16", which is trained through float32 master weights',
        )
    return ok(f"saved in {saved}, used in {wanted}")


@check("template")
def weights(subject: Subject) -> Finding:
    """The weights can be loaded here, and are numbers."""
    from agentrl.learning import estimate, probes

    shape, name = subject.shape, subject.settings.model.dtype
    size, free = shape.n_parameters * estimate.BYTES[name], estimate.available(subject.device)
    shown = estimate.amount(size, estimate.SIZES)
    if free is not None and size > free:
        return Finding(
            "failure",
            f"{shape.n_parameters:,} parameters take {shown} in {name}, and {estimate.amount(free, estimate.SIZES)} are free "
            f"({subject.device})",
            "the model does not fit this machine",
            "does not load it",
            'model.dtype = "bfloat16", resources.device, or a machine with more memory',
        )
    try:
        model = subject.weights
    except (CheckpointError, ConfigError) as error:
        return Finding(
            "failure",
            "the weights cannot be loaded",
            str(error),
            "can neither train nor evaluate this model",
            "model.path, to a whole checkpoint; model.lora, where it is an adapter",
        )
    broken = probes.not_finite(model)
    if broken:
        return Finding(
            "failure",
            f"{len(broken)} tensors hold values that are no finite numbers, first {broken[0]}",
            "every log-prob may be NaN",
            "ends a run at the first loss that is not finite",
            f"an earlier checkpoint; model.dtype, where {name} is what overflows",
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if rows != shape.vocabulary:
        return Finding(
            "warning",
            f"the embeddings have {rows} rows and config.json says {shape.vocabulary}",
            "sizes that are computed from the config are wrong",
            "goes by the weights",
            "vocab_size in config.json",
        )
    return ok(
        f"{shape.kind}, {shape.n_parameters:,} parameters, {shown} in {name} on {subject.device}",
        parameters=shape.n_parameters,
        bytes=size,
    )


@check("weights", "vocabulary")
def head(subject: Subject) -> Finding:
    """The learner's way from hidden states to logits gives the model's own logits."""
    from agentrl.learning.logprobs import Head

    try:
        found = Head.of(subject.weights)
    except ConfigError as error:
        return Finding(
            "failure",
            "the learner does not know what this model does to its logits",
            str(error),
            "refuses to train another distribution than the one that is sampled",
            "another architecture; agentrl/learning/logprobs.py lists what is known",
        )
    scale = f", scaled by {found.scale:g}" if found.scale != 1 else ""
    cap = f", capped at {found.cap:g}" if found.cap is not None else ""
    return ok(f"logits come straight from the output embedding{scale}{cap}")
