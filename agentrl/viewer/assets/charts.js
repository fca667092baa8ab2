"use strict";
// Charts in SVG: lines over iterations, points with intervals, stacked bars of phase times, bars of rates.

/** Ticks at round numbers, about ``n`` of them, that lie within [low, high]. */
function ticks(low, high, n = 4) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((size) => span / size <= n + 0.5) || 10 * power;
  const found = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-6; tick += step) found.push(Math.abs(tick) < step * 1e-9 ? 0 : Number(tick.toPrecision(12)));
  return found;
}

/** A running mean over ``width`` values, none where there is none. */
function smoothed(values, width) {
  if (width <= 1) return values;
  const half = Math.floor(width / 2);
  return values.map((value, place) => {
    if (value === null) return null;
    const near = values.slice(Math.max(0, place - half), place + half + 1).filter((v) => v !== null);
    return near.reduce((sum, v) => sum + v, 0) / near.length;
  });
}

function scaleOf(values, log, fixed) {
  const finite = values.filter((v) => v !== null && Number.isFinite(v) && (!log || v > 0));
  if (!finite.length) return null;
  let [low, high] = fixed || [Math.min(...finite), Math.max(...finite)];
  if (log) {
    [low, high] = [Math.log10(low), Math.log10(high)];
    if (high - low < 1e-9) { low -= 0.5; high += 0.5; }
    const marks = [];
    for (let power = Math.floor(low); power <= Math.ceil(high); power++) marks.push(10 ** power);
    const inside = marks.filter((m) => Math.log10(m) >= low - 1e-9 && Math.log10(m) <= high + 1e-9);
    return { at: (v) => (v > 0 ? (Math.log10(v) - low) / (high - low) : null), marks: inside.length ? inside : [10 ** low, 10 ** high] };
  }
  if (high - low < 1e-12 * Math.max(1, Math.abs(high))) return { at: () => 0.5, marks: [low] };
  if (!fixed) {
    const room = (high - low) * 0.06;
    low = low >= 0 && low - room < 0 ? 0 : low - room;
    high += room;
  }
  return { at: (v) => (v - low) / (high - low), marks: ticks(low, high) };
}

/**
 * A chart over iterations.
 * series: [{name, x, y, colour, faint?}], points: [{name, x, value, ci95, colour, note}], options: {height, log, fixed, smooth, onpick, format}.
 */
function lineChart(series, points, options = {}) {
  const box = h(".chart", { style: { height: `${options.height || 120}px` } });
  const format = options.format || ((v) => num(v));
  const draw = () => {
    const width = box.clientWidth, height = box.clientHeight;
    if (width < 20) return;
    const xs = [...series.flatMap((each) => each.x), ...points.map((p) => p.x)];
    const values = [...series.flatMap((each) => each.y), ...points.flatMap((p) => [p.value, ...(p.ci95 || [])])];
    const scale = scaleOf(values, options.log, options.fixed);
    if (!scale || !xs.length) {
      replace(box, h(".empty.small", {}, options.log ? "No positive values" : "No values"));
      return;
    }
    const labels = told(scale.marks, format);
    const left = 10 + 6.4 * Math.max(...labels.map((text) => text.length));
    const area = { left, right: width - 8, top: 8, bottom: height - 20 };
    const [first, last] = [Math.min(...xs), Math.max(...xs)];
    const X = (x) => area.left + (last > first ? (x - first) / (last - first) : 0.5) * (area.right - area.left);
    const Y = (v) => (v === null || scale.at(v) === null ? null : area.bottom - scale.at(v) * (area.bottom - area.top));
    const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.label || "" });
    scale.marks.forEach((mark, place) => {
      svg.append(s("line", { x1: area.left, x2: area.right, y1: Y(mark), y2: Y(mark), class: "grid" }),
        s("text", { x: area.left - 6, y: Y(mark) + 3.5, class: "label end" }, labels[place]));
    });
    for (const tick of ticks(first, last, Math.max(2, Math.floor(width / 90))).filter(Number.isInteger)) {
      svg.append(s("text", { x: X(tick), y: height - 4, class: "label mid" }, String(tick)));
    }
    for (const each of series) {
      const shown = smoothed(each.y, options.smooth || 1);
      if (options.smooth > 1) svg.append(s("path", { d: pathOf(each.x, each.y, X, Y), class: "line faint", style: { stroke: each.colour } }));
      svg.append(s("path", { d: pathOf(each.x, shown, X, Y), class: "line", style: { stroke: each.colour } }));
      if (each.x.length === 1) svg.append(s("circle", { cx: X(each.x[0]), cy: Y(each.y[0]) ?? -9, r: 3, style: { fill: each.colour } }));
    }
    for (const point of points) {
      const x = X(point.x) + (point.shift || 0);
      if (point.ci95) svg.append(s("line", { x1: x, x2: x, y1: Y(point.ci95[0]), y2: Y(point.ci95[1]), class: "interval", style: { stroke: point.colour } }));
      svg.append(s("circle", { cx: x, cy: Y(point.value), r: 4, class: "point", style: { fill: point.colour } }));
    }
    const cursor = s("line", { y1: area.top, y2: area.bottom, class: "cursor", visibility: "hidden" });
    svg.append(cursor);
    hover(svg, cursor, { series, points, X, Y, format, options, first, last, area });
    replace(box, svg);
  };
  observe(box, draw);
  return box;
}

/** Labels of ticks; with more digits where they would read the same. */
function told(marks, format) {
  const labels = marks.map(format);
  return new Set(labels).size === labels.length ? labels : marks.map((mark) => num(mark, 8));
}

function pathOf(x, y, X, Y) {
  let path = "", open = false;
  for (let place = 0; place < x.length; place++) {
    const height = y[place] === null ? null : Y(y[place]);
    if (height === null) { open = false; continue; }
    path += `${open ? "L" : "M"}${X(x[place]).toFixed(1)} ${height.toFixed(1)}`;
    open = true;
  }
  return path;
}

function hover(svg, cursor, { series, points, X, Y, format, options, area }) {
  const xs = [...new Set([...series.flatMap((each) => each.x), ...points.map((p) => p.x)])].sort((a, b) => a - b);
  const nearest = (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    return xs.reduce((best, x) => (Math.abs(X(x) - at) < Math.abs(X(best) - at) ? x : best), xs[0]);
  };
  svg.addEventListener("pointermove", (event) => {
    const x = nearest(event);
    cursor.setAttribute("x1", X(x));
    cursor.setAttribute("x2", X(x));
    cursor.setAttribute("visibility", "visible");
    const rows = series.filter((each) => each.x.includes(x)).map((each) => [swatch(each.colour), each.name, format(each.y[each.x.indexOf(x)])]);
    for (const point of points.filter((p) => p.x === x)) {
      rows.push([swatch(point.colour), point.name, `${format(point.value)}${point.ci95 ? ` [${format(point.ci95[0])}, ${format(point.ci95[1])}]` : ""}${point.note ? `  ${point.note}` : ""}`]);
    }
    tip.show(event, h(".tiphead", {}, `iteration ${x}`), h("table", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell))))),
      options.onpick ? h(".tipfoot", {}, "click: its episodes") : null);
  });
  svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); tip.hide(); });
  if (options.onpick) {
    svg.classList.add("pick");
    svg.addEventListener("click", (event) => options.onpick(nearest(event)));
  }
}

function swatch(colour) {
  return h("i.swatch", { style: { background: colour } });
}

function legend(items) {
  return h(".legend", {}, items.map(([colour, name]) => h("span", {}, swatch(colour), name)));
}

/** Seconds of each phase of each iteration, one above the other. phases: [{name, y, colour}]. */
function stackedBars(x, phases, options = {}) {
  const box = h(".chart", { style: { height: `${options.height || 160}px` } });
  const totals = x.map((_, place) => phases.reduce((sum, phase) => sum + Math.max(0, phase.y[place] || 0), 0));
  const draw = () => {
    const width = box.clientWidth, height = box.clientHeight;
    if (width < 20) return;
    const most = Math.max(...totals, 1e-9) * 1.04;
    const marks = ticks(0, most);
    const left = 10 + 6.4 * Math.max(...marks.map((mark) => num(mark).length));
    const area = { left, right: width - 8, top: 8, bottom: height - 20 };
    const slot = (area.right - area.left) / x.length;
    const gap = slot > 5 ? Math.min(3, slot * 0.2) : 0;
    const Y = (v) => area.bottom - (v / most) * (area.bottom - area.top);
    const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Seconds of each phase" });
    for (const mark of marks) {
      svg.append(s("line", { x1: area.left, x2: area.right, y1: Y(mark), y2: Y(mark), class: "grid" }), s("text", { x: area.left - 6, y: Y(mark) + 3.5, class: "label end" }, num(mark)));
    }
    x.forEach((iteration, place) => {
      let sum = 0;
      const bar = s("g", {});
      for (const phase of phases) {
        const value = Math.max(0, phase.y[place] || 0);
        if (value) bar.append(s("rect", { x: area.left + place * slot + gap / 2, width: Math.max(0.5, slot - gap), y: Y(sum + value), height: Math.max(0, Y(sum) - Y(sum + value)), style: { fill: phase.colour } }));
        sum += value;
      }
      bar.append(s("rect", { x: area.left + place * slot, width: slot, y: area.top, height: area.bottom - area.top, fill: "transparent" }));
      bar.addEventListener("pointermove", (event) => tip.show(event, h(".tiphead", {}, `iteration ${iteration}: ${num(totals[place])} s`),
        h("table", {}, phases.map((phase) => h("tr", {}, h("td", {}, swatch(phase.colour)), h("td", {}, phase.name), h("td", {}, `${num(phase.y[place] || 0)} s`), h("td", {}, percent((phase.y[place] || 0) / (totals[place] || 1))))))));
      bar.addEventListener("pointerleave", tip.hide);
      svg.append(bar);
    });
    for (const tick of ticks(x[0], x[x.length - 1], Math.max(2, Math.floor(width / 90))).filter(Number.isInteger)) {
      const place = x.indexOf(tick);
      if (place >= 0) svg.append(s("text", { x: area.left + (place + 0.5) * slot, y: height - 4, class: "label mid" }, String(tick)));
    }
    replace(box, svg);
  };
  observe(box, draw);
  return box;
}

/** A rate with its interval on a scale from 0 to 1. */
function rateBar(value, ci95, colour) {
  return h(".rate", { style: { "--value": value, "--low": ci95 ? ci95[0] : value, "--high": ci95 ? ci95[1] : value, "--colour": colour || "var(--accent)" } },
    h("i.bar"), ci95 ? h("i.span") : null);
}

/** Draws when the box gets a size, and again when that changes. */
function observe(box, draw) {
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - width) < 1) return;
    width = entry.contentRect.width;
    draw();
  }).observe(box);
  box.redraw = draw;
}
