"use strict";
// One turn: what the agent saw, did and got, its tokens, and what belongs to it.

/** The card of a turn. ``tools`` = {words, scale, group}; compact: side by side with another. */
function turnCard(ep, turn, { words, scale, group, compact = false, next }) {
  const visits = turn.key === null ? [] : group.visits.get(turn.key) || [];
  const why = h(".whybox", { hidden: !shown.why });
  const whyButton = h("button.plain.whybutton", { type: "button", "aria-expanded": String(shown.why), onclick: () => toggleWhy(why.hidden) }, "why?");
  const toggleWhy = (open) => {
    why.hidden = !open;
    whyButton.setAttribute("aria-expanded", String(open));
    if (open && !why.firstChild) why.append(whyPanel(ep, turn, group));
  };
  if (shown.why) toggleWhy(true);
  const card = h("article.turn", { data: { turn: String(turn.number) }, tabindex: "-1", "aria-label": `Turn ${turn.number}` },
    h(".gutter", {}, h("a", { href: addressOf(ep.row, turn.number), title: "A link to this turn" }, String(turn.number))),
    h(".turnbody", {},
      h(".observation", {}, h("pre", {}, turn.observation)),
      images(turn),
      h(".did", {}, h("span.prompt", { "aria-hidden": "true" }, "❯"), h("pre.action", {}, turn.action || h("span.faint", {}, "(no action)")), h(".badges", {},
        turn.valid ? null : h("span.badge", { data: { kind: "invalid" } }, "invalid"),
        turn.reward ? h("span.badge", { data: { kind: turn.reward > 0 ? "good" : "bad" } }, `reward ${signed(turn.reward)}`) : null,
        turn.penalty ? h("span.badge", { data: { kind: "bad" } }, `penalty ${num(turn.penalty)}`) : null,
        turn.advantage === null ? null : h("span.badge.adv", { title: "advantage", data: { sign: String(Math.sign(turn.advantage)) } }, `A ${signed(turn.advantage, 3)}`),
        isTraining(ep.row) ? whyButton : null)),
      toolBlock(turn, next),
      h(".calls", {}),
      why,
      compact ? null : h(".meta", {},
        turn.key === null ? null : h("span.state", {}, "state ", h("code", { title: turn.key }, turn.key.length > 60 ? `${turn.key.slice(0, 60)}…` : turn.key), visits.length > 1 ? visitLinks(ep, turn, visits) : h("span.faint", {}, " seen once")),
        Object.entries(turn.measured).map(([name, value]) => h("span", {}, `${name} ${num(value, 3)}`)),
        turn.seconds.sampling ? h("span", {}, `sampling ${duration(turn.seconds.sampling)}`) : null,
        turn.seconds.environment ? h("span", {}, `environment ${duration(turn.seconds.environment)}`) : null,
        infoBlock(turn))));
  card.toggleWhy = () => toggleWhy(why.hidden);
  card.drawTokens = () => {
    const box = card.querySelector(".calls");
    replace(box, shown.tokens === "none" ? null : turn.calls.map((call) => (call.messages ? messageBlock(call) : tokenBlock(call, turn, words, scale))));
    card.drawn = true;
  };
  return card;
}

function images(turn) {
  if (!turn.images.length) return null;
  return h(".screens", {}, turn.images.map((address) => h("a", { href: address, target: "_blank", rel: "noopener" }, h("img", { src: address, alt: `Screenshot of turn ${turn.number}`, loading: "lazy" }))));
}

function toolBlock(turn, result) {
  if (!turn.tools.length) return null;
  return h(".tools", {}, turn.tools.map((call) => h(".tool", {}, h("b", {}, call.name), h("pre", {}, typeof call.arguments === "string" ? call.arguments : JSON.stringify(call.arguments, null, 1)))),
    result === undefined || result === null ? null : h(".result", {}, h("span.label", {}, turn.tools.length > 1 ? "results" : "result"), h("pre", {}, result)));
}

function visitLinks(ep, turn, visits) {
  const others = visits.filter((visit) => visit.row !== ep.row || visit.turn.number !== turn.number);
  const box = h("details.visits", {}, h("summary", {}, `${plural(others.length, "other visit")} in the group`),
    h("ul", {}, others.map((visit) => h("li", {}, h("a", { href: addressOf(visit.row, visit.turn.number) }, visit.row === ep.row ? "this episode" : memberName(visit.row), `, turn ${visit.turn.number}`), " ", h("code", {}, visit.turn.action), " ", signedBadge(visit.turn.advantage)))));
  return box;
}

function infoBlock(turn) {
  if (!turn.info.length) return null;
  return h("details.info", {}, h("summary", {}, "info"), pairs(turn.info.map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)])));
}

/** Draws the tokens of cards as they come near the view. */
function drawTokensWhenSeen(cards, root) {
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      observer.unobserve(entry.target);
      entry.target.drawTokens();
    }
  }, { root, rootMargin: "900px 0px" });
  for (const card of cards) observer.observe(card);
  return observer;
}
