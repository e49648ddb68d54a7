"use strict";
// What all charts of the page share: colours, numbers, a plot that zooms and pans by mouse, finger and keyboard.

const data = JSON.parse(document.getElementById("data").textContent);
const plots = new Set(); // to be drawn anew when colours change

/** A DOM element; `attributes` are set as such, children may be text. Text is never read as HTML. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** A button that does something when pressed. */
function button(text, label, act) {
  const made = element("button", { type: "button", "aria-label": label, title: label }, text);
  made.addEventListener("click", act);
  return made;
}

/** A labelled choice between several: texts by their values. */
function choice(label, options, act) {
  const select = element(
    "select",
    {},
    ...Object.entries(options).map(([value, text]) => element("option", { value }, text)),
  );
  select.addEventListener("change", () => act(select.value));
  return element("label", { class: "field" }, `${label} `, select);
}

/** A labelled box to tick. */
function tickBox(label, ticked, act) {
  const box = element("input", { type: "checkbox" });
  box.checked = ticked;
  box.addEventListener("change", () => act(box.checked));
  return { box, label: element("label", { class: "tick" }, box, ` ${label}`) };
}

/** A colour by its name in the style sheet, as it is in the current theme. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** The same colour, paler. */
function pale(hex, alpha) {
  return (
    hex +
    Math.round(alpha * 255)
      .toString(16)
      .padStart(2, "0")
  );
}

/** Whether there is a value. */
function isKnown(value) {
  return value !== null && value !== undefined && Number.isFinite(value);
}

/** A number with thousands apart and a true minus sign. */
function formatted(value, digits = null) {
  if (!isKnown(value)) return "–";
  const options =
    digits === null
      ? { maximumSignificantDigits: 6 }
      : { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return value.toLocaleString("en-US", options).replace("-", "−");
}

/** Numbers on an axis: in thousands or millions where all of them are whole ones, or almost. */
function ticked(values) {
  const sizes = values.filter((value) => value).map(Math.abs);
  const fits = (by) => Math.max(...sizes) >= 10 * by && sizes.every((size) => (size * 10) % by === 0);
  const [divisor, unit] = fits(1e6) ? [1e6, "M"] : fits(1e3) ? [1e3, "k"] : [1, ""];
  return values.map((value) => {
    if (value === null) return "";
    return value === 0
      ? "0"
      : (value / divisor).toLocaleString("en-US", { maximumSignificantDigits: 7 }).replace("-", "−") + unit;
  });
}

/** Numbers that Python packed: base64 of 16 bits each between two ends, the largest of which stands for none. */
function unpacked(text, low, high) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return Float64Array.from(new Uint16Array(bytes.buffer), (q) =>
    q === 65535 ? NaN : low + ((high - low) * q) / 65534,
  );
}

/** The swatch of a line in a legend. */
function swatch(hex, dash, filled = false) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 28 10");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(svg.namespaceURI, "line");
  const look = { x1: 0, x2: 28, y1: 5, y2: 5, stroke: hex, "stroke-width": filled ? 10 : 2.5 };
  if (dash && dash.length) look["stroke-dasharray"] = dash.join(" ");
  for (const [name, value] of Object.entries(look)) line.setAttribute(name, value);
  svg.append(line);
  return svg;
}

/** A chart over `host`, which zooms along its horizontal axis.
 *
 *  options: label, limits [first, last], least (narrowest range shown), log (of the horizontal axis), whole (it counts
 *  tokens or steps), xLabel, yLabel, yLog, yValue (text of a value), and what its owner decides:
 *  series() and bands() as uPlot wants them, view(first, last, show) which calls show(data, [low, high]),
 *  over(u) which draws on the canvas, and read(at), told where the reader points, or null. */
class Plot {
  constructor(host, options) {
    this.host = host;
    this.options = options;
    this.range = [...options.limits];
    this.at = null;
    this.u = null;
    this.shown = null;
    this.asked = 0; // how often a range was asked for, and which of these is drawn
    this.drawn = 0;
    host.classList.add("plot");
    host.tabIndex = 0;
    host.setAttribute("role", "group");
    host.setAttribute("aria-roledescription", "chart");
    host.setAttribute(
      "aria-label",
      `${options.label}. Plus and minus zoom, arrows move, Shift and arrows read values, 0 shows all.`,
    );
    host.addEventListener("keydown", (event) => this.key(event));
    host.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(host);
    plots.add(this);
    this.build();
  }

  get height() {
    return Math.round(Math.min(Math.max(this.host.clientWidth * 0.42, 230), 430));
  }

  /** The horizontal axis as it is divided: on a log scale, in logarithms. */
  scaled(x) {
    return this.options.log ? Math.log(Math.max(x, 1e-9)) : x;
  }

  unscaled(x) {
    return this.options.log ? Math.exp(x) : x;
  }

  /** Make the chart anew, once there is what it shows: for other series, another theme, another scale. */
  build() {
    this.stale = true;
    this.show(...this.range);
  }

  construct() {
    const { options } = this;
    if (this.u) this.u.destroy();
    this.stale = false;
    const ink = colour("ink");
    const axis = {
      stroke: ink,
      grid: { stroke: colour("grid"), width: 1 },
      ticks: { stroke: colour("grid"), width: 1 },
      font: "12px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif",
      labelSize: 16,
      labelGap: 0,
    };
    const values = (u, splits) => ticked(splits);
    const yValues = (u, splits) => (options.yValue ? splits.map(options.yValue) : ticked(splits));
    this.u = new uPlot(
      {
        width: Math.max(this.host.clientWidth, 200),
        height: this.height,
        legend: { show: false },
        cursor: {
          drag: { x: true, y: false, setScale: false, dist: 6 },
          y: false,
          points: { show: false },
          bind: { dblclick: () => () => this.show(...options.limits) },
        },
        scales: {
          x: {
            time: false,
            distr: options.log ? 3 : 1,
            log: options.log || 10,
            auto: false,
            range: (u, low, high) => [low, high],
          },
          y: { distr: options.yLog ? 3 : 1, auto: false, range: (u, low, high) => [low, high] },
        },
        axes: [
          {
            ...axis,
            label: options.xLabel,
            values,
            size: 32,
            space: 60,
            ...(options.log
              ? { splits: (u, i, low, high) => this.splits(low, high, u.width / 70), filter: (u, splits) => splits }
              : { incrs: options.whole ? wholeSteps : undefined }),
          },
          { ...axis, label: options.yLabel, values: yValues, size: 58 },
        ],
        series: [{}, ...options.series()],
        bands: options.bands ? options.bands() : [],
        hooks: {
          draw: [(u) => options.over && options.over(u)],
          setSelect: [(u) => this.select(u)],
          setCursor: [(u) => this.point(u)],
        },
      },
      [[], ...options.series().map(() => [])],
      this.host,
    );
    this.touches(this.u.over);
  }

  /** Where a logarithmic axis has ticks: at places of its owner's, else at powers of two, or at 1, 2 and 5 times ten to
   *  some power; at even steps where less than a decade is shown. */
  splits(low, high, most) {
    const { log, ticks } = this.options;
    const within = (all) => all.filter((x) => x >= low && x <= high);
    const thinned = (all) => all.filter((_, i) => i % Math.ceil(all.length / most) === 0);
    if (ticks && ticks.length <= most) return within(ticks);
    const powers = (base) => {
      const first = Math.floor(Math.log(low) / Math.log(base));
      const last = Math.ceil(Math.log(high) / Math.log(base));
      return Array.from({ length: last - first + 1 }, (_, i) => base ** (first + i));
    };
    if (log === 2 && high / low > 4) return thinned(within(powers(2).map(Math.round)));
    if (high / low < 12) {
      const step = [1, 2, 5]
        .flatMap((x) => powers10.map((power) => x * power))
        .sort((a, b) => a - b)
        .find((x) => (high - low) / x < most);
      return Array.from(
        { length: Math.floor(high / step) - Math.ceil(low / step) + 1 },
        (_, i) => (Math.ceil(low / step) + i) * step,
      );
    }
    const fine = within(powers(10).flatMap((power) => [power, 2 * power, 5 * power]));
    return fine.length <= most ? fine : thinned(within(powers(10)));
  }

  /** Show a range of the horizontal axis, as far as there is one. */
  show(first, last) {
    const began = performance.now();
    const [start, end] = this.options.limits;
    const least = Math.min(this.options.least || 0, end - start);
    if (last - first < least) {
      const middle = (first + last) / 2;
      [first, last] = [middle - least / 2, middle + least / 2];
    }
    if (this.options.log && !(first > 0)) [first, last] = [start, Math.max(last, start + least)];
    if (last - first > end - start) [first, last] = [start, end];
    if (first < start) [first, last] = this.shifted(first, last, start - first, start);
    if (last > end) [first, last] = this.shifted(first, last, end - last, end);
    first = Math.max(first, start);
    last = Math.min(last, end);
    if (this.options.whole) [first, last] = [Math.floor(first), Math.ceil(last)];
    if (!(last > first)) return;
    this.range = [first, last];
    const number = ++this.asked;
    this.options.view(first, last, (columns, ends) => {
      if (this.stale) this.construct();
      this.shown = columns;
      this.moving = true; // the reader has not moved
      this.u.batch(() => {
        this.u.setData(columns, false);
        this.u.setScale("x", { min: this.range[0], max: this.range[1] });
        this.u.setScale("y", { min: ends[0], max: ends[1] });
      });
      this.moving = false;
      if (this.at !== null) this.moveCursor();
      this.drawn = number;
      const { dataset } = this.host;
      dataset.range = this.range.join(" ");
      requestAnimationFrame(() => (dataset.ms = (performance.now() - began).toFixed(1)));
    });
  }

  /** A range moved by so much; on a log scale, by a factor. */
  shifted(first, last, by, edge) {
    if (!this.options.log) return [first + by, last + by];
    const factor = edge / (by > 0 ? first : last);
    return [first * factor, last * factor];
  }

  /** Zoom by a factor about a place that is shown, else about the middle. */
  zoom(factor, about = null) {
    const [low, high] = this.range.map((x) => this.scaled(x));
    const shown = about !== null && about >= this.range[0] && about <= this.range[1];
    const middle = shown ? this.scaled(about) : (low + high) / 2;
    this.show(this.unscaled(middle - (middle - low) * factor), this.unscaled(middle + (high - middle) * factor));
  }

  /** Move by a share of what is shown. */
  pan(share) {
    const [low, high] = this.range.map((x) => this.scaled(x));
    const [start, end] = this.options.limits.map((x) => this.scaled(x));
    const by = Math.min(Math.max(share * (high - low), start - low), end - high);
    this.show(this.unscaled(low + by), this.unscaled(high + by));
  }

  reset() {
    this.show(...this.options.limits);
  }

  select(u) {
    const { left, width } = u.select;
    if (width > 5) {
      const ends = [left, left + width].map((x) => u.posToVal(x, "x"));
      u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      this.show(...ends);
    }
  }

  /** Say where the mouse points. */
  point(u) {
    if (u.cursor.left === undefined || u.cursor.left < 0 || this.moving) return;
    this.at = u.posToVal(u.cursor.left, "x");
    this.options.read(this.at);
  }

  /** Read the values at a place. */
  moveTo(at) {
    const [start, end] = this.options.limits;
    this.at = Math.min(Math.max(at, start), end);
    const [first, last] = this.range;
    if (this.at < first || this.at > last) {
      const [low, high, middle] = [first, last, this.at].map((x) => this.scaled(x));
      this.show(this.unscaled(middle - (high - low) / 2), this.unscaled(middle + (high - low) / 2));
    } else {
      this.moveCursor();
    }
    this.options.read(this.at, true);
  }

  moveCursor() {
    this.moving = true;
    this.u.setCursor({ left: this.u.valToPos(this.at, "x"), top: this.u.cursor.top > 0 ? this.u.cursor.top : 1 });
    this.moving = false;
  }

  /** The next place to read in a direction: the next point that is shown. */
  next(direction) {
    const xs = this.shown ? this.shown[0] : [];
    if (!xs.length) return this.at;
    if (this.at === null) return direction > 0 ? xs[0] : xs[xs.length - 1];
    const [start, end] = [0, xs.length - 1];
    let i = direction > 0 ? xs.findIndex((x) => x > this.at + 1e-9) : xs.findLastIndex((x) => x < this.at - 1e-9);
    if (i < 0) i = direction > 0 ? end : start;
    return xs[i];
  }

  key(event) {
    if (event.target !== this.host || event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      "+": () => this.zoom(0.5, this.at),
      "=": () => this.zoom(0.5, this.at),
      "-": () => this.zoom(2, this.at),
      _: () => this.zoom(2, this.at),
      0: () => this.reset(),
      Home: () => this.pan(-Infinity),
      End: () => this.pan(Infinity),
      ArrowLeft: () => (event.shiftKey ? this.moveTo(this.next(-1)) : this.pan(-0.2)),
      ArrowRight: () => (event.shiftKey ? this.moveTo(this.next(1)) : this.pan(0.2)),
      ...this.options.keys,
    };
    if (event.key in keys) {
      event.preventDefault();
      keys[event.key]();
    }
  }

  /** The wheel zooms where the reader has clicked into the chart, or holds Ctrl; else the page scrolls. */
  wheel(event) {
    const chosen = event.ctrlKey || document.activeElement === this.host;
    if (!chosen || (event.deltaY === 0 && event.deltaX === 0)) return;
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      this.pan(event.deltaX / 600);
    } else {
      const left = event.clientX - this.u.over.getBoundingClientRect().left;
      this.zoom(
        Math.exp(Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) * 0.004),
        this.u.posToVal(left, "x"),
      );
    }
  }

  /** One finger moves and reads, two zoom. */
  touches(over) {
    const fingers = new Map();
    let start = null;
    const begin = () => {
      const xs = [...fingers.values()];
      start = { range: this.range.map((x) => this.scaled(x)), xs, width: over.clientWidth };
    };
    const drop = (event) => {
      fingers.delete(event.pointerId);
      begin();
    };
    over.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse") return;
      fingers.set(event.pointerId, event.offsetX);
      begin();
    });
    over.addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      fingers.set(event.pointerId, event.offsetX);
      const [low, high] = start.range;
      const [a, b] = start.xs;
      const [c, d] = [...fingers.values()];
      const share = (x) => x / start.width;
      if (b === undefined) {
        const by = (share(a) - share(c)) * (high - low);
        this.show(this.unscaled(low + by), this.unscaled(high + by));
      } else if (Math.abs(c - d) > 10) {
        const factor = Math.abs(a - b) / Math.abs(c - d);
        const held = low + share((a + b) / 2) * (high - low); // stays between the fingers
        const left = held - share((c + d) / 2) * (high - low) * factor;
        this.show(this.unscaled(left), this.unscaled(left + (high - low) * factor));
      }
    });
    over.addEventListener("pointerup", drop);
    over.addEventListener("pointercancel", drop);
  }

  resize() {
    if (this.u && this.host.clientWidth && this.host.clientWidth !== this.u.width) {
      this.u.setSize({ width: this.host.clientWidth, height: this.height });
    }
  }

  /** Buttons for what the keys do. */
  buttons() {
    return element(
      "span",
      { class: "buttons", role: "group", "aria-label": "Zoom" },
      button("+", "Zoom in", () => this.zoom(0.5, this.at)),
      button("−", "Zoom out", () => this.zoom(2, this.at)),
      button("←", "Move left", () => this.pan(-0.2)),
      button("→", "Move right", () => this.pan(0.2)),
      button("all", "Show all", () => this.reset()),
    );
  }
}

const powers10 = Array.from({ length: 20 }, (_, i) => 10 ** (i - 6));

/** Steps of an axis that counts. */
const wholeSteps = Array.from({ length: 24 }, (_, i) => [1, 2, 5][i % 3] * 10 ** Math.floor(i / 3));

/** The ends of a vertical axis with some room around what it shows. */
function withRoom(low, high, log = false) {
  if (!(low <= high)) return log ? [0.1, 1] : [0, 1];
  if (log) return [low / 1.1, high * 1.1];
  const room = low === high ? Math.abs(low) * 0.1 || 0.1 : 0.06 * (high - low);
  return [low - room, high + room];
}

/** Draw anew in other colours. */
function redraw() {
  for (const plot of plots) {
    if (plot.options.recolour) plot.options.recolour();
    plot.build();
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
const theme = document.getElementById("theme");
theme.addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  redraw();
});
