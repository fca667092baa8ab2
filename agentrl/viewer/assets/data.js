"use strict";
// The index, and the chunks of episodes that are loaded when one of them is opened.

const KEPT_CHUNKS = 24; // in memory; further ones are loaded again when they are asked for

const index = JSON.parse(document.getElementById("index").textContent);
const episodes = index.episodes;
const col = episodes.columns;
const waiting = new Map(); // by key: the callbacks of a script that is on its way
const chunks = new Map(); // by number, the least recently used first
const rowOf = new Map();
const membersOf = new Map(); // rows by group
for (let row = 0; row < episodes.n; row++) {
  if (!rowOf.has(col.id[row])) rowOf.set(col.id[row], row);
  if (!membersOf.has(col.group[row])) membersOf.set(col.group[row], []);
  membersOf.get(col.group[row]).push(row);
}

/** The text of a column whose values are numbers of names. */
function nameOf(kind, row) {
  return episodes.names[kind][col[kind][row]];
}

function isTraining(row) {
  return nameOf("phase", row) === index.run.training;
}

/** The last part of an id, which tells a member from the others of its group. */
function memberName(row) {
  const last = col.id[row].split("/").pop();
  return last.includes("=") ? last.replace("=", " ") : last;
}

// ── chunks ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Scripts beside the page call this. */
agentrl.loaded = (build, key, data) => {
  const callbacks = waiting.get(String(key));
  waiting.delete(String(key));
  for (const [resolve, reject] of callbacks || []) {
    if (build === index.build) resolve(data);
    else reject(new Error("The report was written again since this page was opened. Reload the page."));
  }
};
window.agentrl = agentrl;

function script(key, file) {
  return new Promise((resolve, reject) => {
    if (waiting.has(String(key))) {
      waiting.get(String(key)).push([resolve, reject]);
      return;
    }
    waiting.set(String(key), [[resolve, reject]]);
    const element = document.createElement("script");
    element.nonce = document.querySelector("script[nonce]").nonce;
    element.src = `${index.folder}/${file}`;
    element.onload = () => element.remove();
    element.onerror = () => {
      const callbacks = waiting.get(String(key)) || [];
      waiting.delete(String(key));
      element.remove();
      const problem = `${index.folder}/${file} cannot be read. Keep the folder "${index.folder}" beside report.html, or write the report with --single-file.`;
      for (const [, fail] of callbacks) fail(new Error(problem));
    };
    document.head.append(element);
  });
}

/** A chunk, loaded where need be. ``keep``: false for a pass over all of them. */
async function chunk(number, keep = true) {
  if (chunks.has(number)) {
    const found = chunks.get(number);
    chunks.delete(number);
    chunks.set(number, found);
    return found;
  }
  const inside = document.getElementById(`chunk-${number}`);
  const data = inside ? JSON.parse(inside.textContent) : await script(number, index.chunks[number]);
  if (keep) {
    chunks.set(number, data);
    if (chunks.size > KEPT_CHUNKS) chunks.delete(chunks.keys().next().value);
  }
  return data;
}

/** The episode of a row: its turns with texts in place of their numbers, and the whole prompts of its calls. */
async function episode(row) {
  const data = await chunk(col.chunk[row]);
  return unpacked(data, data.episodes[col.place[row]], row);
}

/** Whether anything was trained on a turn: in evaluations and games nothing is, in training what got an advantage. */
function wasTrained(phase, turn) {
  return phase === index.run.training ? turn.A !== null : phase === "demonstrations";
}

function unpacked(data, packed, row) {
  const phase = nameOf("phase", row);
  const text = (number) => (number < 0 ? null : data.texts[number]);
  const before = new Map();
  const turns = packed.turns.map((turn, number) => ({
    number,
    observation: text(turn.o),
    key: text(turn.k),
    action: text(turn.a),
    valid: Boolean(turn.v),
    reward: turn.r,
    penalty: turn.p,
    advantage: turn.A,
    measured: turn.m || {},
    info: turn.i.map(([name, value]) => [text(name), Array.isArray(value) ? text(value[0]) : value]),
    seconds: { sampling: turn.s[0], environment: turn.s[1] },
    tools: turn.t || [],
    images: turn.img || [],
    why: turn.w || null,
    calls: turn.c.map((call) => {
      const found = { ...call, t: call.t && wasTrained(phase, turn), prompt: [...(before.get(call.role) || []).slice(0, call.n), ...call.p] };
      before.set(call.role, [...found.prompt, ...call.c]);
      return found;
    }),
  }));
  return { row, id: col.id[row], task: packed.task, env: packed.env, seed: packed.seed, rewards: packed.rewards, error: packed.error, last: text(packed.last), turns };
}

// ── tokens ────────────────────────────────────────────────────────────────────────────────────────────────────────────

let vocabulary = null;

/** Texts by token id: {texts: Map, special: Set}. */
async function tokens() {
  if (vocabulary === null) {
    const inside = document.getElementById("tokens");
    const data = inside ? JSON.parse(inside.textContent) : await script("tokens", index.tokens.file);
    vocabulary = { texts: new Map(data.ids.map((id, place) => [id, data.texts[place]])), special: new Set(data.special) };
  }
  return vocabulary;
}

// ── addresses ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const escaped = (id) => encodeURIComponent(id).replace(/%2F/g, "/").replace(/%3D/g, "=").replace(/%20/g, "+");

function addressOf(row, turn = null, other = null) {
  const query = [turn === null ? "" : `turn=${turn}`, other === null ? "" : `vs=${escaped(col.id[other])}`].filter(Boolean).join("&");
  return `#/episode/${escaped(col.id[row])}${query ? `?${query}` : ""}`;
}

function unescaped(text) {
  try {
    return decodeURIComponent(text.replace(/\+/g, "%20"));
  } catch {
    return text; // not an address that this page wrote
  }
}
