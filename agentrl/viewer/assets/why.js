"use strict";
// Why a turn has its advantage: its group, the other visits of its state, the formula with its numbers where it was worked out.

/** The group of an episode: rows, episodes, and the visits of each state key. */
async function groupOf(row) {
  const rows = membersOf.get(col.group[row]);
  const loaded = await Promise.all(rows.map(episode));
  const visits = new Map();
  for (const each of loaded) {
    for (const turn of each.turns) {
      if (turn.key === null) continue;
      if (!visits.has(turn.key)) visits.set(turn.key, []);
      visits.get(turn.key).push({ row: each.row, turn });
    }
  }
  return { rows, loaded: new Map(loaded.map((each) => [each.row, each])), visits };
}

function commandOf(id, turn) {
  const quoted = (text) => (/^[\w./=+:@%,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  return `agentrl explain ${quoted(index.run.folder)} ${quoted(id)} ${turn}`;
}

function whyPanel(ep, turn, group) {
  if (turn.advantage === null) {
    const reason = isTraining(ep.row) ? "This episode was left out by the filters, or it is a fault, so nothing was trained on it." : "Advantages are given in training alone.";
    return h(".why", {}, h("p.note", {}, reason));
  }
  return h(".why", {},
    turn.why ? turn.why.map((step) => methodOf(ep, turn, step)) : h("p.note", {}, noFormula(ep)),
    groupTable(ep, group),
    turn.key === null ? null : visitsTable(ep, turn, group.visits.get(turn.key) || []),
    isTraining(ep.row) ? [h("h4", {}, "Everything, computed again"), command(commandOf(ep.id, turn.number))] : null);
}

function noFormula(ep) {
  const problem = index.formulas[String(col.iteration[ep.row])];
  if (problem) return `The formula cannot be filled in: ${problem}.`;
  return "The formula is filled in for the last iteration alone (agentrl view --formulas N for more); below is what it was made of.";
}

function methodOf(ep, turn, step) {
  return h(".method", {}, h("h4", {}, step.name, h("span.note", {}, ` ${step.changes ? "changes the advantage to" : "gave"} ${signed(step.gave, 4)}`)),
    step.term ? h("ul.terms", {}, termItem(ep, turn, step.term)) : h("code.formula", {}, step.formula),
    Math.abs(step.after - turn.advantage) > 1e-4 * Math.max(1, Math.abs(turn.advantage)) ? h("p.problem", {}, `computed again it is ${signed(step.after, 4)}, recorded ${signed(turn.advantage, 4)}`) : null);
}

function termItem(ep, turn, term) {
  return h("li", {}, h(".term", {}, h("b", {}, term.symbol), " = ", h("code.formula", {}, term.formula), term.filled === term.formula ? null : [" = ", h("code.formula", {}, term.filled)], " = ", h("b.n", {}, num(term.value, 4)),
    term.note ? h("span.note", {}, ` ${term.note}`) : null,
    term.among ? h("span.note", {}, ` · compared within its ${term.among.name}: ${plural(Math.round(term.among.units), term.among.unit.replace(/ies$/, "y").replace(/s$/, ""), term.among.unit)}`) : null),
    term.parts.length ? h("ul.terms", {}, term.parts.map((part) => termItem(ep, turn, part))) : null);
}

function groupTable(ep, group) {
  const rewards = group.rows.filter((row) => !col.fault[row]).map((row) => col.reward[row]);
  const average = rewards.reduce((a, b) => a + b, 0) / Math.max(1, rewards.length);
  const spread = Math.sqrt(rewards.reduce((a, b) => a + (b - average) ** 2, 0) / Math.max(1, rewards.length - 1));
  return h(".method", {}, h("h4", {}, `Group of ${group.rows.length}`, h("span.note", {}, ` mean return ${num(average, 4)}, standard deviation ${num(spread, 4)}`)),
    h("table.compare", {}, h("tbody", {}, group.rows.map((row) => h("tr", { class: row === ep.row ? "own" : "" },
      h("td", {}, h("a", { href: addressOf(row) }, memberName(row))), h("td", {}, outcomePill(row)), h("td.n", {}, num(col.reward[row], 4)), h("td.n.muted", {}, plural(col.turns[row], "turn")),
      h("td.wide", {}, rangeBar(col.low[row], col.high[row])))))));
}

function visitsTable(ep, turn, visits) {
  return h(".method", {}, h("h4", {}, "Anchor group", h("span.note", {}, ` ${plural(visits.length, "visit")} of this state key within the group`)),
    visits.length < 2 ? h("p.note", {}, "No other turn of the group was here, so there is nothing to compare it with.") : h("table.compare", {}, h("tbody", {}, visits.map((visit) => h("tr", { class: visit.row === ep.row && visit.turn.number === turn.number ? "own" : "" },
      h("td", {}, h("a", { href: addressOf(visit.row, visit.turn.number) }, `${memberName(visit.row)}, turn ${visit.turn.number}`)), h("td.mono.clip", {}, visit.turn.action),
      h("td", {}, outcomePill(visit.row)), h("td.n", {}, signedBadge(visit.turn.advantage)))))));
}

function signedBadge(value) {
  if (value === null) return h("span.faint", {}, "–");
  return h("span.signed", { data: { sign: String(Math.sign(value)) } }, signed(value, 3));
}
