"use strict";
// The page of one episode, alone or side by side with another member of its group.

async function episodePage(main, place, current) {
  const row = rowOf.get(place.rest);
  if (row === undefined) throw new Error(`This report has no episode "${place.rest}".`);
  if (main.querySelector(".episodepage") === null) replace(main, h(".loading", { role: "status" }, "Reading the episode …"));
  const [ep, words, group] = await Promise.all([episode(row), tokens(), groupOf(row)]);
  if (!current()) return {};
  agentrl.opened = row;
  if (view.rows.length === 0) view.rows = [...Array(episodes.n).keys()];
  if (view.rows.includes(row)) view.selected = view.rows.indexOf(row);
  const other = rowOf.get(place.options.vs);
  const shownPage = new EpisodeView(main, ep, words, group, other === undefined ? null : group.loaded.get(other) || (await episode(other)));
  shownPage.goTo(place.options.turn === undefined ? null : Number(place.options.turn));
  return { keys: shownPage.keys(), leave: () => shownPage.observer.disconnect(), again: (next) => next.rest === ep.id && next.options.vs === place.options.vs && shownPage.goTo(Number(next.options.turn || 0)) };
}

class EpisodeView {
  constructor(main, ep, words, group, other) {
    Object.assign(this, { main, ep, words, group, other, at: 0 });
    if (shown.colour === "gap" && !hasGap(ep)) shown.colour = "role";
    this.scale = scales(ep);
    this.rail = h("nav.rail", { "aria-label": "Turns" }, this.railItems());
    this.content = h(".turns", {});
    this.legend = h("span.scale", {});
    replace(main, h(".episodepage", { class: other ? "pair" : "" }, this.head(), h(".split", {}, other ? null : this.rail, this.content)));
    const page = main.querySelector(".episodepage"), head = main.querySelector(".episodehead");
    new ResizeObserver(() => page.style.setProperty("--headheight", `${head.offsetHeight}px`)).observe(head);
    page.style.setProperty("--headheight", `${head.offsetHeight}px`);
    this.draw();
  }

  // ── the head ──

  head() {
    const { ep } = this;
    const back = h("a.plain", { href: "#/episodes", title: "To the table (Esc)", "aria-label": "To the table" }, icon("back"));
    const step = (by, title, name, key) => {
      const next = view.rows[view.rows.indexOf(ep.row) + by];
      return h("a.plain", { href: next === undefined ? null : addressOf(next), title: `${title} (${key})`, "aria-label": title, class: next === undefined ? "off" : "", id: by > 0 ? "nextepisode" : "previousepisode" }, icon(name));
    };
    return h(".episodehead", {},
      h(".line", {}, back, h("h1", { title: ep.id }, ep.task.id), outcomePill(ep.row), step(-1, "Previous episode of the table", "back", "p"), step(1, "Next episode of the table", "next", "n"), copyButton(ep.id, "Copy the id"), h(".spring"), this.controls()),
      h(".line.facts", {}, this.facts()),
      this.members());
  }

  facts() {
    const { ep } = this;
    const facts = [["type", ep.task.type], ["phase", phaseText(ep.row)], ["return", num(col.reward[ep.row], 4)], ["turns", String(ep.turns.length)], ["invalid", String(col.invalid[ep.row])], ["ended by", nameOf("outcome", ep.row)], ["seed", String(ep.seed)]];
    if (nameOf("failure", ep.row)) facts.push(["failure", nameOf("failure", ep.row)]);
    for (const [name, value] of Object.entries(ep.rewards)) facts.push([name, num(value, 4)]);
    return facts.filter(([, value]) => value).map(([name, value]) => h("span.fact", {}, h("span.muted", {}, name), ` ${value}`));
  }

  controls() {
    if (!this.ep.turns.some((turn) => turn.calls.length)) return null; // an agent without a model
    const gap = hasGap(this.ep);
    const colours = COLOURINGS.filter(([name]) => name !== "gap" || gap);
    return h(".controls", {},
      h("label", {}, "tokens"), segmented("Tokens", TOKENS, shown.tokens, (value) => { shown.tokens = value; remember("tokens", value); this.redraw(); }),
      h("label", {}, "colour"), segmented("Colour of tokens", colours, shown.colour, (value) => { shown.colour = value; remember("colour", value); this.redraw(); }));
  }

  members() {
    const { group, ep, other } = this;
    const compare = h("select", { id: "compare", "aria-label": "Side by side with", onchange: (event) => { location.hash = addressOf(ep.row, null, event.target.value === "" ? null : Number(event.target.value)); } },
      h("option", { value: "" }, "side by side with …"), group.rows.filter((row) => row !== ep.row).map((row) => h("option", { value: String(row), selected: other !== null && other.row === row }, `${memberName(row)} · ${num(col.reward[row])}`)));
    return h(".line.members", {}, group.rows.length > 1 ? [h("span.muted", {}, "group"), group.rows.map((row) => h("a.member", { href: addressOf(row), "aria-current": row === ep.row, data: { kind: col.fault[row] ? "fault" : col.success[row] ? "success" : "failure" }, title: `${memberName(row)}: ${nameOf("outcome", row)}, return ${num(col.reward[row])}, ${plural(col.turns[row], "turn")}` }, memberName(row).replace("member ", ""))), compare] : null,
      h(".spring"), this.legend);
  }

  railItems() {
    const most = this.scale.advantage || 1;
    return this.ep.turns.map((turn) => h("a", { href: addressOf(this.ep.row, turn.number), data: { turn: String(turn.number) }, title: turn.action },
      h("span.number", {}, String(turn.number)), h("span.clip", { class: turn.valid ? "" : "warn" }, turn.action || "–"),
      turn.advantage === null ? null : h("span.spark", {}, h("i", { class: turn.advantage < 0 ? "neg" : "pos", style: { "--size": `${(50 * Math.abs(turn.advantage)) / most}%` } }))));
  }

  // ── turns ──

  draw() {
    const { ep, words, group, other, scale } = this;
    const card = (each, number, compact) => (number < each.turns.length ? turnCard(each, each.turns[number], { words, scale, group, compact, next: number + 1 < each.turns.length ? each.turns[number + 1].observation : each.last }) : h(".absent"));
    const end = (each) => h(".end", {}, h("span.label", {}, `ended by ${nameOf("outcome", each.row)}`), each.last ? h("pre", {}, each.last) : null, each.error ? h("pre.problem", {}, each.error) : null);
    if (other === null) {
      replace(this.content, ep.turns.length ? ep.turns.map((_, number) => card(ep, number, false)) : h(".empty", {}, "This episode has no turns."), end(ep), this.taskBlock());
    } else {
      const differs = firstDifference(ep, other);
      const title = (each) => h(".pairhead", {}, h("a", { href: addressOf(each.row) }, memberName(each.row)), outcomePill(each.row), h("span.n", {}, `return ${num(col.reward[each.row])}`), h("span.muted", {}, plural(each.turns.length, "turn")));
      const rows = [h(".pairrow.pairtitles", {}, title(ep), title(other))];
      for (let number = 0; number < Math.max(ep.turns.length, other.turns.length); number++) {
        if (differs !== null && number === differs.turn) rows.push(h(".difference", { role: "note" }, `first difference: turn ${number}, ${differs.what}`));
        rows.push(h(".pairrow", { class: differs !== null && number > differs.turn ? "after" : "" }, card(ep, number, true), card(other, number, true)));
      }
      if (differs === null) rows.push(h(".difference", { role: "note" }, "the two are the same, turn by turn"));
      rows.push(h(".pairrow", {}, end(ep), end(other)));
      replace(this.content, rows);
    }
    this.cards = [...this.content.querySelectorAll(".turn")];
    this.observer = drawTokensWhenSeen(this.cards, null);
    this.tell();
  }

  tell() {
    replace(this.legend, shown.tokens === "none" || !this.ep.turns.some((turn) => turn.calls.some((call) => call.c.length)) ? null : scaleLegend(this.ep, this.scale), hasGap(this.ep) || !this.ep.turns.some((turn) => turn.calls.some((call) => call.c.length)) ? null : h("span.hint", { title: NO_GAP, tabindex: "0", id: "nogap" }, "no gap recorded"),
      index.tokens.problem ? h("span.hint", { title: index.tokens.problem, tabindex: "0" }, "ids without texts") : null);
  }

  redraw() {
    this.tell();
    for (const card of this.cards) if (card.drawn) card.drawTokens();
  }

  taskBlock() {
    const { task } = this.ep;
    const rows = [["id", task.id], ["environment", this.ep.env], ["split", task.split], ["seed", String(task.seed)], task.reference === null ? null : ["reference", JSON.stringify(task.reference)], Object.keys(task.options).length ? ["options", JSON.stringify(task.options, null, 1)] : null];
    return h("details.task", {}, h("summary", {}, "Task"), pairs(rows), h("h4", {}, "Play its actions again"), command(`agentrl replay ${index.run.folder} ${this.ep.id}`));
  }

  // ── where one is ──

  goTo(number) {
    if (number === null) {
      scrollTo(0, 0);
      this.mark(0);
      return true;
    }
    const card = this.cards.find((each) => each.dataset.turn === String(number));
    if (!card) return true;
    this.mark(number);
    card.scrollIntoView({ block: "start" });
    card.focus({ preventScroll: true });
    return true;
  }

  mark(number) {
    this.at = number;
    for (const each of this.rail.children) each.toggleAttribute("aria-current", Number(each.dataset.turn) === number);
    for (const each of this.cards) each.classList.toggle("current", Number(each.dataset.turn) === number);
    const item = this.rail.children[number];
    if (item && this.rail.scrollHeight > this.rail.clientHeight) item.scrollIntoView({ block: "nearest" });
  }

  keys() {
    const { ep, group } = this;
    const last = Math.max(ep.turns.length, this.other ? this.other.turns.length : 0) - 1;
    const turn = (by) => () => this.goTo(clamp(this.at + by, 0, last));
    const neighbour = (by) => () => {
      const next = view.rows[view.rows.indexOf(ep.row) + by];
      if (next !== undefined) location.hash = addressOf(next);
    };
    const after = (row) => group.rows[(group.rows.indexOf(row) + 1) % group.rows.length];
    const press = (label) => () => {
      const buttons = [...this.main.querySelectorAll(`[aria-label="${label}"] button`)];
      buttons[(buttons.findIndex((each) => each.getAttribute("aria-checked") === "true") + 1) % buttons.length].click();
    };
    return {
      j: turn(1), ArrowDown: turn(1), k: turn(-1), ArrowUp: turn(-1), n: neighbour(1), ArrowRight: neighbour(1), p: neighbour(-1), ArrowLeft: neighbour(-1),
      m: () => { if (group.rows.length > 1) location.hash = addressOf(after(ep.row)); },
      s: () => {
        if (this.other) location.hash = addressOf(ep.row);
        else if (group.rows.length > 1) location.hash = addressOf(ep.row, null, after(ep.row));
      },
      c: press("Colour of tokens"), x: press("Tokens"),
      w: () => { const card = this.cards.find((each) => Number(each.dataset.turn) === this.at); if (card) card.toggleWhy(); },
      Escape: () => { location.hash = this.other ? addressOf(ep.row) : "#/episodes"; },
    };
  }
}

/** Where two episodes part: the turn and what differs; null where they are the same. */
function firstDifference(one, other) {
  const n = Math.max(one.turns.length, other.turns.length);
  for (let turn = 0; turn < n; turn++) {
    const [a, b] = [one.turns[turn], other.turns[turn]];
    if (!a || !b) return { turn, what: "one has ended" };
    if (a.observation !== b.observation) return { turn, what: "the observation" };
    if (a.action !== b.action) return { turn, what: "the action" };
  }
  return null;
}
