"use strict";
// Which page is shown, the header, keys.

const PAGES = { "": overviewPage, episodes: episodesPage, episode: episodePage, config: configPage };
let page = null; // {keys: {key: action}, leave}
let visit = 0; // counts pages, so that one that was slow to load does not replace a later one

function parsed(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  const options = {};
  for (const part of query.split("&").filter(Boolean)) {
    const at = part.indexOf("=");
    options[part.slice(0, at)] = unescaped(part.slice(at + 1));
  }
  return { name, rest: unescaped(rest.join("/")), options };
}

async function route() {
  tip.hide();
  const place = parsed(location.hash);
  const number = ++visit;
  if (page && page.leave) page.leave();
  if (page && page.name === "episode" && place.name === "episode" && page.again && page.again(place)) return;
  for (const link of document.querySelectorAll("#top nav a")) {
    if (link.dataset.page === (place.name === "episode" ? "episodes" : place.name)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const show = PAGES[place.name] || notFound;
  const main = document.getElementById("main");
  main.className = `page-${place.name || "overview"}`;
  try {
    const shown = await show(main, place, () => number === visit);
    if (number === visit) page = { name: place.name, ...shown };
  } catch (error) {
    if (number === visit) replace(main, h(".empty", { role: "alert" }, h("h2", {}, "This cannot be shown"), h("p", {}, error.message)));
    if (number === visit) page = { name: place.name };
  }
}

function notFound(main, place) {
  replace(main, h(".empty", {}, h("h2", {}, "There is no such page"), h("p", {}, `#/${place.name}`), h("a", { href: "#/" }, "To the overview")));
  return {};
}

function configPage(main) {
  replace(main, h(".page", {},
    h("section", {}, h("h2", {}, "Run file"),
      h("p.note", {}, "config.toml, every key with its value. ", plural(index.run.config.split("\n").length, "line"), "."),
      index.run.config ? h(".codebox", {}, copyButton(index.run.config, "Copy the run file"), h("pre", {}, index.run.config)) : h(".empty", {}, "This folder has no config.toml."))));
  return {};
}

// ── the header ────────────────────────────────────────────────────────────────────────────────────────────────────────

function drawHeader() {
  const status = index.run.summary.status || (index.run.kind === "evaluation" ? "completed" : "");
  replace(document.getElementById("top"),
    h("a.brand", { href: "#/", title: index.run.folder }, logo(), h("span", {}, index.run.name)),
    status ? h("span.pill", { data: { status } }, status) : null,
    h("nav", { "aria-label": "Pages" },
      h("a", { href: "#/", data: { page: "" } }, "Overview"),
      h("a", { href: "#/episodes", data: { page: "episodes" } }, "Episodes ", h("span.count", {}, grouped(episodes.n))),
      h("a", { href: "#/config", data: { page: "config" } }, "Run file")),
    h(".spring"),
    h("button.plain", { id: "theme", type: "button", onclick: nextTheme }),
    h("button.plain.key", { id: "ask", type: "button", title: "Keys (?)", "aria-label": "Keys", onclick: () => document.getElementById("help").showModal() }, "?"));
  setTheme(agentrl.theme);
}

function logo() {
  return s("svg", { viewBox: "0 0 16 16", width: "20", height: "20", "aria-hidden": "true" },
    s("rect", { width: "16", height: "16", rx: "4", fill: "var(--accent)" }),
    s("path", { d: "M3.5 11.5 7 5l2.2 4 1.3-2 2 4.5", fill: "none", stroke: "var(--on-accent)", "stroke-width": "1.6", "stroke-linecap": "round", "stroke-linejoin": "round" }));
}

// ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

const KEYS = [
  ["Everywhere", [["o", "overview"], ["e", "episodes"], ["/", "search"], ["t", "light, dark, as the system"], ["?", "these keys"], ["Esc", "leave a field, a dialog, an episode"]]],
  ["Episodes", [["j  ↓", "next"], ["k  ↑", "previous"], ["Home  End", "first, last"], ["Enter", "open"]]],
  ["An episode", [["j  ↓", "next turn"], ["k  ↑", "previous turn"], ["n  →", "next episode of the table"], ["p  ←", "previous episode"], ["m", "next member of its group"], ["c", "next colouring of tokens"], ["x", "tokens: hidden, sampled, all"], ["w", "why this advantage"], ["s", "side by side with another member"]]],
];

function drawHelp() {
  const dialog = document.getElementById("help");
  replace(dialog, h("form", { method: "dialog" }, h("h2", {}, "Keys"),
    h(".keys", {}, KEYS.map(([title, rows]) => h("section", {}, h("h3", {}, title),
      h("dl", {}, rows.map(([keys, what]) => [h("dt", {}, keys.split("  ").map((key) => h("kbd", {}, key))), h("dd", {}, what)]))))),
    h("button.main", {}, "Close")));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}

function onkey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input, select, textarea");
  if (document.getElementById("help").open) {
    if (event.key === "?") document.getElementById("help").close();
    return;
  }
  if (event.key === "Escape" && typing) {
    typing.blur();
    document.getElementById("main").focus({ preventScroll: true });
    return;
  }
  if (typing && !(typing.type === "search" && ["ArrowDown", "Enter"].includes(event.key))) return;
  const everywhere = {
    o: () => { location.hash = "#/"; },
    e: () => { location.hash = "#/episodes"; },
    t: nextTheme,
    "?": () => document.getElementById("help").showModal(),
    "/": () => {
      const field = document.querySelector("main input[type=search]");
      if (field) { field.focus(); field.select(); } else { agentrl.searching = true; location.hash = "#/episodes"; }
    },
  };
  const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const action = (page && page.keys && page.keys[pressed]) || everywhere[pressed];
  if (!action) return;
  if (action(event) !== false) event.preventDefault();
}

// ── start ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

setTheme(remembered("theme", "auto"));
drawHeader();
drawHelp();
window.addEventListener("hashchange", route);
document.addEventListener("keydown", onkey);
route().then(() => { agentrl.ready = true; document.documentElement.dataset.ready = ""; });
