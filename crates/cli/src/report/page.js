// Reads out the curves under the pointer, or by the arrow keys.
"use strict";
for (const figure of document.querySelectorAll("figure.chart")) {
  const { unit, ends, curves } = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  const area = figure.querySelector(".area"), cross = area.querySelector(".cross"), read = area.querySelector(".read");
  const steps = [...new Set(curves.flatMap(c => c.x))].sort((a, b) => a - b);
  const group = n => Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const digits = (v, n) => {
    const a = Math.abs(v);
    return a === 0 ? "0" : a < 1e-4 || a >= 1e6 ? v.toExponential(n - 1) : v.toFixed(Math.max(0, n - 1 - Math.floor(Math.log10(a))));
  };
  const show = v => {
    if (v === null) return "not finite";
    if (unit === "share") return (100 * v).toFixed(1) + " %";
    if (unit === "count") return group(v);
    if (unit !== "us") return digits(v, 4);
    const [scale, name] = v < 999.5 ? [1, "µs"] : v < 999500 ? [1e3, "ms"] : [1e6, "s"];
    return digits(v / scale, 3) + " " + name;
  };
  // The index of the number nearest to x.
  const nearest = (xs, x) => {
    let lo = 0, hi = xs.length - 1;
    while (hi - lo > 1) { const mid = (lo + hi) >> 1; if (xs[mid] < x) lo = mid; else hi = mid; }
    return Math.abs(xs[hi] - x) < Math.abs(xs[lo] - x) ? hi : lo;
  };
  const share = x => ends[1] > ends[0] ? (x - ends[0]) / (ends[1] - ends[0]) : 0.5;
  let at = -1;
  const put = i => {
    if (!steps.length) return;
    at = Math.min(Math.max(i, 0), steps.length - 1);
    const x = steps[at], rows = document.createElement("dl");
    for (const curve of curves) {
      if (!curve.x.length) continue;
      const term = document.createElement("dt"), value = document.createElement("dd"), key = document.createElement("i");
      key.className = "key";
      key.style.background = curve.colour;
      term.append(key, curve.name);
      const [first, end] = curve.span;
      // Beyond its ends a curve says nothing.
      value.textContent = x < first || x > end ? "–" : show(curve.y[nearest(curve.x, x)]);
      rows.append(term, value);
    }
    const head = document.createElement("b");
    head.textContent = "step " + group(x);
    read.replaceChildren(head, rows);
    read.hidden = cross.hidden = false;
    const left = share(x) * area.clientWidth;
    cross.style.left = left + "px";
    const room = area.clientWidth - read.offsetWidth;
    read.style.left = Math.max(0, Math.min(room, left > area.clientWidth / 2 ? left - read.offsetWidth - 12 : left + 12)) + "px";
  };
  const hide = () => { read.hidden = cross.hidden = true; };
  const point = e => {
    const box = area.getBoundingClientRect();
    put(nearest(steps, ends[0] + (e.clientX - box.left) / box.width * (ends[1] - ends[0])));
  };
  area.addEventListener("pointermove", point);
  area.addEventListener("pointerdown", point);
  area.addEventListener("pointerleave", hide);
  area.addEventListener("blur", hide);
  area.addEventListener("keydown", e => {
    const far = Math.max(1, Math.round(steps.length / 20));
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -far, PageDown: far, Home: -Infinity, End: Infinity }[e.key];
    if (e.key === "Escape") hide();
    if (by === undefined) return;
    e.preventDefault();
    put(at + by);
  });
}
