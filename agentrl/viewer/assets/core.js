"use strict";
// What every part uses: elements, numbers, colours of the theme, the tip under the mouse.
// Texts of a run reach the page through text nodes and attributes alone, never as markup.

const agentrl = {};

/** An element. Properties that begin with "on" are listeners, "data" and "style" are objects; null children are left out. */
function h(tag, properties, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.className = classes.join(" ");
  fill(element, properties);
  add(element, children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

function s(tag, properties, ...children) {
  const element = document.createElementNS(SVG, tag);
  fill(element, properties);
  add(element, children);
  return element;
}

function fill(element, properties) {
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(element.dataset, value);
    else if (key === "style") for (const [name, v] of Object.entries(value)) element.style.setProperty(name, v);
    else if (key === "class") element.classList.add(...value.split(" ").filter(Boolean));
    else if (element instanceof HTMLElement && key in element && typeof value !== "string") element[key] = value;
    else element.setAttribute(key, value === true && !key.startsWith("aria-") ? "" : value);
  }
}

function add(element, children) {
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child);
  }
}

function replace(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

// ── numbers ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A number in few characters; "–" for none. */
function num(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return grouped(value);
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(Math.max(0, digits - 2)).replace("e+", "e").replace("-", "−");
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return grouped(Number(value.toFixed(decimals)));
}

function grouped(value) {
  return value.toLocaleString("en-US", { maximumFractionDigits: 12 }).replace("-", "−");
}

/** With its sign. */
function signed(value, digits = 3) {
  const text = num(value, digits);
  return value > 0 ? `+${text}` : text;
}

function percent(value) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)} %`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${num(seconds * 1e6, 2)} µs`;
  if (seconds < 0.1) return `${num(seconds * 1e3, 2)} ms`;
  if (seconds < 90) return `${num(seconds)} s`;
  if (seconds < 5400) return `${Math.floor(seconds / 60)} min ${String(Math.round(seconds % 60)).padStart(2, "0")} s`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")} min`;
}

function plural(n, one, many) {
  return `${grouped(n)} ${n === 1 ? one : many || `${one}s`}`;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// ── what the browser remembers between visits, where it may ───────────────────────────────────────────────────────────

function remembered(key, otherwise) {
  try {
    return localStorage.getItem(`agentrl.${key}`) ?? otherwise;
  } catch {
    return otherwise; // a browser that keeps nothing for pages from disk
  }
}

function remember(key, value) {
  try {
    localStorage.setItem(`agentrl.${key}`, value);
  } catch {
    agentrl.forgetful = true;
  }
}

// ── light and dark ────────────────────────────────────────────────────────────────────────────────────────────────────

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  agentrl.theme = theme;
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  remember("theme", theme);
  const button = document.getElementById("theme");
  if (button) {
    button.replaceChildren(icon(theme === "auto" ? "auto" : theme === "light" ? "sun" : "moon"));
    button.title = `Colours: ${theme} (t)`;
    button.setAttribute("aria-label", button.title);
  }
}

function nextTheme() {
  setTheme(THEMES[(THEMES.indexOf(agentrl.theme) + 1) % THEMES.length]);
}

const PATHS = {
  sun: "M8 1.5v1.6M8 12.9v1.6M1.5 8h1.6M12.9 8h1.6M3.4 3.4l1.1 1.1M11.5 11.5l1.1 1.1M3.4 12.6l1.1-1.1M11.5 4.5l1.1-1.1M10.8 8a2.8 2.8 0 1 1-5.6 0 2.8 2.8 0 0 1 5.6 0Z",
  moon: "M13.2 9.6A5.6 5.6 0 0 1 6.4 2.8a5.6 5.6 0 1 0 6.8 6.8Z",
  auto: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2ZM8 2v12M10 2.7v10.6M12 3.9v8.2",
  copy: "M5.5 5.5v-2a1 1 0 0 1 1-1h6a1 1 0 0 1 1 1v6a1 1 0 0 1-1 1h-2M2.5 6.5a1 1 0 0 1 1-1h6a1 1 0 0 1 1 1v6a1 1 0 0 1-1 1h-6a1 1 0 0 1-1-1Z",
  back: "M9.5 3 4.5 8l5 5",
  next: "m6.5 3 5 5-5 5",
  search: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10Zm3.6-1.4L14 14",
};

function icon(name) {
  return s("svg", { viewBox: "0 0 16 16", width: "16", height: "16", class: "icon", "aria-hidden": "true" },
    s("path", { d: PATHS[name], fill: "none", stroke: "currentColor", "stroke-width": "1.4", "stroke-linecap": "round", "stroke-linejoin": "round" }));
}

// ── small parts ───────────────────────────────────────────────────────────────────────────────────────────────────────

function copyButton(text, label) {
  const button = h("button.plain.copy", { title: label, "aria-label": label, type: "button" }, icon("copy"));
  button.addEventListener("click", async (event) => {
    event.stopPropagation();
    try {
      await navigator.clipboard.writeText(text);
    } catch { // pages from disk may not write to the clipboard in every browser
      const area = h("textarea.offscreen", { readOnly: true });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.classList.add("done");
    button.title = "Copied";
    setTimeout(() => { button.classList.remove("done"); button.title = label; }, 1200);
  });
  return button;
}

function command(text) {
  return h(".command", {}, h("code", {}, text), copyButton(text, "Copy the command"));
}

/** Buttons of which one is chosen. ``options``: [value, label, title]. */
function segmented(label, options, value, onchange) {
  const group = h(".segmented", { role: "radiogroup", "aria-label": label });
  const show = (chosen) => {
    for (const button of group.children) {
      button.setAttribute("aria-checked", String(button.dataset.value === chosen));
      button.tabIndex = button.dataset.value === chosen ? 0 : -1;
    }
  };
  for (const [name, text, title] of options) {
    group.append(h("button", { type: "button", role: "radio", title, data: { value: name }, onclick: () => { show(name); onchange(name); } }, text));
  }
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const buttons = [...group.children];
    const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  });
  show(value);
  return group;
}

const tip = {
  show(event, ...children) {
    const box = document.getElementById("tip");
    replace(box, ...children);
    box.hidden = false;
    tip.move(event);
  },
  move(event) {
    const box = document.getElementById("tip");
    const { width, height } = box.getBoundingClientRect();
    const left = event.clientX + 14 + width > innerWidth ? event.clientX - width - 10 : event.clientX + 14;
    const top = event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18;
    box.style.left = `${Math.max(4, left)}px`;
    box.style.top = `${Math.max(4, top)}px`;
  },
  hide() {
    document.getElementById("tip").hidden = true;
  },
};

/** Two columns of names and values. */
function pairs(rows) {
  return h("dl.pairs", {}, rows.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
