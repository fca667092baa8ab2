"use strict";
// The first page: what came out, alarms, curves, where the time went, the worst and the best episodes.

const curves = { log: remembered("log", "no") === "yes", smooth: Number(remembered("smooth", "1")) || 1, filter: "" };
const COLOURS = ["var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)", "var(--c7)"];
const HERO = ["episode/success_rate"];

function overviewPage(main) {
  const body = h(".page", {});
  replace(main, body);
  add(body, [h("p.about", {}, index.run.about.map((each) => h("span", {}, each)), h("span.faint", {}, `written ${index.written}`)), alarms(), cards(), heroSection(), timesSection(), typesSection(), extremesSection(), curvesSection()]);
  return {};
}

// ── what came out ─────────────────────────────────────────────────────────────────────────────────────────────────────

function cards() {
  const found = [];
  const summary = index.run.summary;
  const panels = [...new Set(index.evaluations.map((each) => each.panel))];
  for (const panel of panels) {
    const own = index.evaluations.filter((each) => each.panel === panel);
    const last = own[own.length - 1], first = own[0];
    const difference = index.run.difference[panel];
    found.push(card(panel ? `success, ${panel}` : "success", percent(last.success_rate),
      [`${interval(last.ci95)} · n ${last.n}`, own.length > 1 ? ` · from ${percent(first.success_rate)}` : ""],
      difference ? differenceOf(difference) : null));
  }
  const metrics = index.metrics.columns;
  const n = index.metrics.iteration.length;
  if (n) {
    const rate = metrics["episode/success_rate"];
    if (rate) found.push(card("success, last iteration", percent(rate[n - 1]), ["best ", percent(Math.max(...rate.filter((v) => v !== null)))]));
  }
  if (index.run.kind === "training") found.push(card("iterations", grouped(Math.max(summary.iterations || 0, n)), [[summary.n_updates ? plural(summary.n_updates, "update") : "", summary.n_parameters ? `${short(summary.n_parameters)} parameters` : ""].filter(Boolean).join(" · ")]));
  found.push(card("episodes", grouped(episodes.n), [plural(sum(col.turns), "turn"), " · ", `${short(sum(col.sampled))} sampled tokens`]));
  if (summary.seconds !== undefined) found.push(card("time", duration(summary.seconds), [n ? `${num(mean(metrics["time/iteration"] || []))} s an iteration` : ""]));
  const evaluation = index.run.kind === "evaluation" ? index.evaluations[0] : null;
  if (evaluation) {
    found.push(card("turns", num(evaluation.mean_turns), ["valid actions ", percent(evaluation.valid_action_ratio)]));
    const all = (k) => { const found = (evaluation.pass_hat_k || {})[k]; return found ? ` · pass^${k} ${percent(found.value)} ${interval(found.ci95)}` : ""; };
    for (const [k, passed] of Object.entries(evaluation.pass_at_k || {})) if (Number(k) > 1) found.push(card(`pass@${k}`, percent(passed.value), [interval(passed.ci95), all(k)]));
  }
  return h("section.cards", { "aria-label": "Results" }, found);
}

function card(title, value, note, delta) {
  return h(".card", {}, h(".cardtitle", {}, title), h(".cardvalue", {}, value, delta), h(".cardnote", {}, note));
}

/** Coloured only where the interval leaves zero out. */
function differenceOf({ value, ci95 }) {
  const points = (share) => `${share > 0 ? "+" : ""}${(100 * share).toFixed(1)}`.replace("-", "−");
  const sign = ci95[0] > 0 ? 1 : ci95[1] < 0 ? -1 : 0;
  return h("span.delta", { data: { sign: String(sign) }, title: `paired difference, 95 % interval [${points(ci95[0])}, ${points(ci95[1])}] points` }, `${points(value)} points`);
}

const sum = (values) => (values || []).reduce((total, value) => total + (value || 0), 0);
const mean = (values) => (values.length ? sum(values) / values.length : null);
const interval = (ci95) => (ci95 ? `[${percent(ci95[0])}, ${percent(ci95[1])}]` : "");

function short(value) {
  const sizes = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];
  for (const [size, letter] of sizes) if (value >= size) return `${num(value / size, 3)} ${letter}`;
  return grouped(value);
}

function alarms() {
  if (!index.run.alarms.length && !index.run.summary.error) return null;
  const error = index.run.summary.error;
  return h("section.alarms", { "aria-label": "Alarms" },
    error ? h(".alarm.error", {}, h("b", {}, index.run.summary.status || "failed"), h("p", {}, error)) : null,
    index.run.alarms.map((alarm) => h(".alarm", { class: Number.isInteger(alarm.cleared) ? "over" : "" },
      h("b", {}, String(alarm.name ?? "alarm")), h("span.since", {}, alarmTime(alarm)),
      h("p", {}, String(alarm.measured ?? "")),
      alarm.cause ? h("p", {}, h("span.muted", {}, "likely cause "), String(alarm.cause)) : null,
      alarm.setting ? h("p", {}, h("span.muted", {}, "to change "), h("code", {}, String(alarm.setting))) : null)));
}

/** When an alarm was raised and, where it is, that it is over. */
function alarmTime(alarm) {
  const link = (iteration) => h("a", { href: `#/episodes?phase=training&iteration=${iteration}` }, `iteration ${iteration}`);
  if (!Number.isInteger(alarm.iteration)) return null;
  return [link(alarm.iteration), Number.isInteger(alarm.cleared) ? [" · over since ", link(alarm.cleared)] : null];
}

// ── curves ────────────────────────────────────────────────────────────────────────────────────────────────────────────

function evaluationPoints(key, withInterval) {
  const panels = [...new Set(index.evaluations.map((each) => each.panel))];
  return index.evaluations.filter((each) => each[key] !== undefined).map((each) => ({
    name: each.panel ? `evaluation, ${each.panel}` : "evaluation", x: each.iteration, value: each[key],
    ci95: withInterval ? each.ci95 : null, colour: COLOURS[1 + panels.indexOf(each.panel)], note: `n ${each.n}`,
    shift: (panels.indexOf(each.panel) - (panels.length - 1) / 2) * 5,
  }));
}

function pick(iteration) {
  if (!Number.isInteger(iteration) || !index.metrics.iteration.includes(iteration)) return;
  location.hash = `#/episodes?phase=training&iteration=${iteration}`;
}

function heroSection() {
  const rate = index.metrics.columns["episode/success_rate"];
  const points = evaluationPoints("success_rate", true);
  if (!rate && points.length < 2) return null;
  const series = rate ? [{ name: "training", x: index.metrics.iteration, y: rate, colour: COLOURS[0] }] : [];
  const panels = [...new Map(points.map((p) => [p.name, p.colour]))];
  return h("section.hero", {},
    h(".sectionhead", {}, h("h2", {}, "Success"), legend([...(rate ? [["var(--c1)", "training episodes"]] : []), ...panels.map(([name, colour]) => [colour, name])]), h("span.note", {}, "95 % intervals")),
    lineChart(series, points, { height: 240, fixed: [0, 1], format: percent, onpick: pick, label: "Success over iterations", smooth: 1 }));
}

function timesSection() {
  const metrics = index.metrics.columns;
  const x = index.metrics.iteration;
  const total = metrics["time/iteration"];
  if (!total) return null;
  const { phases: known, account } = index.times;
  const phases = Object.entries(known).filter(([, key]) => metrics[key]).map(([name, key]) => ({ name, y: metrics[key] }));
  const other = x.map((_, place) => Math.max(0, (total[place] || 0) - sum(phases.map((phase) => phase.y[place]))));
  if (sum(other) > 0.01 * sum(total)) phases.push({ name: "other", y: other });
  phases.forEach((phase, place) => { phase.colour = COLOURS[place % COLOURS.length]; });
  return h("section.times", {},
    h(".sectionhead", {}, h("h2", {}, "Where the time goes"), h("span.note", {}, "seconds an iteration")),
    stackedBars(x, phases, { height: 210 }), legend(phases.map((phase) => [phase.colour, `${phase.name} ${percent(sum(phase.y) / (sum(total) || 1))}${boundOf(account, phase.name)}`])),
    account.binds ? h("p.binds", {}, h("span.muted", {}, "what binds "), account.binds, h("span.muted", {}, " · to change "), account.setting) : null);
}

/** How far a phase is from its bound, where it has one. */
function boundOf(account, name) {
  const { seconds, bound } = (account.phases || {})[name] || {};
  return bound ? `, ${num(seconds / bound, 2)} × its bound` : "";
}

function curvesSection() {
  const names = Object.keys(index.metrics.columns).filter((name) => !HERO.includes(name));
  if (!names.length) return null;
  const grid = h("div", {});
  const draw = () => {
    const found = names.filter((each) => each.toLowerCase().includes(curves.filter.toLowerCase()));
    replace(grid, found.length ? h(".curves", {}, found.map(curve)) : h(".empty", {}, `No metric contains “${curves.filter}”.`));
  };
  draw();
  const smooth = h("input", { type: "range", min: "1", max: "25", step: "2", value: String(curves.smooth), id: "smooth", "aria-label": "Smoothing",
    oninput: (event) => { curves.smooth = Number(event.target.value); remember("smooth", String(curves.smooth)); draw(); } });
  return h("section", {},
    h(".sectionhead", {}, h("h2", {}, "All metrics"), h(".spring"),
      h("input.filter", { type: "text", placeholder: "filter, as in entropy", "aria-label": "Filter metrics", id: "metricfilter", oninput: (event) => { curves.filter = event.target.value; draw(); } }),
      h("label.inline", {}, "smoothing", smooth),
      segmented("Scale", [["no", "linear"], ["yes", "log"]], curves.log ? "yes" : "no", (value) => { curves.log = value === "yes"; remember("log", value); draw(); })),
    grid);
}

function curve(name) {
  const y = index.metrics.columns[name];
  const known = y.filter((value) => value !== null);
  return h("figure.curve", { data: { metric: name } },
    h("figcaption", {}, h("span", { title: name }, name.includes("/") ? [h("i.faint", {}, name.slice(0, name.indexOf("/") + 1)), name.slice(name.indexOf("/") + 1)] : name), h("b", {}, num(known[known.length - 1]))),
    lineChart([{ name, x: index.metrics.iteration, y, colour: "var(--c1)" }], [], { height: 96, log: curves.log, smooth: curves.smooth, onpick: pick, label: name }));
}

// ── by type, worst and best ───────────────────────────────────────────────────────────────────────────────────────────

function typesSection() {
  const last = new Map();
  for (const each of index.evaluations) last.set(each.panel, each);
  const shown = [...last.values()].filter((each) => Object.keys(each.by_type).length > 0);
  const failures = shown.length ? shown[0].failures : null;
  if (!shown.length) return null;
  const first = new Map(index.evaluations.map((each) => [each.panel, each]).reverse());
  return h("section", {}, h("h2", {}, "By task type"),
    h(".panels", {}, shown.map((each) => {
      const before = first.get(each.panel);
      return h(".panel", {}, h("h3", {}, each.panel ? `${each.name}, ${each.panel}` : `${each.n} episodes`),
        h("table.rates", {}, h("tbody", {}, Object.entries(each.by_type).map(([type, rates]) => h("tr", {},
          h("td", {}, h("a", { href: `#/episodes?phase=${escaped(each.phase)}&type=${escaped(type)}` }, type)),
          h("td.wide", {}, rateBar(rates.success_rate, rates.ci95)),
          h("td.n", { title: interval(rates.ci95) }, percent(rates.success_rate)),
          h("td.n.muted", {}, before !== each && before.by_type[type] ? `was ${percent(before.by_type[type].success_rate)}` : `n ${rates.n}`))))));
    }), failures && sum(Object.values(failures)) ? h(".panel", {}, h("h3", {}, "Why episodes fail"),
      h("table.rates", {}, h("tbody", {}, Object.entries(failures).filter(([, n]) => n).map(([kind, n]) => h("tr", {},
        h("td", {}, h("a", { href: `#/episodes?failure=${kind}` }, kind)), h("td.wide", {}, rateBar(n / shown[0].n, null, "var(--bad)")), h("td.n", {}, grouped(n))))))) : null));
}

function extremesSection() {
  const rows = [...Array(episodes.n).keys()].filter((row) => !col.fault[row]);
  if (!rows.length) return null;
  const newest = (one, other) => other - one;
  const worst = [...rows].sort((a, b) => worseFirst(a, b) || newest(a, b)).slice(0, 5);
  const best = [...rows].sort((a, b) => worseFirst(b, a) || newest(a, b)).slice(0, 5);
  const list = (title, found, sort) => h(".panel", {}, h("h3", {}, title, h("a.more", { href: `#/episodes?sort=${sort}` }, "all")),
    h("ul.extremes", {}, found.map((row) => h("li", {}, h("a", { href: addressOf(row) }, outcomePill(row), taskName(row),
      h("span.muted", {}, phaseText(row)), h("b.n", {}, num(col.reward[row])))))));
  return h("section", {}, h("h2", {}, "Worst and best"), h(".panels", {}, list("Worst, newest first", worst, "worst"), list("Best, shortest first", best, "best")));
}

/** Failures before successes, then by reward, then the longer one. */
function worseFirst(one, other) {
  return col.success[one] - col.success[other] || col.reward[one] - col.reward[other] || col.turns[other] - col.turns[one];
}

function phaseText(row) {
  return isTraining(row) ? `iteration ${col.iteration[row]}` : nameOf("phase", row);
}

function outcomePill(row) {
  const kind = col.fault[row] ? "fault" : col.success[row] ? "success" : "failure";
  return h("span.outcome", { data: { kind }, title: nameOf("outcome", row) }, kind === "success" ? "✓ solved" : nameOf("outcome", row));
}
