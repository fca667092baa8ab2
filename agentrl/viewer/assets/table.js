"use strict";
// The table of episodes: sorted, filtered, searched; only the rows in view are elements.

const ROW = 34; // pixels
const SORTS = {
  newest: ["newest first", (a, b) => b - a],
  oldest: ["oldest first", (a, b) => a - b],
  worst: ["worst first", (a, b) => worseFirst(a, b) || b - a],
  best: ["best first", (a, b) => worseFirst(b, a) || b - a],
  longest: ["longest first", (a, b) => col.turns[b] - col.turns[a] || b - a],
  shortest: ["shortest first", (a, b) => col.turns[a] - col.turns[b] || b - a],
  invalid: ["most invalid actions", (a, b) => col.invalid[b] - col.invalid[a] || b - a],
  low: ["lowest advantage", (a, b) => (col.low[a] ?? Infinity) - (col.low[b] ?? Infinity) || b - a],
  high: ["highest advantage", (a, b) => (col.high[b] ?? -Infinity) - (col.high[a] ?? -Infinity) || b - a],
};
const NONE = { phase: "", iteration: "", env: "", type: "", outcome: "", result: "", failure: "", text: "", sort: "newest" };

/** What is shown, kept while the page is open, so that an episode's "next" follows the table. */
const view = { ...NONE, rows: [], selected: 0, hits: null, hitsOf: "", scanned: 0, scan: 0 };
const lower = { id: null, text: null };

function episodesPage(main, place) {
  if (Object.keys(place.options).length) Object.assign(view, NONE, Object.fromEntries(Object.entries(place.options).filter(([key]) => key in NONE)));
  if (!(view.sort in SORTS)) view.sort = "newest";
  const table = new EpisodeTable(main);
  agentrl.table = table;
  if (agentrl.searching) { agentrl.searching = false; table.field.focus(); }
  return { keys: table.keys(), leave: () => { view.scan++; } };
}

class EpisodeTable {
  constructor(main) {
    this.field = h("input", { type: "search", id: "search", placeholder: "Search ids, tasks, actions, observations   /", value: view.text, "aria-label": "Search",
      oninput: () => { view.text = this.field.value; view.hits = null; view.scan++; this.update(); },
      onkeydown: (event) => { if (event.key === "Enter") { event.preventDefault(); event.stopPropagation(); this.searchTexts(); } } });
    this.status = h(".status", { role: "status" });
    this.body = h(".rows", { role: "rowgroup" });
    this.space = h(".space", {}, this.body);
    this.scroller = h(".scroller", { tabindex: "0", onscroll: () => this.draw() }, this.header(), this.space);
    this.filters = h(".filters", {}, this.selects());
    replace(main, h(".tablepage", {}, h(".toolbar", {}, h(".searchbox", {}, icon("search"), this.field), this.filters, this.status), this.scroller));
    this.update(true);
    new ResizeObserver(() => this.draw()).observe(this.scroller);
    this.scroller.scrollTop = Math.max(0, view.selected * ROW - this.scroller.clientHeight / 2);
    if (document.activeElement === document.body) this.scroller.focus({ preventScroll: true });
  }

  // ── filters ──

  selects() {
    const choice = (key, label, options) => options.length < 2 && !view[key] ? null : h("label", {}, h("span", {}, label),
      h("select", { id: `filter-${key}`, onchange: (event) => { view[key] = event.target.value; view.selected = 0; this.refreshFilters(key); this.update(); } },
        h("option", { value: "" }, "all"), options.map(([value, text]) => h("option", { value, selected: String(view[key]) === String(value) }, text))));
    const names = (kind) => episodes.names[kind].filter(Boolean).map((name) => [name, name]);
    const iterations = [...new Set(col.iteration)].filter((n) => n !== null).sort((a, b) => b - a).map((n) => [n, n]);
    return [
      choice("phase", "phase", names("phase")),
      view.phase === "" || view.phase === index.run.training ? choice("iteration", "iteration", iterations) : null,
      choice("env", "environment", names("env")),
      choice("type", "task type", names("type")),
      choice("result", "success", [["yes", "yes"], ["no", "no"], ["fault", "fault"]]),
      choice("outcome", "outcome", names("outcome")),
      choice("failure", "why it failed", names("failure")),
      h("label", {}, h("span", {}, "sort"), h("select", { id: "sort", onchange: (event) => { view.sort = event.target.value; this.update(); } },
        Object.entries(SORTS).map(([value, [text]]) => h("option", { value, selected: view.sort === value }, text)))),
      h("button.plain", { type: "button", id: "reset", onclick: () => { Object.assign(view, NONE, { selected: 0, hits: null }); view.scan++; this.field.value = ""; replace(this.filters, this.selects()); this.update(); } }, "Reset"),
    ];
  }

  refreshFilters(changed) {
    if (changed === "phase") {
      if (view.phase !== "" && view.phase !== index.run.training) view.iteration = "";
      replace(this.filters, this.selects());
      this.filters.querySelector("#filter-phase").focus();
    }
  }

  matches() {
    const wanted = (kind) => (view[kind] === "" ? null : episodes.names[kind].indexOf(view[kind]));
    const [phase, env, type, outcome, failure] = ["phase", "env", "type", "outcome", "failure"].map(wanted);
    const iteration = view.iteration === "" ? null : Number(view.iteration);
    const text = view.text.trim().toLowerCase();
    if (text && lower.id === null) {
      lower.id = col.id.map((id) => id.toLowerCase());
      lower.text = col.text.map((actions) => actions.toLowerCase());
    }
    const hits = view.hitsOf === text ? view.hits : null;
    const found = [];
    for (let row = 0; row < episodes.n; row++) {
      if (phase !== null && col.phase[row] !== phase) continue;
      if (iteration !== null && col.iteration[row] !== iteration) continue;
      if (env !== null && col.env[row] !== env) continue;
      if (type !== null && col.type[row] !== type) continue;
      if (outcome !== null && col.outcome[row] !== outcome) continue;
      if (failure !== null && col.failure[row] !== failure) continue;
      if (view.result === "fault" ? !col.fault[row] : view.result && (col.fault[row] || (view.result === "yes") !== Boolean(col.success[row]))) continue;
      if (text && !lower.id[row].includes(text) && !lower.text[row].includes(text) && !(hits && hits.has(row))) continue;
      found.push(row);
    }
    return found.sort(SORTS[view.sort][1]);
  }

  update(keep = false) {
    const before = view.rows[view.selected];
    view.rows = this.matches();
    view.selected = Math.max(0, keep ? view.rows.indexOf(agentrl.opened ?? before) : view.rows.indexOf(before));
    this.space.style.height = `${view.rows.length * ROW}px`;
    this.draw();
    this.tell();
  }

  tell() {
    const text = view.text.trim();
    const shown = view.rows.length === episodes.n ? plural(episodes.n, "episode") : `${grouped(view.rows.length)} of ${plural(episodes.n, "episode")}`;
    const solved = view.rows.filter((row) => col.success[row]).length, scored = view.rows.filter((row) => !col.fault[row]).length;
    replace(this.status, h("span", {}, shown), scored ? h("span.muted", {}, ` · ${percent(solved / scored)} solved`) : null);
    if (!text || !index.chunks.length) return;
    if (view.hits !== null && view.hitsOf === text.toLowerCase()) {
      const done = view.scanned === index.chunks.length;
      this.status.append(h("span.muted", { id: "searched" }, done ? " · searched everything" : ` · reading ${view.scanned} of ${index.chunks.length} parts …`));
    } else {
      this.status.append(h("span.muted", {}, " · in ids and the first actions; "),
        h("button.link", { type: "button", id: "searchall", title: "Enter", onclick: () => this.searchTexts() }, "search all actions and observations"));
    }
  }

  /** Reads every chunk for the text: actions, observations, errors. */
  async searchTexts() {
    const text = view.text.trim().toLowerCase();
    if (!text) return;
    const number = ++view.scan;
    Object.assign(view, { hits: new Set(), hitsOf: text, scanned: 0 });
    this.update();
    const rowAt = new Map();
    for (let row = 0; row < episodes.n; row++) rowAt.set(`${col.chunk[row]} ${col.place[row]}`, row);
    for (let part = 0; part < index.chunks.length; part++) {
      let data;
      try {
        data = await chunk(part, false);
      } catch (error) {
        replace(this.status, h("span.problem", { role: "alert" }, error.message));
        return;
      }
      if (number !== view.scan) return;
      const holding = new Set();
      data.texts.forEach((each, place) => { if (each.toLowerCase().includes(text)) holding.add(place); });
      data.episodes.forEach((each, place) => {
        const found = holding.has(each.last) || each.error.toLowerCase().includes(text) || each.turns.some((turn) => holding.has(turn.o) || holding.has(turn.a));
        if (found) view.hits.add(rowAt.get(`${part} ${place}`));
      });
      view.scanned = part + 1;
      if (part % 8 === 7 || view.scanned === index.chunks.length) this.update();
    }
  }

  // ── rows ──

  header() {
    const cell = (name, text, sort, other) => h("span", { role: "columnheader", class: name }, sort
      ? h("button", { type: "button", data: { sort }, onclick: () => { view.sort = view.sort === sort && other ? other : sort; document.getElementById("sort").value = view.sort; this.update(); } }, text) : text);
    return h(".head.row", { role: "row" }, cell("c-outcome", "outcome", "worst", "best"), cell("c-reward", "reward", "best", "worst"), cell("c-phase", "phase", "newest", "oldest"), cell("c-task", "task"), cell("c-member", ""),
      cell("c-type", "type"), cell("c-turns", "turns", "longest", "shortest"), cell("c-invalid", "invalid", "invalid"), cell("c-adv", "advantage", "low", "high"), cell("c-text", "actions"));
  }

  row(place) {
    const row = view.rows[place];
    return h("a.row", { role: "row", href: addressOf(row), class: place === view.selected ? "selected" : "", data: { place: String(place) }, style: { top: `${place * ROW}px` }, tabindex: "-1",
      onclick: () => { view.selected = place; } },
      h("span.c-outcome", {}, outcomePill(row)), h("span.c-reward.n", {}, num(col.reward[row])), h("span.c-phase.muted", {}, phaseText(row)),
      h("span.c-task", {}, taskName(row)), h("span.c-member.muted", {}, memberName(row)), h("span.c-type.muted", {}, nameOf("type", row)),
      h("span.c-turns.n", {}, grouped(col.turns[row])), h("span.c-invalid.n", { class: col.invalid[row] ? "warn" : "faint" }, grouped(col.invalid[row])),
      h("span.c-adv", {}, rangeBar(col.low[row], col.high[row])), h("span.c-text.mono", {}, col.text[row]));
  }

  draw() {
    const top = this.scroller.scrollTop, height = this.scroller.clientHeight || 600;
    const first = Math.max(0, Math.floor(top / ROW) - 8), last = Math.min(view.rows.length, Math.ceil((top + height) / ROW) + 8);
    const rows = [];
    for (let place = first; place < last; place++) rows.push(this.row(place));
    if (!view.rows.length) rows.push(h(".empty", {}, h("p", {}, episodes.n ? "No episode matches." : "This run has recorded no episodes yet.")));
    replace(this.body, rows);
  }

  select(place) {
    if (!view.rows.length) return;
    view.selected = clamp(place, 0, view.rows.length - 1);
    const top = view.selected * ROW, room = this.scroller.clientHeight - 2 * ROW;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top > this.scroller.scrollTop + room) this.scroller.scrollTop = top - room;
    this.draw();
  }

  keys() {
    const move = (step) => () => { if (document.activeElement === this.field) this.scroller.focus({ preventScroll: true }); this.select(view.selected + step); };
    const page = () => Math.floor(this.scroller.clientHeight / ROW) - 2;
    return {
      j: move(1), ArrowDown: move(1), k: move(-1), ArrowUp: move(-1), Home: () => this.select(0), End: () => this.select(view.rows.length - 1),
      PageDown: () => this.select(view.selected + page()), PageUp: () => this.select(view.selected - page()),
      Enter: (event) => {
        if (event.target.closest("button, select, nav")) return false;
        if (view.rows.length) location.hash = addressOf(view.rows[view.selected]);
      },
      Escape: () => { location.hash = "#/"; },
    };
  }
}

const TAIL = 14; // letters

/** A task's id; where there is no room it loses its middle, since most ids differ at the end. */
function taskName(row) {
  const name = nameOf("task", row), cut = Math.max(0, name.length - TAIL);
  return h("span.taskname", { title: col.id[row] }, h("span.start", {}, name.slice(0, cut)), h("span.tail", {}, name.slice(cut)));
}

let widest = 0;

/** The lowest and highest advantage of an episode on a scale that all rows share. */
function rangeBar(low, high) {
  if (low === null) return h("span.faint", {}, "–");
  if (!widest) { // a few extremes would leave no room for the others
    const sizes = [...col.low, ...col.high].map((v) => Math.abs(v || 0)).filter(Boolean).sort((a, b) => a - b);
    widest = sizes.length ? sizes[Math.floor(0.98 * (sizes.length - 1))] : 1;
  }
  const at = (v) => clamp(50 + (50 * v) / widest, 0, 100);
  return h("span.range", { title: `advantages from ${signed(low)} to ${signed(high)}` },
    low < 0 ? h("i.neg", { style: { left: `${at(low)}%`, right: `${100 - at(Math.min(0, high))}%` } }) : null,
    high > 0 ? h("i.pos", { style: { left: `${at(Math.max(0, low))}%`, right: `${100 - at(high)}%` } }) : null);
}
