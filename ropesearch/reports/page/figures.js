"use strict";
// Charts of lines: sweeps, decays, evaluations, training runs. Then the sections of the page are made.

/** A chart of lines that are known as a whole, with a legend that shows the values and hides lines.
 *
 *  about: label, x and y {label, log, percent, digits, zero}, lines [{name, x, y, low, high, style, plain}], levels
 *  [{name, y, style}] and marks [{x, text}]. */
class Lines {
  constructor(parent, about) {
    this.host = element("div", {});
    this.legend = element("div", { class: "chips", role: "group", "aria-label": "Lines" });
    this.live = element("p", { class: "unseen", "aria-live": "polite" });
    parent.append(this.host, this.legend, this.live);
    this.hidden = new Set();
    this.set(about);
  }

  /** Show other lines. */
  set(about) {
    this.about = about;
    this.lines = [...about.lines, ...(about.levels || []).map((level) => ({ ...level, level: true }))];
    const all = [...new Set(about.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    this.xs = all.length ? all : [0, 1];
    this.columns = this.lines.map((line) => this.column(line));
    const positive = this.xs.filter((x) => !about.x.log || x > 0);
    let [first, last] = [positive[0], positive[positive.length - 1]];
    if (!(first < last)) [first, last] = about.x.log ? [first / 2, first * 2] : [first - 1, first + 1];
    const room = about.x.log ? Math.pow(last / first, 0.02) : 0.02 * (last - first);
    this.limits = about.x.log ? [first / room, last * room] : [first - room, last + room];
    this.dress();
    const options = this.options();
    if (!this.plot) {
      this.plot = new Plot(this.host, options);
      this.host.before(element("div", { class: "bar" }, this.plot.buttons()));
    } else {
      this.plot.options = options;
      this.plot.range = [...this.limits];
      this.plot.at = null;
      this.host.setAttribute("aria-label", about.label);
      this.plot.build();
    }
  }

  /** Values of a line at all places, with gaps where it has none. */
  column(line) {
    if (line.level) return { y: this.xs.map(() => line.y) };
    const place = new Map(line.x.map((x, i) => [x, i]));
    // undefined is a gap that a line bridges, null one that parts it
    const of = (values) => values && this.xs.map((x) => (place.has(x) ? values[place.get(x)] : undefined));
    return { y: of(line.y), low: of(line.low), high: of(line.high) };
  }

  /** The look of a line: by its place among several, by the number of a style, or by the name of a colour. */
  style(line, i) {
    if (typeof line.style === "string") return { hex: colour(line.style), dash: line.plain ? [] : [6, 3] };
    const style = data.styles[(line.style === undefined ? i : line.style) % data.styles.length];
    return { hex: colour(style.colour), dash: line.plain ? [] : style.dash };
  }

  /** Whether a line is shown. */
  isShown(line) {
    return !this.hidden.has(line.name);
  }

  /** Make the legend, in the colours of now. */
  dress() {
    this.values = [];
    const items = this.lines.map((line, i) => {
      const { hex, dash } = this.style(line, i);
      const value = element("data", { class: "value" });
      this.values.push(value);
      const made = element("button", {
        type: "button",
        class: "chip",
        "aria-pressed": String(this.isShown(line)),
      });
      made.append(swatch(hex, dash), element("span", {}, line.name || this.about.y.label), value);
      made.addEventListener("click", () => {
        if (!this.hidden.delete(line.name)) this.hidden.add(line.name);
        this.dress();
        this.plot.build();
      });
      return made;
    });
    this.place = element("span", { class: "place" });
    this.legend.replaceChildren(...items, this.place);
  }

  text(value) {
    const { y } = this.about;
    if (y.percent && isKnown(value)) return `${formatted(100 * value, 1)} %`;
    return formatted(value, y.digits);
  }

  options() {
    const { about } = this;
    return {
      label: about.label,
      limits: this.limits,
      least: 0,
      log: about.x.log,
      whole: false,
      ticks: about.ticks,
      xLabel: about.x.label,
      yLabel: about.y.label,
      yLog: about.y.log,
      yValue: about.y.percent ? (value) => `${Math.round(100 * value)} %` : null,
      recolour: () => this.dress(),
      series: () =>
        this.lines.flatMap((line, i) => {
          const { hex, dash } = this.style(line, i);
          const show = this.isShown(line);
          const few = line.x && line.x.length < 60;
          const points = few && !line.bare ? { show: true, size: 5, stroke: hex, fill: hex } : { show: false };
          const main = { show, stroke: hex, width: line.width || 1.6, dash, points };
          const end = () => ({ show, stroke: "transparent", width: 0, points: { show: false } });
          return line.low ? [end(), end(), main] : [main];
        }),
      bands: () => {
        let at = 1;
        const made = [];
        this.lines.forEach((line, i) => {
          if (line.low) {
            made.push({ series: [at + 1, at], fill: pale(this.style(line, i).hex, 0.17) });
            at += 2;
          }
          at += 1;
        });
        return made;
      },
      view: (first, last, show) => this.show(first, last, show),
      over: (u) => this.mark(u),
      read: (at, aloud) => this.read(at, aloud),
    };
  }

  /** Hand over the columns that are drawn, and the ends of the vertical axis for what is in sight. */
  show(first, last, show) {
    const columns = [this.xs];
    const { y } = this.about;
    let [low, high] = [Infinity, -Infinity];
    this.lines.forEach((line, i) => {
      const column = this.columns[i];
      if (line.low) columns.push(column.low, column.high);
      columns.push(column.y);
      if (!this.isShown(line)) return;
      for (const values of [column.y, column.low, column.high]) {
        (values || []).forEach((value, k) => {
          const inSight = this.xs[k] >= first && this.xs[k] <= last;
          if (!isKnown(value) || !inSight || (y.log && value <= 0)) return;
          low = Math.min(low, value);
          high = Math.max(high, value);
        });
      }
    });
    if (y.zero) low = Math.min(low, 0);
    show(columns, y.percent ? [Math.min(-0.03, low), Math.max(1.03, high)] : withRoom(low, high, Boolean(y.log)));
  }

  /** Upright lines with words, where stages of training begin. */
  mark(u) {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    ctx.save();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.fillStyle = ctx.strokeStyle = colour("ink");
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const { x, text } of this.about.marks || []) {
      const at = u.valToPos(x, "x", true);
      if (at < left || at > left + width) continue;
      ctx.beginPath();
      ctx.moveTo(at, top);
      ctx.lineTo(at, top + height);
      ctx.stroke();
      ctx.fillText(text, at + 4 * devicePixelRatio, top + 12 * devicePixelRatio);
    }
    ctx.restore();
  }

  /** Values at the point next to where the reader points. */
  read(at, aloud) {
    const away = (x) => Math.abs(this.plot.scaled(x) - this.plot.scaled(at));
    const nearest = this.xs.reduce((best, x, k) => (away(x) < away(this.xs[best]) ? k : best), 0);
    const said = [];
    this.columns.forEach((column, i) => {
      const [value, low, high] = [column.y, column.low, column.high].map((values) => values && values[nearest]);
      const ends = isKnown(low) ? ` (${this.text(low)} to ${this.text(high)})` : "";
      this.values[i].value = value;
      this.values[i].textContent = this.text(value) + ends;
      if (this.isShown(this.lines[i]))
        said.push(`${this.lines[i].name || this.about.y.label} ${this.values[i].textContent}`);
    });
    const where = `${this.about.x.label} ${formatted(Math.round(this.xs[nearest] * 100) / 100)}`;
    this.place.textContent = `at ${where}`;
    if (aloud) this.live.textContent = `${where}: ${said.join("; ")}`;
  }
}

/** A figure of a sweep against one of the options that it varied. */
function makeSweep(section, about) {
  const place = element("div", {});
  const chosen = { figure: about.figures[0].key, against: about.against[0].key };
  const draw = () => {
    const figure = about.figures.find(({ key }) => key === chosen.figure);
    const against = about.against.find(({ key }) => key === chosen.against);
    const lines = [];
    const levels = [];
    against.lines.forEach(({ name, rows }, style) => {
      const known = rows.filter((row) => figure.values[row] !== null);
      const along = known
        .filter((row) => against.values[row] !== null)
        .sort((a, b) => against.values[a] - against.values[b]);
      if (along.length)
        lines.push({
          name,
          style,
          x: along.map((row) => against.values[row]),
          y: along.map((row) => figure.values[row]),
        });
      for (const row of known) {
        if (against.values[row] === null) levels.push({ name, style, y: figure.values[row] });
      }
    });
    return {
      label: `${figure.label} against ${against.label}`,
      x: { label: against.label, log: 0 },
      y: { label: figure.label, digits: 5 },
      lines,
      levels,
    };
  };
  const bar = element("div", { class: "bar" });
  section.append(bar, place);
  const chart = new Lines(place, draw());
  const choose = (name) => (key) => {
    chosen[name] = key;
    chart.set(draw());
  };
  const named = (list) => Object.fromEntries(list.map(({ key, label }) => [key, label]));
  bar.append(
    choice("figure", named(about.figures), choose("figure")),
    choice("against", named(about.against), choose("against")),
  );
}

/** A decay: a map of all heads, and the curves of one. */
class DecayFigure {
  constructor(section, about) {
    this.about = about;
    this.at = { row: 0, head: 0 };
    this.cells = [];
    this.grid = element("div", { class: "heat", role: "grid", "aria-label": about.label });
    const numbers = Array.from({ length: about.heads }, (_, head) =>
      element("span", { role: "columnheader", class: this.edge(head) }, head % 4 ? "" : String(head)),
    );
    this.grid.append(element("div", { role: "row" }, element("span", { role: "columnheader" }, "layer"), ...numbers));
    about.layers.forEach((layer, row) => {
      const cells = Array.from({ length: about.heads }, (_, head) => this.cell(row, head));
      this.cells.push(cells);
      this.grid.append(
        element(
          "div",
          { role: "row" },
          element("span", { role: "rowheader" }, row % about.step ? "" : String(layer)),
          ...cells,
        ),
      );
    });
    this.grid.addEventListener("keydown", (event) => this.key(event));
    this.layer = choice("layer", about.layers.map(String), (row) => this.show(Number(row), this.at.head));
    this.head = choice(
      "head",
      Array.from({ length: about.heads }, (_, head) => String(head)),
      (head) => this.show(this.at.row, Number(head)),
    );
    this.title = element("h3", {});
    this.figures = element("dl", { class: "values" });
    this.place = element("div", {});
    section.append(
      element("p", { class: "hint" }, about.hint),
      element("div", { class: "wide" }, this.grid),
      this.scale(),
      element("div", { class: "bar" }, this.layer, this.head),
      this.title,
      this.figures,
      this.place,
    );
    this.show(0, 0);
  }

  /** Heads of one KV head stand together. */
  edge(head) {
    return head && this.about.group > 1 && head % this.about.group === 0 ? "edge" : "";
  }

  cell(row, head) {
    const { layers, slopes } = this.about;
    const text = `layer ${layers[row]}, head ${head}: slope ${formatted(slopes[row][head], 2)}`;
    const made = element("button", {
      type: "button",
      role: "gridcell",
      class: this.edge(head),
      tabindex: -1,
      "aria-label": text,
      title: text,
    });
    made.style.background = this.about.colours[row][head];
    made.addEventListener("click", () => this.show(row, head));
    return made;
  }

  /** What the colours of the map mean. */
  scale() {
    const { scale } = this.about;
    const steps = scale.colours.map((hex) => {
      const step = element("span", {});
      step.style.background = hex;
      return step;
    });
    return element(
      "p",
      { class: "scale" },
      `slope, ${scale.unit}: ${formatted(scale.low, 2)} `,
      element("span", { class: "steps", "aria-hidden": "true" }, ...steps),
      ` ${formatted(scale.high, 2)}`,
    );
  }

  key(event) {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [down, right] = moves[event.key];
    const row = Math.min(Math.max(this.at.row + down, 0), this.about.layers.length - 1);
    const head = Math.min(Math.max(this.at.head + right, 0), this.about.heads - 1);
    this.show(row, head);
    this.cells[row][head].focus();
  }

  show(row, head) {
    const before = this.cells[this.at.row][this.at.head];
    before.tabIndex = -1;
    before.removeAttribute("aria-selected");
    this.at = { row, head };
    const cell = this.cells[row][head];
    cell.tabIndex = 0;
    cell.setAttribute("aria-selected", "true");
    this.layer.querySelector("select").value = row;
    this.head.querySelector("select").value = head;
    const { about } = this;
    const kv = about.group > 1 ? ` (KV head ${Math.floor(head / about.group)})` : "";
    this.title.textContent = `Layer ${about.layers[row]}, head ${head}${kv}`;
    this.figures.replaceChildren(
      ...about.figures.map(({ name, values }) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, formatted(values[row][head], 3))),
      ),
    );
    if (this.chart) this.chart.set(this.lines());
    else this.chart = new Lines(this.place, this.lines());
  }

  lines() {
    const { about } = this;
    const { row, head } = this.at;
    const n = about.distances.length;
    const of = (curve) => {
      const [low, high] = about.ends[row][head];
      return Array.from(unpacked(about.curves[curve][row][head], low, high), (value) => (Number.isNaN(value) ? null : value));
    };
    const lines = about.lines.map(({ name, curve, low, high, colour: style, width, dash }) => ({
      name,
      style,
      width,
      bare: true,
      plain: !dash,
      x: about.distances,
      y: of(curve),
      low: low && of(low),
      high: high && of(high),
    }));
    return {
      label: `Attention by distance, layer ${about.layers[row]}, head ${head}`,
      x: { label: "distance (tokens)", log: n > 20 ? 10 : 0 },
      y: { label: "mean q·k/√d (logits)", digits: 4 },
      lines,
    };
  }
}

// ---- the sections

const makers = {
  waveforms: (section, about) => new Waveforms(section, about),
  lines: (section, about) => {
    section.append(element("h3", {}, about.title));
    new Lines(section, { ...about, label: about.title });
  },
  sweep: makeSweep,
  decay: (section, about) => new DecayFigure(section, about),
};

for (const place of document.querySelectorAll("[data-figure]")) {
  const about = data.figures[Number(place.dataset.figure)];
  makers[about.kind](place, about);
}
document.documentElement.dataset.made = "yes";
