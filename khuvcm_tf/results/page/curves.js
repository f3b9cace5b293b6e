"use strict";
// Draws curves from the JSON in their section; all text is set as text.
for (const root of document.querySelectorAll(".curves-view")) {
  const find = (selector) => root.querySelector(selector);
  const {axis, metrics, windows, first, curves} = JSON.parse(find("script").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const RADIUS = 30;  // pixels from the pointer to a point that is still meant
  // The shapes of the figures in plots/, in their order, within 5 units of the origin.
  const MARKERS = [
    "M-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0 -9.2 0z",
    "M-4.2 -4.2H4.2V4.2H-4.2z",
    "M0 -5.4L5.2 4.2H-5.2z",
    "M0 -5.8L5.2 0L0 5.8L-5.2 0z",
    "M0 5.4L5.2 -4.2H-5.2z",
    "M-1.9 -5.2H1.9V-1.9H5.2V1.9H1.9V5.2H-1.9V1.9H-5.2V-1.9H-1.9z",
    "M-4.9 -2.6L-2.6 -4.9L0 -2.3L2.6 -4.9L4.9 -2.6L2.3 0L4.9 2.6L2.6 4.9L0 2.3L-2.6 4.9L-4.9 2.6L-2.3 0z",
    "M0 -6L1.6 -2L6 -1.9L2.5 0.9L3.8 5.2L0 2.7L-3.8 5.2L-2.5 0.9L-6 -1.9L-1.6 -2z",
  ];
  const [chart, tabs, legend, limitChoice, logarithmic] =
    [".chart", ".tabs", ".legend", ".limit", ".logarithmic"].map(find);
  chart.id = `${root.closest("section").id}-chart`;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  const hidden = new Set();
  const names = Object.keys(metrics);
  if (!names.length) {
    chart.textContent = "There is no curve to draw.";
    continue;
  }
  let metric = names[0];
  let shown = [];  // points of the drawing: {node, x, y, curve, point}

  function node(tag, attributes, parent) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (parent) parent.append(made);
    return made;
  }

  function label(text, attributes, parent) {
    node("text", attributes, parent).textContent = text;
  }

  // About `count` round numbers between two.
  function ticks(low, high, count) {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 2.5, 5, 10].find((s) => s * power >= raw * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k++) found.push(+(k * step).toPrecision(10));
    return found;
  }

  // Round numbers on a logarithmic scale, fewer where it spans more decades.
  function logarithmicTicks(low, high) {
    const digits = high < 30 * low ? [1, 1.5, 2, 3, 5, 7] : high < 1000 * low ? [1, 2, 5] : [1];
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      found.push(...digits.map((digit) => +(digit * 10 ** power).toPrecision(10)));
    }
    return found.filter((tick) => tick >= low && tick <= high);
  }

  function amount(number, {unit, decimals}) {
    return number.toFixed(decimals) + (unit && ` ${unit}`);
  }

  const value = (point) => amount(point.values[metric], metrics[metric]);
  const title = ({label: text, unit}) => unit ? `${text} (${unit})` : text;

  function draw() {
    const focused = shown.findIndex((s) => s.node === document.activeElement);
    const width = Math.max(280, chart.clientWidth - 16);
    const height = Math.round(Math.min(560, Math.max(320, width * 0.56)));
    const box = {left: 50, right: width - 12, top: 34, bottom: height - 46};
    const limit = Number(limitChoice.value);
    const visible = curves.map((curve, index) => ({
      curve, index, points: curve.points.filter((p) => metric in p.values),
    })).filter((s) => !hidden.has(s.curve) && s.points.length);
    const within = visible.flatMap((s) => s.points).filter((p) => p.x <= limit);
    const levels = within.map((p) => p.values[metric]);
    let [low, high] = levels.length ? [Math.min(...levels), Math.max(...levels)] : [0, 1];
    const margin = (high - low) * 0.06 || 0.5;
    [low, high] = [low - margin, high + margin];
    const start = logarithmic.checked ? Math.min(limit / 2, ...within.map((p) => p.x)) * 0.9 : 0;
    const position = logarithmic.checked ? Math.log : (cost) => cost;
    const scale = (box.right - box.left) / (position(limit) - position(start));
    const x = (cost) => box.left + (position(cost) - position(start)) * scale;
    const y = (level) => box.bottom - (level - low) / (high - low) * (box.bottom - box.top);

    const svg = node("svg", {viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label":
      `${title(metrics[metric])} against ${axis.label}, ${visible.length} curves`});
    const clip = node("clipPath", {id: `${chart.id}-inside`}, node("defs", {}, svg));
    node("rect", {x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top}, clip);
    const costs = logarithmic.checked
      ? logarithmicTicks(start, limit) : ticks(0, limit, Math.max(3, width / 110));
    for (const cost of costs) {
      node("path", {class: "grid", d: `M${x(cost)} ${box.top}V${box.bottom}`}, svg);
      label(String(cost), {x: x(cost), y: box.bottom + 18, "text-anchor": "middle"}, svg);
    }
    for (const level of ticks(low, high, height / 60)) {
      node("path", {class: "grid", d: `M${box.left} ${y(level)}H${box.right}`}, svg);
      label(String(level), {x: box.left - 8, y: y(level) + 4, "text-anchor": "end"}, svg);
    }
    label(axis.label, {class: "title x", x: box.right, y: height - 8, "text-anchor": "end"}, svg);
    label(title(metrics[metric]), {class: "title y", x: 2, y: 16}, svg);

    const plot = node("g", {}, svg);
    shown = [];
    // The first ones last, so that they are on top.
    for (const {curve, points} of [...visible].reverse()) {
      const series = node("g", {class: `series ${curve.style} c${curve.colour}`}, plot);
      const d = points.map((p, i) => `${i ? "L" : "M"}${x(p.x).toFixed(1)} ${y(p.values[metric]).toFixed(1)}`);
      node("path", {class: "curve", d: d.join(""), "clip-path": `url(#${chart.id}-inside)`}, series);
      const own = points.filter((p) => p.x <= limit).map((point) => {
        const at = {curve, point, series, x: x(point.x), y: y(point.values[metric])};
        const group = node("g", {class: "point", tabindex: -1, role: "img", "aria-label":
          `${curve.name}${point.label && ", " + point.label}: ${amount(point.x, axis)}, ${value(point)}`,
          transform: `translate(${at.x.toFixed(1)} ${at.y.toFixed(1)})`}, series);
        node("path", {class: "marker", d: MARKERS[curve.marker]}, group);
        at.node = group;
        group.addEventListener("focus", () => show(at));
        group.addEventListener("blur", hide);
        return at;
      });
      shown.unshift(...own);
    }
    if (shown.length) shown[0].node.setAttribute("tabindex", 0);
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("keydown", walk);
    hide();
    chart.replaceChildren(svg, tip);
    if (focused >= 0 && shown[focused]) shown[focused].node.focus();
  }

  function follow(event) {
    const frame = event.currentTarget.getBoundingClientRect();
    const distance = (s) => Math.hypot(s.x - event.clientX + frame.left, s.y - event.clientY + frame.top);
    const nearest = shown.reduce((best, s) => !best || distance(s) < distance(best) ? s : best, null);
    if (nearest && distance(nearest) < RADIUS) show(nearest);
    else hide();
  }

  function show(at) {
    hide();
    at.node.classList.add("lit");
    at.series.classList.add("lit");
    chart.firstElementChild.classList.add("dimmed");
    const lines = [["b", at.curve.name], ["span", at.point.label || at.curve.group.toLowerCase()],
      ["span", amount(at.point.x, axis)], ["span", `${metrics[metric].label} ${value(at.point)}`]];
    tip.replaceChildren(...lines.filter(([, text]) => text).map(([tag, text]) => {
      const line = document.createElement(tag);
      line.textContent = text;
      return line;
    }));
    tip.hidden = false;
    const left = at.x + 20 + tip.offsetWidth < chart.clientWidth ? at.x + 20 : at.x - 8 - tip.offsetWidth;
    const top = Math.min(at.y + 18, chart.clientHeight - tip.offsetHeight - 6);
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  }

  function hide() {
    for (const lit of chart.querySelectorAll(".lit, .dimmed")) lit.classList.remove("lit", "dimmed");
    tip.hidden = true;
  }

  // Left and right go along a curve; up and down go to the next one, to its point of nearest cost.
  function walk(event) {
    const here = shown.find((s) => s.node === document.activeElement);
    if (event.key === "Escape") hide();
    if (!here || !event.key.startsWith("Arrow")) return;
    event.preventDefault();
    const own = shown.filter((s) => s.curve === here.curve);
    const step = ["ArrowRight", "ArrowDown"].includes(event.key) ? 1 : -1;
    let next;
    if (["ArrowLeft", "ArrowRight"].includes(event.key)) {
      next = own[own.indexOf(here) + step];
    } else {
      const order = [...new Set(shown.map((s) => s.curve))];
      const other = order[(order.indexOf(here.curve) + step + order.length) % order.length];
      const far = (s) => Math.abs(s.point.x - here.point.x);
      next = shown.filter((s) => s.curve === other).sort((a, b) => far(a) - far(b))[0];
    }
    if (!next) return;
    here.node.setAttribute("tabindex", -1);
    next.node.setAttribute("tabindex", 0);
    next.node.focus();
  }

  function select(name, focus) {
    metric = name;
    for (const tab of tabs.children) {
      const chosen = tab.dataset.metric === name;
      tab.setAttribute("aria-selected", chosen);
      tab.tabIndex = chosen ? 0 : -1;
      if (chosen) chart.setAttribute("aria-labelledby", tab.id);
      if (chosen && focus) tab.focus();
    }
    draw();
    for (const button of legend.querySelectorAll("[data-curve]")) {
      button.hidden = !curves[button.dataset.curve].points.some((p) => metric in p.values);
    }
  }

  function emphasise(curve) {
    hide();
    const series = shown.find((s) => s.curve === curve)?.series;
    if (!series) return;
    series.classList.add("lit");
    chart.firstElementChild.classList.add("dimmed");
  }

  function legendButton(curve, index) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.curve = index;
    button.setAttribute("aria-pressed", true);
    const sample = node("svg", {width: 34, height: 14, viewBox: "-17 -7 34 14", class: `${curve.style} c${curve.colour}`,
      "aria-hidden": true});
    node("path", {class: "curve", d: "M-17 0H17"}, sample);
    node("path", {class: "marker", d: MARKERS[curve.marker]}, sample);
    button.append(sample, curve.name);
    button.addEventListener("click", () => {
      toggle([curve], hidden.has(curve));
    });
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && emphasise(curve));
    button.addEventListener("pointerleave", hide);
    button.addEventListener("focus", () => button.matches(":focus-visible") && emphasise(curve));
    button.addEventListener("blur", hide);
    return button;
  }

  function toggle(some, visible) {
    for (const curve of some) visible ? hidden.delete(curve) : hidden.add(curve);
    for (const button of legend.querySelectorAll("[data-curve]")) {
      button.setAttribute("aria-pressed", !hidden.has(curves[button.dataset.curve]));
    }
    draw();
  }

  for (const name of names) {
    const tab = document.createElement("button");
    Object.assign(tab, {type: "button", id: `${chart.id}-${name}`, textContent: metrics[name].label});
    tab.dataset.metric = name;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", chart.id);
    tab.addEventListener("click", () => select(name));
    tabs.append(tab);
  }
  tabs.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (step) select(names[(names.indexOf(metric) + step + names.length) % names.length], true);
  });
  for (const heading of new Set(curves.map((c) => c.group))) {
    const some = curves.filter((c) => c.group === heading);
    const group = document.createElement("div");
    group.className = "kind";
    const all = document.createElement("button");
    Object.assign(all, {type: "button", className: "all", textContent: heading, title: "Hide or show all of these"});
    all.addEventListener("click", () => toggle(some, some.some((c) => hidden.has(c))));
    group.append(all, ...some.map((curve) => legendButton(curve, curves.indexOf(curve))));
    legend.append(group);
  }
  const highest = Math.max(...curves.flatMap((c) => c.points.map((p) => p.x))) * 1.02;
  for (const limit of [...windows, highest]) {
    const text = limit === highest ? "all" : `${limit} ${axis.unit}`;
    if (limit <= highest) limitChoice.add(new Option(text, limit));
  }
  limitChoice.value = first;
  if (limitChoice.selectedIndex < 0) limitChoice.selectedIndex = limitChoice.length - 1;
  limitChoice.addEventListener("change", draw);
  logarithmic.addEventListener("change", draw);
  select(metric);
  let drawnWidth = chart.clientWidth;
  new ResizeObserver(() => {
    if (chart.clientWidth !== drawnWidth) {
      drawnWidth = chart.clientWidth;
      draw();
    }
  }).observe(chart);
}
