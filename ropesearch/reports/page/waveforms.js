"use strict";
// The section of a base set or scheme: its waveforms, which a worker computes from the bases.

const BUCKETS = 700; // of a range that is too long to show every value
const EVERY = 1000; // distances of which every value is shown
const FEW = 3; // heads that all have bands and marks of their own
const FEWEST = 50; // distances shown at least

class Waveforms {
  constructor(section, about) {
    this.about = about;
    this.thetas = about.theta.length
      ? about.theta.map((row) => Float64Array.from(row))
      : about.rows.map((row) => frequenciesOf(row.base, about.headDim));
    this.n = about.rows.length;
    this.pools = this.n > 1 && !about.map; // whether a best head and a mean say something
    this.on = new Set(about.lines);
    this.focus = null; // the head that stands out
    this.parts = { best: this.pools, mean: this.pools, heads: true, marks: true };
    this.unit = "cosine";
    this.log = false;
    this.pool = "all";
    this.ready = false;
    this.shape = 0; // changes with the lines that are drawn: an answer for others comes too late
    this.busy = false; // whether the worker is to answer
    this.waiting = null; // what it is to be asked next
    this.marks = new Map(); // values at peaks and valleys
    this.section = section;
    this.lay(section);
    this.first = this.packedView(about.first);
    this.plot = new Plot(this.host, this.options());
    this.bar.prepend(this.plot.buttons());
    const { floor } = about;
    this.bar.append(
      button("floor", "Show the floor, where the best head is lowest", () => this.look(floor.distance)),
    );
    section.dataset.state = "computing";
    new IntersectionObserver(
      ([entry], observer) => {
        if (!entry.isIntersecting) return;
        observer.disconnect();
        this.start();
      },
      { rootMargin: "400px" },
    ).observe(section);
  }

  /** Start the worker; where the browser allows none, the page computes by itself. */
  start() {
    const job = {
      thetas: this.thetas,
      last: this.about.last,
      map: this.about.map,
      upper: this.about.rows.map((row) => row.upper),
    };
    try {
      const code = new Blob([document.getElementById("waves").textContent], { type: "text/javascript" });
      this.worker = new Worker(URL.createObjectURL(code));
      this.worker.onmessage = ({ data: answer }) => this.hear(answer);
      this.worker.onerror = () => this.startHere(job);
      this.worker.postMessage({ start: job });
    } catch {
      this.startHere(job);
    }
  }

  startHere(job) {
    this.worker?.terminate();
    this.busy = false; // what the worker was asked stays unanswered
    this.ready = false;
    const waves = new Waves(job);
    this.worker = { postMessage: ({ id, request }) => setTimeout(() => this.hear({ id, view: waves.view(request) })) };
    const step = () => {
      const more = waves.computeNext();
      this.hear({ computed: waves.values.length });
      if (more) setTimeout(step);
    };
    step();
  }

  hear(answer) {
    if (answer.computed) {
      this.progress.value = answer.computed;
      if (answer.computed === this.n) {
        this.ready = true;
        this.progress.hidden = true;
        this.section.dataset.state = "ready";
        this.plot.show(...this.plot.range);
      }
    } else {
      this.busy = false;
      if (answer.id === this.shape && answer.view) this.draw(answer.view, this.show);
      this.send();
    }
  }

  // ---- controls

  lay(section) {
    const { about } = this;
    this.host = element("div", {});
    this.status = element("p", { class: "status" });
    this.live = element("p", { class: "unseen", "aria-live": "polite" });
    this.progress = element("progress", { max: this.n, value: 0, "aria-label": "Computing waveforms" });
    this.bar = element("div", { class: "bar" });
    this.ticks = {};
    const parts = { best: "best head", mean: "mean", heads: "heads", marks: "peaks and valleys" };
    for (const [name, label] of Object.entries(parts)) {
      if (!this.pools && name !== "marks") continue;
      const tick = tickBox(label, this.parts[name], (ticked) => this.toggle(name, ticked));
      if (name === "best" || name === "mean")
        tick.box.after(" ", swatch(`var(--${name})`, name === "mean" ? [6, 3] : null));
      this.ticks[name] = tick;
    }
    const units = choice("unit", { cosine: "mean cosine", logits: "logits" }, (unit) => {
      this.unit = unit;
      this.rebuild();
    });
    const axis = choice("distance", { linear: "linear", log: "log" }, (scale) => {
      this.log = scale === "log";
      this.rebuild();
    });
    this.bar.append(...Object.values(this.ticks).map((tick) => tick.label));
    const more = element("div", { class: "bar" }, units, axis);
    if (this.pools) {
      more.append(
        choice("best and mean of", { all: "all heads", shown: "heads shown" }, (pool) => {
          this.pool = pool;
          this.rebuild();
        }),
      );
    }
    this.number = element("input", { type: "number", min: 0, max: about.last, step: 1, inputmode: "numeric" });
    this.number.addEventListener("change", () => {
      if (this.number.value !== "") this.plot.moveTo(Number(this.number.value));
    });
    this.values = element("dl", { class: "values" });
    const reading = element(
      "div",
      { class: "reading" },
      element("label", { class: "field" }, "at distance ", this.number),
      this.values,
    );
    this.chips = about.rows.map((row, i) => this.chip(row, i));
    const heads = element(
      "div",
      { class: "chips", role: "group", "aria-label": "Heads" },
      ...this.chips.map((chip) => chip.button),
    );
    const all = element(
      "span",
      { class: "buttons" },
      button("all", "Show all heads", () => this.choose(about.rows.keys())),
      button("none", "Show no head", () => this.choose([])),
    );
    if (about.lines.length < this.n) {
      all.append(button("some", "Show some heads, evenly spread over the bases", () => this.choose(about.lines)));
    }
    section.append(this.bar, this.host, this.progress, this.status, reading, more, this.live);
    if (this.n > 1) {
      section.append(
        element(
          "div",
          { class: "bar" },
          element("strong", {}, about.map ? "Distances seen" : "Heads"),
          all,
          element(
            "span",
            { class: "hint" },
            "press one to show or hide it; point at one to see it stand out, with its peaks and valleys",
          ),
        ),
        heads,
      );
    }
  }

  /** The button of a head: shows or hides it, and has its value at the distance that is read. */
  chip(row, i) {
    const value = element("data", { class: "value" });
    const made = element("button", { type: "button", class: "chip", "aria-pressed": String(this.on.has(i)) });
    made.append(swatch(row.colour, null, true), element("span", {}, row.label), value);
    made.addEventListener("click", () => {
      if (this.on.has(i)) this.on.delete(i);
      else this.on.add(i);
      this.choose(this.on);
    });
    const standOut = (focus) => () => this.stand(focus);
    for (const [name, focus] of [
      ["mouseenter", i],
      ["focus", i],
      ["mouseleave", null],
      ["blur", null],
    ]) {
      made.addEventListener(name, standOut(focus));
    }
    return { button: made, value };
  }

  choose(rows) {
    this.on = new Set(rows);
    this.chips.forEach((chip, i) => chip.button.setAttribute("aria-pressed", String(this.on.has(i))));
    this.rebuild();
  }

  stand(focus) {
    if (this.focus === focus) return;
    this.focus = focus;
    this.rebuild();
  }

  toggle(name, on = !this.parts[name]) {
    if (!(name in this.ticks)) return;
    this.parts[name] = on;
    this.ticks[name].box.checked = on;
    this.rebuild();
  }

  /** Let the next or the last head stand out, of those that are shown. */
  walk(direction) {
    const rows = this.shownHeads;
    if (!rows.length) return;
    const place = rows.indexOf(this.focus);
    const next = place < 0 ? (direction > 0 ? 0 : rows.length - 1) : (place + direction + rows.length) % rows.length;
    this.stand(rows[next]);
    this.say(`head ${this.about.rows[rows[next]].label} stands out`);
  }

  say(text) {
    this.live.textContent = text;
  }

  // ---- what is drawn

  get shownHeads() {
    return [...this.on].sort((a, b) => a - b);
  }

  get lines() {
    const rows = this.parts.heads ? this.shownHeads : [];
    return this.focus === null || rows.includes(this.focus) ? rows : [...rows, this.focus];
  }

  /** Heads with a band and marks of their own: the one that stands out, or all if they are few. */
  get banded() {
    if (this.focus !== null) return [this.focus];
    return this.lines.length <= FEW ? this.lines : [];
  }

  get pooled() {
    const shown = this.shownHeads;
    return this.pool === "shown" && shown.length ? shown : [...this.about.rows.keys()];
  }

  get scale() {
    return this.unit === "logits" ? this.about.logits : 1;
  }

  options() {
    return {
      label: `Waveforms of ${this.about.name} over distance`,
      limits: [this.log ? 1 : 0, this.about.last],
      least: FEWEST,
      log: this.log ? 10 : 0,
      whole: true,
      xLabel: "distance (tokens)",
      yLabel: this.unit === "logits" ? "waveform (logits)" : "mean cosine",
      series: () => this.series(),
      bands: () => this.bands(),
      view: (first, last, show) => this.ask(first, last, show),
      over: (u) => this.mark(u),
      read: (at, aloud) => this.read(at, aloud),
      keys: {
        b: () => this.toggle("best"),
        m: () => this.toggle("mean"),
        h: () => this.toggle("heads"),
        e: () => this.toggle("marks"),
        "]": () => this.walk(1),
        "[": () => this.walk(-1),
        Escape: () => this.stand(null),
      },
    };
  }

  /** Columns: lowest and highest of all; ends of each band; lines; mean, low and high; best, low and high. */
  series() {
    const line = (stroke, width, dash) => ({ stroke, width, dash, points: { show: false } });
    const ends = () => [line("transparent", 0), line("transparent", 0)];
    const faded = this.focus !== null;
    const made = ends();
    for (const _ of this.banded) made.push(...ends());
    for (const row of this.lines) {
      const { colour: hex } = this.about.rows[row];
      made.push(
        row === this.focus ? line(hex, 2) : line(pale(hex, faded ? 0.25 : 0.85), this.lines.length > FEW ? 0.8 : 1.4),
      );
    }
    const [mean, best] = [colour("mean"), colour("best")];
    if (this.parts.mean) made.push(...ends(), line(mean, 2, [6, 3]));
    if (this.parts.best) made.push(line("transparent", 0), line(best, 2));
    return made;
  }

  bands() {
    const made = [];
    let at = 1;
    const band = (high, low, fill) => made.push({ series: [high, low], fill });
    if (this.pools) band(at + 1, at, pale(colour("faint"), 0.16));
    at += 2;
    for (const row of this.banded) {
      band(at + 1, at, pale(this.about.rows[row].colour, 0.3));
      at += 2;
    }
    at += this.lines.length;
    if (this.parts.mean) {
      band(at + 1, at, pale(colour("mean"), 0.22));
      at += 3;
    }
    if (this.parts.best) band(at, at + 1, pale(colour("best"), 0.22));
    return made;
  }

  rebuild() {
    this.shape += 1;
    this.plot.options = this.options();
    this.plot.build();
    if (this.plot.at !== null) this.plot.options.read(this.plot.at);
  }

  /** Distances where buckets begin, and one past the last. */
  edges(first, last) {
    const n = last - first + 1;
    if (n <= EVERY) return Int32Array.from({ length: n + 1 }, (_, i) => first + i);
    if (!this.log) return Int32Array.from({ length: BUCKETS + 1 }, (_, i) => first + Math.floor((i * n) / BUCKETS));
    const ratio = (last + 1) / first;
    const all = Array.from({ length: BUCKETS + 1 }, (_, i) => Math.round(first * ratio ** (i / BUCKETS)));
    return Int32Array.from(new Set(all));
  }

  ask(first, last, show) {
    this.range = [first, last];
    if (this.worker && (this.ready || last - first < AT_ONCE)) {
      const request = { edges: this.edges(first, last), lines: this.lines, banded: this.banded, pool: this.pooled };
      this.waiting = { id: this.shape, request, show };
      this.send();
    } else {
      this.waiting = null;
      this.draw(this.fromFirst(), show);
    }
  }

  /** Ask the worker for what is to be drawn now, once it has answered what was to be drawn before. */
  send() {
    if (this.busy || !this.waiting) return;
    const { id, request, show } = this.waiting;
    this.busy = true;
    this.waiting = null;
    this.show = show;
    this.worker.postMessage({ id, request });
  }

  /** The envelope in the file, for the first paint. */
  packedView(packed) {
    const n = packed.edges.length - 1;
    const rows = (text) => {
      const values = unpacked(text, -1, 1);
      return Array.from({ length: values.length / n }, (_, i) => values.subarray(i * n, (i + 1) * n));
    };
    const [lowest, bestLow, bestHigh, meanLow, meanHigh, mean] = rows(packed.pool);
    return {
      edges: packed.edges,
      heads: rows(packed.heads),
      lowest,
      best: { low: bestLow, high: bestHigh },
      mean: { low: meanLow, high: meanHigh, mean },
    };
  }

  fromFirst() {
    const { first } = this;
    const blank = new Float64Array(first.edges.length - 1).fill(NaN);
    const line = (row) => first.heads[this.about.lines.indexOf(row)] || blank;
    return { ...first, lines: this.lines.map(line), bands: this.banded.map(() => ({ low: blank, high: blank })) };
  }

  draw(view, show) {
    const { edges } = view;
    const n = edges.length - 1;
    const { scale } = this;
    const xs = Float64Array.from({ length: n }, (_, k) => {
      const [a, b] = [edges[k], edges[k + 1] - 1];
      return this.log ? Math.sqrt(Math.max(a, 1) * Math.max(b, 1)) : (a + b) / 2;
    });
    const scaled = (values) => (scale === 1 ? values : Float64Array.from(values, (value) => value * scale));
    const columns = [xs, scaled(view.lowest), scaled(view.best.high)];
    for (const { low, high } of view.bands) columns.push(scaled(low), scaled(high));
    for (const values of view.lines) columns.push(scaled(values));
    if (this.parts.mean) columns.push(scaled(view.mean.low), scaled(view.mean.high), scaled(view.mean.mean));
    // The line of the best head runs along its lowest values, which the floor is about.
    if (this.parts.best) columns.push(scaled(view.best.high), scaled(view.best.low));
    const [first, last] = this.range;
    // The rise to 1 at the first distances, which would take up half of the height, is a line along the left edge.
    const from = n < last - first + 1 && edges[0] < 100 && !this.log ? 1 : 0;
    let [low, high] = [Infinity, -Infinity];
    for (let k = from; k < n; k++) {
      if (edges[k + 1] <= first || edges[k] > last) continue;
      if (columns[1][k] < low) low = columns[1][k];
      if (columns[2][k] > high) high = columns[2][k];
    }
    this.width = Math.max(...Array.from({ length: n }, (_, k) => edges[k + 1] - edges[k]));
    show(columns, withRoom(low, high));
    this.host.dataset.bucket = this.width;
    this.describe(edges[0], edges[n] - 1);
  }

  describe(first, last) {
    const { about } = this;
    const range = `Distances ${formatted(first)} to ${formatted(last)}`;
    const many =
      this.lines.length < this.n && this.parts.heads ? `${this.lines.length} of ${this.n} heads have lines. ` : "";
    const buckets = this.log
      ? `Buckets of up to ${formatted(this.width)} distances`
      : `Buckets of ${formatted(this.width)} distances`;
    const best = this.pools ? ", that of the best head the lowest value," : "";
    const how =
      this.width > 1
        ? `${buckets}: a line is the mean in each${best} and a band spans lowest to highest`
        : "Every value is shown";
    const grey = this.pools ? "; grey spans all heads" : "";
    this.status.textContent = `${range}. ${many}${how}${grey}.${this.parts.marks ? ` ${about.note}` : ""}`;
  }

  /** The floor, and the peaks and valleys of the heads that stand out. */
  mark(u) {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const ratio = devicePixelRatio;
    const place = (distance, value) => [u.valToPos(distance, "x", true), u.valToPos(value * this.scale, "y", true)];
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    const [first, last] = this.range;
    const zero = u.valToPos(0, "y", true);
    ctx.strokeStyle = pale(colour("ink"), 0.5);
    ctx.lineWidth = ratio;
    ctx.beginPath();
    ctx.moveTo(left, zero);
    ctx.lineTo(left + width, zero);
    ctx.stroke();
    if (this.parts.marks) {
      for (const row of this.banded) {
        const { colour: hex } = this.about.rows[row];
        for (const [kind, points] of Object.entries(this.about.extrema[row])) {
          for (const distance of points) {
            if (distance < first || distance > last) continue;
            const [x, y] = place(distance, this.marked(row, distance));
            this.triangle(ctx, x, y, kind === "peaks", 5 * ratio, hex);
          }
        }
      }
    }
    const { floor } = this.about;
    if (
      (this.parts.best || !this.pools) &&
      this.pool === "all" &&
      floor.distance >= first &&
      floor.distance <= last
    ) {
      const [x, y] = place(floor.distance, floor.value);
      ctx.lineWidth = 2 * ratio;
      ctx.fillStyle = colour("paper");
      ctx.strokeStyle = colour("ink");
      ctx.beginPath();
      ctx.arc(x, y, 4.5 * ratio, 0, 2 * Math.PI);
      ctx.fill();
      ctx.stroke();
    }
    ctx.restore();
  }

  marked(row, distance) {
    const key = `${row} ${distance}`;
    if (!this.marks.has(key)) this.marks.set(key, this.valueOf(row, distance));
    return this.marks.get(key);
  }

  /** Peaks point up and are filled; valleys point down and are open. */
  triangle(ctx, x, y, up, size, hex) {
    const sign = up ? -1 : 1;
    ctx.beginPath();
    ctx.moveTo(x, y + sign * size);
    ctx.lineTo(x - size, y - sign * 0.7 * size);
    ctx.lineTo(x + size, y - sign * 0.7 * size);
    ctx.closePath();
    ctx.lineWidth = 1.3 * devicePixelRatio;
    ctx.fillStyle = up ? hex : colour("paper");
    ctx.strokeStyle = up ? colour("paper") : hex;
    ctx.fill();
    ctx.stroke();
  }

  // ---- values at one distance

  valueOf(row, distance) {
    return valueAt(this.thetas[row], seenDistance(distance, this.about.map, this.about.rows[row].upper));
  }

  read(at, aloud = false) {
    const distance = Math.min(Math.max(Math.round(at), 0), this.about.last);
    this.number.value = distance;
    const { scale } = this;
    const values = this.about.rows.map((_, row) => this.valueOf(row, distance) * scale);
    this.chips.forEach((chip, row) => {
      chip.value.value = values[row];
      chip.value.textContent = formatted(values[row], 3);
    });
    const pool = this.pooled;
    const best = pool.reduce((a, b) => (values[b] > values[a] ? b : a));
    const mean = pool.reduce((sum, row) => sum + values[row], 0) / pool.length;
    const lines = this.pools
      ? [
          ["best head", values[best], `head ${this.about.rows[best].label}`],
          ["mean", mean, `of ${pool.length} heads`],
        ]
      : values.map((value, row) => ["value", value, this.about.rows[row].label]);
    if (this.pools && this.focus !== null)
      lines.push(["standing out", values[this.focus], `head ${this.about.rows[this.focus].label}`]);
    this.values.replaceChildren(
      ...lines.map(([name, value, of]) =>
        element(
          "div",
          {},
          element("dt", {}, name),
          element("dd", {}, element("data", { value, "data-name": name }, formatted(value, 6)), ` ${of}`),
        ),
      ),
    );
    if (aloud)
      this.say(
        `distance ${formatted(distance)}: ` +
          lines.map(([name, value, of]) => `${name} ${formatted(value, 4)}, ${of}`).join("; "),
      );
  }

  /** Show the surroundings of a distance, every value of them. */
  look(distance, around = 150) {
    this.plot.show(distance - around, distance + around);
    this.plot.moveTo(distance);
  }
}
