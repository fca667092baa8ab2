// What a page's environment reads and does, in one evaluate. Loaded into every page before its own scripts; SETTINGS is put in by
// chromium.py. The page's own text reaches Python only as JSON, and there stands between quotes.
(() => {
  const SETTINGS = "@SETTINGS@";
  if (window.__agentrl) return;
  const page = {};
  Object.defineProperty(window, "__agentrl", { value: page });

  // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────
  // With a virtual clock nothing happens by itself: timers, animation frames and dates move on only in advance(), so an episode
  // does not depend on how fast a machine is.
  const real = { setTimeout: window.setTimeout.bind(window), frame: window.requestAnimationFrame.bind(window) };
  let now = SETTINGS.start_ms, lastTimer = 0, mark = 0;
  const timers = new Map();
  if (SETTINGS.virtual) {
    const began = now, RealDate = Date;
    const add = (f, ms, args, every) => {
      const delay = Math.max(1, Math.min(Number(ms) || 0, 2 ** 31));
      timers.set(++lastTimer, { id: lastTimer, at: now + delay, f, args, every: every ? delay : 0 });
      return lastTimer;
    };
    const drop = (id) => void timers.delete(Number(id));
    window.setTimeout = (f, ms, ...args) => add(f, ms, args, false);
    window.setInterval = (f, ms, ...args) => add(f, ms, args, true);
    window.clearTimeout = window.clearInterval = window.cancelAnimationFrame = window.cancelIdleCallback = drop;
    window.requestAnimationFrame = (f) => add((...args) => f(now - began, ...args), 16 - ((now - began) % 16), [], false);
    window.requestIdleCallback = (f) => add(() => f({ didTimeout: false, timeRemaining: () => 10 }), 1, [], false);
    window.Date = class Date extends RealDate {
      constructor(...args) { args.length ? super(...args) : super(now); }
      static now() { return now; }
    };
    performance.now = () => now - began;
    const still = new CSSStyleSheet();
    still.replaceSync("*,*::before,*::after{transition:none!important;animation:none!important;scroll-behavior:auto!important}");
    document.adoptedStyleSheets = [still];
  }
  page.advance = async (ms) => {
    if (!SETTINGS.virtual) return;
    const end = now + ms;
    for (;;) {
      let next = null;
      for (const timer of timers.values()) if (timer.at <= end && (!next || timer.at < next.at)) next = timer;
      if (!next) break;
      now = Math.max(now, next.at);
      if (next.every) next.at = now + next.every; else timers.delete(next.id);
      try { typeof next.f === "function" ? next.f(...next.args) : (0, eval)(String(next.f)); }
      catch (error) { console.error(error); }
      await null;  // what the timer promised comes before the next one
    }
    now = end;
  };
  // Timers that were set since the mark belong to the episode that ends, and the clock is set back.
  page.keepTimers = () => { mark = lastTimer; };
  page.dropTimers = () => {
    for (const id of [...timers.keys()]) if (id > mark) timers.delete(id);
    for (const timer of timers.values()) timer.at += SETTINGS.start_ms - now;
    now = SETTINGS.start_ms;
  };
  // Pictures that style sheets name are fetched before anything is seen: sizes of elements depend on them.
  page.preload = async () => {
    const found = new Set();
    for (const sheet of document.styleSheets) {
      let rules = [];
      try { rules = sheet.cssRules; } catch (error) { if (error.name !== "SecurityError") throw error; }  // of another host
      for (const rule of rules)
        for (const match of rule.cssText.matchAll(/url\("([^"]+)"\)/g)) found.add(new URL(match[1], sheet.href || location.href).href);
    }
    page.pictures = [...found].map((url) => Object.assign(new Image(), { src: url }));
    await Promise.all(page.pictures.map((picture) => picture.decode().catch(() => null)));  // what is no picture, too
  };
  // With a virtual clock a picture takes no time: those that an action puts into the page are there before it is seen. One that waits
  // to be scrolled to is not waited for.
  const loaded = (picture) => picture.complete || picture.loading === "lazy" || picture.decode().catch(() => null);
  const pictures = () => Promise.all([...document.images].map(loaded));
  const frames = () => new Promise((done) => real.frame(() => real.setTimeout(done, 0)));

  // ── what listens to the mouse ────────────────────────────────────────────────────────────────────────────────────
  const MOUSE = new Set(["click", "dblclick", "mousedown", "mouseup", "pointerdown", "pointerup"]);
  const listening = new WeakSet();
  const listen = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function (type, ...rest) {
    if (MOUSE.has(type) && this instanceof Element) listening.add(this);
    return listen.call(this, type, ...rest);
  };

  // ── ids ──────────────────────────────────────────────────────────────────────────────────────────────────────────
  let ids = new WeakMap(), elements = new Map(), clip = "";
  page.forget = () => { ids = new WeakMap(); elements = new Map(); clip = ""; };
  const idOf = (e) => {
    let id = ids.get(e);
    if (id === undefined) { id = String(elements.size + 1); ids.set(e, id); elements.set(id, e); }
    return id;
  };

  // ── roles, names, values, states ─────────────────────────────────────────────────────────────────────────────────
  const ROLES = {
    A: (e) => (e.hasAttribute("href") ? "link" : ""), AREA: "link", ARTICLE: "article", ASIDE: "complementary",
    BUTTON: "button", CANVAS: "Canvas", CAPTION: "caption", DETAILS: "group", DIALOG: "dialog", DD: "definition", DT: "term",
    FIELDSET: "group", FIGURE: "figure", FOOTER: "contentinfo", FORM: "form", H1: "heading", H2: "heading", H3: "heading",
    H4: "heading", H5: "heading", H6: "heading", HEADER: "banner", HR: "separator", IFRAME: "Iframe",
    IMG: (e) => (e.getAttribute("alt") === "" ? "" : "image"), LEGEND: "Legend", LI: "listitem",
    MAIN: "main", METER: "meter", NAV: "navigation", OL: "list", OPTGROUP: "group", OPTION: "option", OUTPUT: "status",
    P: "paragraph", PROGRESS: "progressbar", SEARCH: "search", SECTION: (e) => (e.hasAttribute("aria-label") ? "region" : ""),
    SELECT: (e) => (e.multiple || e.size > 1 ? "listbox" : "combobox"), SUMMARY: "DisclosureTriangle", TABLE: "table",
    TBODY: "rowgroup", TD: "cell", TEXTAREA: "textbox", TFOOT: "rowgroup", TH: "columnheader", THEAD: "rowgroup", TR: "row",
    UL: "list",
  };
  const INPUTS = {
    button: "button", checkbox: "checkbox", color: "ColorWell", date: "Date", email: "textbox", file: "button", image: "button",
    month: "Date", number: "spinbutton", password: "textbox", radio: "radio", range: "slider", reset: "button",
    search: "searchbox", submit: "button", tel: "textbox", text: "textbox", time: "InputTime", url: "textbox", week: "Date",
  };
  const SHAPES = new Set(["circle", "ellipse", "image", "line", "path", "polygon", "polyline", "rect"]);
  const NAMED = new Set([
    "button", "cell", "checkbox", "columnheader", "DisclosureTriangle", "gridcell", "heading", "link", "menuitem", "option",
    "radio", "rowheader", "switch", "tab", "tooltip", "treeitem", "menuitemcheckbox", "menuitemradio",
  ]);
  const SKIPPED = new Set(["SCRIPT", "STYLE", "TEMPLATE", "NOSCRIPT", "HEAD", "META", "LINK", "TITLE"]);
  const squeezed = (text) => text.replace(/\s+/g, " ").trim();
  const isText = (e) => e.tagName === "TEXTAREA" || e.isContentEditable ||
    (e.tagName === "INPUT" && !["button", "checkbox", "file", "image", "radio", "reset", "submit", "hidden"].includes(e.type));

  const roleOf = (e) => {
    const said = e.getAttribute("role");
    if (said) { const first = said.trim().split(/\s+/)[0]; return first === "presentation" || first === "none" ? "" : first; }
    if (e.namespaceURI === "http://www.w3.org/2000/svg") return SHAPES.has(e.tagName) || (e.tagName === "text" && !e.childElementCount) ? "graphics-symbol" : "";
    if (e.tagName === "INPUT") return e.type === "hidden" ? "" : (e.hasAttribute("list") ? "combobox" : INPUTS[e.type] || "textbox");
    const found = ROLES[e.tagName];
    if (e.isContentEditable && !e.parentElement?.isContentEditable) return "textbox";
    return typeof found === "function" ? found(e) : found || "";
  };
  const shownText = (e) => squeezed(e.childElementCount ? e.innerText ?? e.textContent : e.textContent);
  const labelled = (e) => {
    const by = e.getAttribute("aria-labelledby");
    if (by) {
      const text = squeezed(by.split(/\s+/).map((id) => document.getElementById(id)?.textContent ?? "").join(" "));
      if (text) return text;
    }
    return e.getAttribute("aria-label") || "";
  };
  const nameOf = (e, role) => {
    const own = labelled(e);
    if (own) return own;
    const tag = e.tagName;
    if (role === "graphics-symbol") return tag === "text" ? squeezed(e.textContent) : tag;
    if (tag === "INPUT" && ["button", "submit", "reset"].includes(e.type))
      return e.value || (e.type === "submit" ? "Submit" : e.type === "reset" ? "Reset" : "");
    if (e.labels?.length) { const text = squeezed([...e.labels].map((label) => label.textContent).join(" ")); if (text) return text; }
    if (tag === "IMG" || (tag === "INPUT" && e.type === "image")) return e.alt || e.title || "";
    if (tag === "FIELDSET") return squeezed(e.querySelector(":scope > legend")?.textContent ?? "");
    if (tag === "TABLE") return squeezed(e.caption?.textContent ?? "");
    if (tag === "OPTGROUP") return e.label;
    if (NAMED.has(role)) { const text = tag === "OPTION" ? squeezed(e.label) : shownText(e); if (text) return text; }
    return e.title || e.getAttribute?.("title") || e.placeholder || "";
  };
  const valueOf = (e) => {
    if (e.tagName === "SELECT") return squeezed([...e.selectedOptions].map((one) => one.label).join(", "));
    if (e.tagName === "INPUT" && e.type === "password") return "•".repeat(e.value.length);
    if (isText(e)) return e.isContentEditable ? e.innerText : e.value;
    if (["PROGRESS", "METER"].includes(e.tagName)) return String(e.value);
    return e.getAttribute("aria-valuetext") ?? e.getAttribute("aria-valuenow");
  };
  const ARIA = ["checked", "expanded", "pressed", "selected", "haspopup", "sort", "current"];
  const statesOf = (e, role) => {
    const states = {};
    if (e.tagName === "INPUT" && (e.type === "checkbox" || e.type === "radio"))
      states.checked = e.indeterminate ? "mixed" : String(e.checked);
    if (e.tagName === "OPTION") states.selected = String(e.selected);
    if (e.tagName === "DETAILS") states.expanded = String(e.open);
    if (role === "heading" && /^H\d$/.test(e.tagName)) states.level = e.tagName[1];
    for (const name of ARIA) if (!(name in states) && e.hasAttribute("aria-" + name)) states[name] = e.getAttribute("aria-" + name);
    if (role === "slider" && e.tagName === "INPUT") { states.min = e.min || "0"; states.max = e.max || "100"; }
    if (e.disabled || e.getAttribute("aria-disabled") === "true") states.disabled = true;
    if (e.readOnly) states.readonly = true;
    if (e.required) states.required = true;
    if (e.tagName === "TEXTAREA") states.multiline = true;
    if (e.multiple && e.tagName === "SELECT") states.multiselectable = true;
    if (role === "graphics-symbol") {
      const style = getComputedStyle(e), box = e.getBoundingClientRect();
      states.fill = e.getAttribute("fill") || style.fill;
      if (style.stroke !== "none") states.stroke = e.getAttribute("stroke") || style.stroke;
      states.size = `${Math.round(box.width)}x${Math.round(box.height)}`;
    } else if (e.style?.backgroundColor) states.color = e.style.backgroundColor;
    return states;
  };

  // ── the tree ─────────────────────────────────────────────────────────────────────────────────────────────────────
  // A node: [role, name, id or 0, value or null, states or 0, children or 0, box or 0]. Elements without a meaning of their own
  // are left out and their children stand in their place.
  const shown = (e) => !SKIPPED.has(e.tagName) && !SETTINGS.hidden.includes(e.id) && e.getAttribute("aria-hidden") !== "true" &&
    (e.tagName === "OPTION" || e.tagName === "OPTGROUP" || e.checkVisibility({ visibilityProperty: true }) || getComputedStyle(e).display === "contents");
  const read = (parent, into) => {
    // What a label around its field says is the field's name.
    const inLabel = parent.tagName === "LABEL" && parent.control && parent.contains(parent.control) && !labelled(parent.control);
    for (const child of parent.childNodes) {
      if (child.nodeType === 3) {
        const text = inLabel ? "" : squeezed(child.data);
        if (text) into.push(["StaticText", text, 0, null, 0, 0, 0]);
      } else if (child.nodeType === 1 && shown(child)) readElement(child, into);
    }
  };
  const readElement = (e, into) => {
    let role = roleOf(e);
    const clickable = listening.has(e) || Boolean(e.onclick) || Boolean(e.onmousedown);
    const plain = !role || role === "generic";
    if (plain && !clickable && !(e.tabIndex >= 0 && e.hasAttribute("tabindex")) && !(e.style?.backgroundColor && !e.textContent.trim()))
      return read(e, into);
    if (plain) role = "generic";
    let name = nameOf(e, role);
    if (!name && plain && !e.childElementCount) name = squeezed(e.textContent);
    const states = statesOf(e, role);
    if (clickable && (plain || role === "graphics-symbol" || !NAMED.has(role))) states.clickable = true;
    if (plain && !name && !e.textContent.trim()) {  // an icon, perhaps
      const looks = e.getAttribute("class") || e.id || e.firstElementChild?.getAttribute("class");
      if (looks) states.class = looks.slice(0, 60);
    }
    const id = idOf(e), children = [];
    if (!["TEXTAREA", "IFRAME"].includes(e.tagName) && !(e.isContentEditable && role === "textbox")) read(e, children);
    if (plain && !name && children.length === 1 && children[0][0] === "StaticText") name = children.pop()[1];
    const box = e.getBoundingClientRect();
    into.push([role, name, id, valueOf(e), Object.keys(states).length ? states : 0, children.length ? children : 0,
      [box.left, box.top, box.width, box.height].map((one) => Math.round(one * 10) / 10)]);
  };
  page.observe = () => {
    const children = [];
    if (document.body) read(document.body, children);
    const active = document.activeElement;
    return {
      title: document.title, url: location.href, tree: children, more: page.more ? page.more() : null,
      focused: active && active !== document.body && ids.has(active) ? ids.get(active) : null,
    };
  };

  // ── acting ───────────────────────────────────────────────────────────────────────────────────────────────────────
  class Wrong extends Error {}
  const wrong = (text) => { throw new Wrong(text); };
  const quote = (text) => JSON.stringify(squeezed(String(text)).slice(0, 80));
  const byId = (id) => {
    const e = elements.get(id);
    if (!e) wrong(`there is no element ${quote(id)}`);
    if (!e.isConnected) wrong(`the element ${quote(id)} is no longer on the page`);
    return e;
  };
  const usable = (e, id) => {
    if (e.tagName === "OPTION") e = e.closest("select") ?? e;
    if (!e.checkVisibility({ visibilityProperty: true })) wrong(`the element ${quote(id)} is hidden`);
    if (e.disabled) wrong(`the element ${quote(id)} is disabled`);
    return e;
  };
  // Where the mouse would go: [the element under the point, x, y]. The middle, or where something lies over that, another point
  // of the element that is free. Wrong where none is.
  const POINTS = [[0.5, 0.5], [0.2, 0.2], [0.8, 0.2], [0.2, 0.8], [0.8, 0.8], [0.5, 0.1], [0.5, 0.9], [0.1, 0.5], [0.9, 0.5]];
  const isUnder = (e, hit) => hit && (hit === e || e.contains(hit) || [...(e.labels ?? [])].some((label) => label.contains(hit)) ||
    (e.namespaceURI === "http://www.w3.org/2000/svg" && hit.contains(e)));
  const aim = (e, id) => {
    if (e.tagName === "OPTION") wrong(`an option is chosen by select_option(${quote(idOf(e.closest("select")))}, ${quote(e.label)})`);
    e.scrollIntoViewIfNeeded?.();
    const boxes = e.getClientRects(), box = boxes.length === 1 ? e.getBoundingClientRect() : boxes[0];
    if (!box || !(box.width || box.height)) wrong(`the element ${quote(id)} has no size`);
    let over = null;
    for (const [right, down] of POINTS) {
      const x = box.left + box.width * right, y = box.top + box.height * down, hit = document.elementFromPoint(x, y);
      if (isUnder(e, hit)) return [e.contains(hit) || e.namespaceURI !== "http://www.w3.org/2000/svg" ? hit : e, x, y];
      over ??= hit;
    }
    if (!over) wrong(`the element ${quote(id)} is outside of the window`);
    wrong(`the element ${quote(id)} is covered by another, <${over.tagName.toLowerCase()}${over.id ? " id=" + quote(over.id) : ""}>`);
  };
  const BUTTON = { left: 0, middle: 1, right: 2 }, HELD = { left: 1, middle: 4, right: 2 };
  const clicked = (target, x, y, button, modifiers, times) => {
    const keys = new Set(modifiers);
    const base = {
      bubbles: true, cancelable: true, composed: true, view: window, clientX: x, clientY: y, screenX: x, screenY: y, button: BUTTON[button],
      altKey: keys.has("Alt"), ctrlKey: keys.has("Control") || keys.has("ControlOrMeta"), metaKey: keys.has("Meta"), shiftKey: keys.has("Shift"),
    };
    const pointer = { pointerId: 1, pointerType: "mouse", isPrimary: true };
    const send = (Kind, type, more) => !target.isConnected || target.dispatchEvent(new Kind(type, { ...base, ...more }));
    for (const type of ["pointerover", "pointermove"]) send(PointerEvent, type, { ...pointer, button: -1 });
    for (const type of ["mouseover", "mousemove"]) send(MouseEvent, type, { button: 0 });
    for (let time = 1; time <= times; time++) {
      send(PointerEvent, "pointerdown", { ...pointer, buttons: HELD[button], detail: 0 });
      if (send(MouseEvent, "mousedown", { buttons: HELD[button], detail: time })) focused(target);
      send(PointerEvent, "pointerup", { ...pointer, detail: 0 });
      send(MouseEvent, "mouseup", { detail: time });
      if (button === "left") send(PointerEvent, "click", { ...pointer, detail: time });
      else { send(PointerEvent, "auxclick", { ...pointer, detail: time }); if (button === "right") send(PointerEvent, "contextmenu", pointer); }
    }
    if (times === 2 && button === "left") send(MouseEvent, "dblclick", { detail: 2 });
  };
  const focused = (target) => {
    for (let e = target; e instanceof Element; e = e.parentElement) {
      if (e.tagName === "LABEL") return;
      if ((e.tabIndex >= 0 || e.hasAttribute("tabindex") || e.isContentEditable) && !e.disabled) { if (e !== document.activeElement) e.focus({ preventScroll: true }); return; }
    }
    if (document.activeElement !== document.body) document.activeElement?.blur?.();
  };
  const sent = (e, ...types) => types.forEach((type) => e.dispatchEvent(new Event(type, { bubbles: true, composed: type === "input" })));
  const setValue = (e, text) => {
    const kind = e.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(e, text);
  };
  const TYPED = new Set(["email", "number", "password", "search", "tel", "text", "url"]);
  const select = (e) => {
    if (e.isContentEditable) getSelection().selectAllChildren(e); else e.select();
  };
  // A field that takes the text key by key; null where its value was set at once (dates, colours, sliders).
  const field = (e, id, text) => {
    usable(e, id);
    if (!isText(e)) wrong(`the element ${quote(id)} takes no text; it is a ${roleOf(e) || "plain element"}`);
    if (e.readOnly) wrong(`the element ${quote(id)} is read-only`);
    e.scrollIntoViewIfNeeded?.();
    e.focus({ preventScroll: true });
    if (e.tagName !== "INPUT" || TYPED.has(e.type)) { select(e); return e; }
    const before = e.value;
    setValue(e, text);
    if (text && e.value !== text && e.value.toLowerCase() !== text.toLowerCase()) {
      setValue(e, before);
      const forms = { date: "2000-12-31", time: "23:59", month: "2000-12", week: "2000-W52", color: "#00ff00", "datetime-local": "2000-12-31T23:59", range: "a number in its range" };
      wrong(`the element ${quote(id)} does not take ${quote(text)}; it takes a ${e.type} such as ${forms[e.type] ?? "another"}`);
    }
    sent(e, "input", "change");
    return null;
  };
  const insert = (text) => (text ? document.execCommand("insertText", false, text) : document.execCommand("delete"));
  const fill = (id, text) => {
    const e = byId(id), typed = field(e, id, text);
    if (!typed) return;
    const full = typed.isContentEditable ? typed.textContent : typed.value;
    if (!text && !full) return;
    if (!insert(text) && !typed.isContentEditable) { setValue(typed, text); sent(typed, "input", "change"); }
  };
  const choose = (id, wanted) => {
    let e = byId(id);
    if (e.tagName !== "SELECT") wrong(`the element ${quote(id)} is no list to choose from; it is a ${roleOf(e) || "plain element"}`);
    usable(e, id);
    const words = Array.isArray(wanted) ? wanted : [wanted];
    if (words.length !== 1 && !e.multiple) wrong(`the list ${quote(id)} takes one option; got ${words.length}`);
    const options = [...e.options];
    const found = words.map((word) => options.find((one) => one.value === word) ??
      options.find((one) => squeezed(one.label) === squeezed(word)) ??
      wrong(`the list ${quote(id)} has no option ${quote(word)}; it has ${options.slice(0, 20).map((one) => quote(one.label)).join(", ")}`));
    found.forEach((one) => { if (one.disabled) wrong(`the option ${quote(one.label)} is disabled`); });
    focused(e);
    options.forEach((one) => { one.selected = found.includes(one); });
    sent(e, "input", "change");
  };
  const ticked = (id) => {
    const e = byId(id), said = e.getAttribute("aria-checked");
    const box = e.tagName === "INPUT" && ["checkbox", "radio"].includes(e.type);
    if (!box && said === null) wrong(`the element ${quote(id)} is no box to tick; it is a ${roleOf(e) || "plain element"}`);
    return [e, box ? e.checked : said === "true"];
  };
  const mouse = (id, button, modifiers, times) => {
    const e = byId(id);
    usable(e, id);
    const list = e.tagName === "OPTION" ? e.closest("select") : null;
    if (list && (list.multiple || list.size > 1)) return choose(idOf(list), e.value);
    clicked(...aim(e, id), button, modifiers, times);
  };
  const scrolled = (x, y, dx, dy) => {
    for (let e = document.elementFromPoint(x, y); e; e = e.parentElement) {
      const way = getComputedStyle(e), before = [e.scrollLeft, e.scrollTop];
      if (e !== document.scrollingElement && !/auto|scroll/.test(way.overflowX + way.overflowY)) continue;
      e.scrollBy({ left: dx, top: dy, behavior: "instant" });
      if (e.scrollLeft !== before[0] || e.scrollTop !== before[1]) return;
    }
  };
  const DO = {
    noop: () => {},
    click: (id, button, modifiers) => mouse(id, button, modifiers, 1),
    dblclick: (id, button, modifiers) => mouse(id, button, modifiers, 2),
    fill: (id, text) => fill(id, text),
    clear: (id) => fill(id, ""),
    focus: (id) => { const e = byId(id); usable(e, id); e.focus(); },
    select_option: choose,
    check: (id) => { const [e, on] = ticked(id); if (!on) mouse(id, "left", [], 1); },
    uncheck: (id) => { const [e, on] = ticked(id); if (e.type === "radio") wrong("a radio button cannot be taken back; check another"); if (on) mouse(id, "left", [], 1); },
    scroll: async (x, y, dx, dy) => { scrolled(x, y, dx, dy); await frames(); },
    // Parts of what the trusted mouse and keyboard do, see chromium.py.
    aim: (id) => { const e = byId(id); usable(e, id); const [, x, y] = aim(e, id); return [x, y]; },
    ticked: (id, wanted) => { const [e, on] = ticked(id); if (!wanted && e.type === "radio") wrong("a radio button cannot be taken back; check another"); return on; },
    ready: (id, text) => { const e = byId(id); return field(e, id, text) ? 1 : 0; },
    frames,
  };
  // ── the clipboard ────────────────────────────────────────────────────────────────────────────────────────────────
  // A browser has one for all of its pages. Here each page has its own, so that no episode pastes what another copied: the
  // browser's event is stopped, and a page's own listeners get one with this page's text.
  const pasted = (type, text) => {
    const clipboardData = new DataTransfer();
    if (text) clipboardData.setData("text/plain", text);
    return new ClipboardEvent(type, { bubbles: true, cancelable: true, composed: true, clipboardData });
  };
  const selected = () => {
    const e = document.activeElement;
    if (e?.tagName === "INPUT" && e.type === "password") return "";
    return e && isText(e) && !e.isContentEditable ? e.value.slice(e.selectionStart ?? 0, e.selectionEnd ?? 0) : String(getSelection());
  };
  const clipped = (event) => {
    if (!event.isTrusted) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const mine = pasted(event.type, event.type === "paste" ? clip : "");
    const handled = !event.target.dispatchEvent(mine), text = selected();
    if (event.type === "paste") {
      if (!handled && clip) insert(clip);
    } else if (handled) clip = mine.clipboardData.getData("text/plain");
    else if (text) {
      clip = text;
      if (event.type === "cut") insert("");
    }
  };
  for (const type of ["copy", "cut", "paste"]) listen.call(window, type, clipped, true);

  // One evaluate: an action, the clock moved on, what is then seen. JSON {error, value, …observe()}.
  page.turn = async ([name, args, ms, look]) => {
    let error = "", value = null;
    try { value = (await DO[name](...args)) ?? null; }
    catch (thrown) { if (!(thrown instanceof Wrong)) throw thrown; error = thrown.message; }
    if (ms) await page.advance(ms);
    if (look && SETTINGS.virtual) await pictures();
    return JSON.stringify(look ? { error, value, ...page.observe() } : { error, value });
  };
})();
