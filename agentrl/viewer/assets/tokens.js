"use strict";
// The exact tokens of a call: context and what was sampled, coloured by what is known of each.

const shown = { tokens: remembered("tokens", "sampled"), colour: remembered("colour", "role"), why: false };
const TOKENS = [["none", "hidden"], ["sampled", "sampled"], ["all", "all"]];
const COLOURINGS = [
  ["role", "role", "trained, sampled but not trained, context"],
  ["advantage", "advantage", "the advantage of the turn that sampled the token"],
  ["logprob", "log-prob", "how unlikely the token was to the policy that sampled it"],
  ["gap", "gap", "log-probability by the sampler less that by the learner"],
  ["version", "version", "the policy version that sampled the token"],
];
const NO_GAP = "There is no sampler–trainer gap by token here: the learner's log-probs are recorded in training with algorithm.old_logprobs = \"learner\"; with \"sampler\" it takes the sampler's on trust.";

/** What the colours of an episode run between. */
function scales(ep) {
  const calls = ep.turns.flatMap((turn) => turn.calls);
  const logprobs = calls.flatMap((call) => call.l || []).filter((v) => v !== null);
  const gaps = calls.flatMap((call) => (call.l && call.g ? call.l.map((v, place) => Math.abs(v - call.g[place])) : []));
  return {
    advantage: Math.max(0, ...ep.turns.map((turn) => Math.abs(turn.advantage || 0))),
    logprob: logprobs.length ? Math.min(8, Math.max(1e-9, -logprobs.reduce((a, b) => Math.min(a, b), 0))) : 0,
    gap: gaps.length ? gaps.reduce((a, b) => Math.max(a, b), 0) : null,
    versions: [...new Set(calls.filter((call) => call.src === "policy").map((call) => call.v))].sort((a, b) => a - b),
  };
}

function hasGap(ep) {
  return ep.turns.some((turn) => turn.calls.some((call) => call.g && call.l));
}

/** The colour of a sampled token as [variable, strength from 0 to 1]. */
function colourOf(call, turn, place, scale) {
  const logprob = call.l ? call.l[place] : null;
  if (shown.colour === "advantage") return turn.advantage === null || !call.t ? null : [turn.advantage < 0 ? "--neg" : "--pos", scale.advantage ? Math.abs(turn.advantage) / scale.advantage : 0];
  if (shown.colour === "logprob") return logprob === null ? null : ["--rare", Math.min(1, -logprob / scale.logprob)];
  if (shown.colour === "gap") {
    if (logprob === null || !call.g) return null;
    const gap = logprob - call.g[place];
    return [gap < 0 ? "--neg" : "--pos", scale.gap ? Math.abs(gap) / scale.gap : 0];
  }
  if (shown.colour === "version") return [`--c${1 + (scale.versions.indexOf(call.v) % 7)}`, 0.6];
  return [call.t ? "--trained" : "--untrained", 0.5];
}

function tokenElement(id, words, place, kind) {
  const text = words.texts.get(id);
  const special = words.special.has(id);
  return h(`span.tok.${kind}`, { class: special ? "special" : "", data: { id: String(id), place: String(place) } }, text === undefined ? `⟨${id}⟩` : text.replaceAll("\n", "↵\n"));
}

/** The tokens of a call. The part of the prompt that the call before it had, too, is folded. */
function tokenBlock(call, turn, words, scale) {
  const block = h(".tokens", { data: { role: call.role } });
  const line = [];
  if (shown.tokens === "all") {
    if (call.n) {
      const fold = h("button.fold", { type: "button", title: "Show them" }, `⋯ ${plural(call.n, "token")} as before`);
      fold.addEventListener("click", () => fold.replaceWith(...call.prompt.slice(0, call.n).map((id, place) => tokenElement(id, words, place, "context"))));
      line.push(fold);
    }
    for (let place = call.n; place < call.prompt.length; place++) line.push(tokenElement(call.prompt[place], words, place, "context"));
  }
  call.c.forEach((id, place) => {
    const element = tokenElement(id, words, place, "sampled");
    const colour = colourOf(call, turn, place, scale);
    if (colour) {
      element.style.setProperty("--tone", `var(${colour[0]})`);
      element.style.setProperty("--strength", `${Math.round(6 + 64 * clamp(colour[1], 0, 1))}%`);
      element.classList.add("toned");
    }
    line.push(element);
  });
  const numbers = [plural(call.prompt.length, "context token"), `${grouped(call.c.length)} sampled`, call.src === "policy" ? `version ${call.v}` : call.src, call.f === "stop" ? null : call.f, call.t ? null : "not trained"];
  add(block, [h(".tokenhead", {}, h("span.role", {}, call.role), numbers.filter(Boolean).join(" · ")), h(".tokenline", {}, line)]);
  block.addEventListener("pointermove", (event) => hoverToken(event, call, turn));
  block.addEventListener("pointerleave", tip.hide);
  return block;
}

function hoverToken(event, call, turn) {
  const element = event.target.closest(".tok");
  if (!element) {
    tip.hide();
    return;
  }
  const place = Number(element.dataset.place);
  const sampled = element.classList.contains("sampled");
  const logprob = sampled && call.l ? call.l[place] : null;
  const learner = sampled && call.g ? call.g[place] : null;
  tip.show(event, h(".tiphead.mono", {}, JSON.stringify(element.textContent.replaceAll("↵\n", "\n"))), pairs([
    ["token", `${element.dataset.id}, ${sampled ? (call.t ? "sampled, trained" : "sampled, not trained") : "context"}`],
    logprob === null ? null : ["log-prob", `${num(logprob, 4)}  (p = ${num(Math.exp(logprob), 3)})`],
    learner === null ? null : ["learner", `${num(learner, 4)}`],
    learner === null || logprob === null ? null : ["gap", signed(logprob - learner, 3)],
    sampled && turn.advantage !== null && call.t ? ["advantage", signed(turn.advantage, 4)] : null,
    sampled ? ["version", String(call.v)] : null,
    sampled && call.s.temperature !== undefined ? ["temperature", num(call.s.temperature)] : null,
  ]));
}

/** A conversation with a model behind an API, which shows no tokens. */
function messageBlock(call) {
  const text = (content) => (typeof content === "string" ? content : content === null || content === undefined ? "" : content.map((part) => (part.type === "text" ? part.text : `[${part.type}]`)).join("\n"));
  const reply = call.reply || {};
  return h(".tokens", { data: { role: call.role } },
    h(".tokenhead", {}, h("span.role", {}, call.role), [reply.n_prompt === undefined ? null : plural(reply.n_prompt, "context token"), reply.n_completion === undefined ? null : `${grouped(reply.n_completion)} sampled`, "behind an API: no token ids"].filter(Boolean).join(" · ")),
    shown.tokens === "all" ? (call.messages || []).map((message) => h(".message", { data: { role: message.role } }, h("b", {}, message.role), h("pre", {}, text(message.content)))) : null,
    h(".message", { data: { role: "assistant" } }, h("b", {}, "reply"), reply.reasoning ? h("pre.muted", {}, reply.reasoning) : null, h("pre", {}, reply.text || reply.refusal || "")));
}

function scaleLegend(ep, scale) {
  const ramp = (left, right, tones) => h("span.ramp", {}, h("span", {}, left), h("i", { style: { background: `linear-gradient(90deg, ${tones})` } }), h("span", {}, right));
  const tone = (name) => `color-mix(in srgb, var(${name}) 70%, transparent)`;
  if (shown.colour === "advantage") return scale.advantage ? ramp(signed(-scale.advantage), signed(scale.advantage), `${tone("--neg")}, transparent, ${tone("--pos")}`) : h("span.note", {}, "No turn of this episode has an advantage.");
  if (shown.colour === "logprob") return scale.logprob ? ramp("p = 1", `p = ${num(Math.exp(-scale.logprob), 2)}`, `transparent, ${tone("--rare")}`) : h("span.note", {}, "No log-probs were recorded.");
  if (shown.colour === "gap") return ramp(signed(-scale.gap), signed(scale.gap), `${tone("--neg")}, transparent, ${tone("--pos")}`);
  if (shown.colour === "version") return h("span.legend", {}, scale.versions.map((version, place) => h("span", {}, swatch(`var(--c${1 + (place % 7)})`), `version ${version}`)));
  return h("span.legend", {}, h("span", {}, swatch("var(--trained)"), "trained"), h("span", {}, swatch("var(--untrained)"), "sampled, not trained"), h("span", {}, swatch("var(--line)"), "context"));
}
