"use strict";
// Waveforms in float64: mean cosines of the angles m·θ over the frequencies θ of a head, 1 at distance 0.
// The page runs this file, and so does the worker that keeps every value of all heads.

const BLOCK = 256; // distances around one centre whose cosines are computed directly
const AT_ONCE = 16384; // distances that are computed on demand while the worker is not through yet

/** Frequencies of a base: base^(−2i/d), in radians per token. */
function frequenciesOf(base, headDim) {
  return Float64Array.from({ length: headDim / 2 }, (_, i) => base ** ((-2 * i) / headDim));
}

/** The waveform at one distance, cosine by cosine. */
function valueAt(theta, distance) {
  let sum = 0;
  for (let i = 0; i < theta.length; i++) sum += Math.cos(distance * theta[i]);
  return sum / theta.length;
}

/** The waveform at the distances first, first + 1, … into `out`, by angle addition around the centre of each block:
 *  cos((s ± k)θ) = cos(sθ)cos(kθ) ∓ sin(sθ)sin(kθ). Centres are computed directly, so errors do not add up. */
function fillWaveform(theta, first, out) {
  const n = theta.length;
  const half = BLOCK / 2;
  const cosines = new Float64Array(half * n);
  const sines = new Float64Array(half * n);
  for (let k = 0; k < half; k++) {
    for (let i = 0; i < n; i++) {
      cosines[k * n + i] = Math.cos((k + 0.5) * theta[i]);
      sines[k * n + i] = Math.sin((k + 0.5) * theta[i]);
    }
  }
  const c = new Float64Array(n);
  const s = new Float64Array(n);
  for (let start = 0; start < out.length; start += BLOCK) {
    const centre = first + start + half - 0.5;
    for (let i = 0; i < n; i++) {
      c[i] = Math.cos(centre * theta[i]) / n;
      s[i] = Math.sin(centre * theta[i]) / n;
    }
    for (let k = 0; k < half; k++) {
      let even = 0;
      let odd = 0;
      for (let i = 0, j = k * n; i < n; i++, j++) {
        even += c[i] * cosines[j];
        odd += s[i] * sines[j];
      }
      out[start + half + k] = even - odd; // a typed array ignores what lies beyond its end
      out[start + half - 1 - k] = even + odd;
    }
  }
}

/** A distance as the model sees it under Self-Extend: in groups beyond a window; the smaller or the greater of two. */
function seenDistance(m, map, upper) {
  if (!map || m < map.window) return m;
  const groups = upper ? Math.ceil(m / map.group) : Math.floor(m / map.group);
  return groups + map.window - Math.floor(map.window / map.group);
}

/** Lowest, highest and mean value between neighbouring edges. */
function bucketed(values, first, edges) {
  const n = edges.length - 1;
  const found = { low: new Float32Array(n), high: new Float32Array(n), mean: new Float32Array(n) };
  for (let k = 0; k < n; k++) {
    let low = Infinity;
    let high = -Infinity;
    let sum = 0;
    for (let j = edges[k] - first; j < edges[k + 1] - first; j++) {
      const value = values[j];
      if (value < low) low = value;
      if (value > high) high = value;
      sum += value;
    }
    found.low[k] = low;
    found.high[k] = high;
    found.mean[k] = sum / (edges[k + 1] - edges[k]);
  }
  return found;
}

/** Keeps the waveforms of a set of heads and answers what is to be drawn of them. */
class Waves {
  constructor({ thetas, last, map, upper }) {
    Object.assign(this, { thetas, last, map, upper, values: [], pool: null });
  }

  /** Compute the next head; false once all are there. */
  computeNext() {
    const row = this.values.length;
    if (row < this.thetas.length) this.values.push(this.compute(row, 0, this.last + 1));
    return this.values.length < this.thetas.length;
  }

  compute(row, first, end) {
    const start = seenDistance(first, this.map, this.upper[row]);
    const out = new Float32Array(seenDistance(end - 1, this.map, this.upper[row]) - start + 1);
    fillWaveform(this.thetas[row], start, out);
    if (!this.map) return out;
    return Float32Array.from({ length: end - first }, (_, j) => {
      return out[seenDistance(first + j, this.map, this.upper[row]) - start];
    });
  }

  /** Best head, lowest head and mean of some heads, at every distance from `first` on. */
  pooled(rows, first, end, valuesOf) {
    const size = end - first;
    const best = new Float32Array(size).fill(-Infinity);
    const lowest = new Float32Array(size).fill(Infinity);
    const sum = new Float64Array(size);
    for (const row of rows) {
      const values = valuesOf(row);
      for (let j = 0; j < size; j++) {
        const value = values[j];
        if (value > best[j]) best[j] = value;
        if (value < lowest[j]) lowest[j] = value;
        sum[j] += value;
      }
    }
    return { first, best, lowest, mean: Float32Array.from(sum, (value) => value / rows.length) };
  }

  /** What is drawn between edges: means of the heads with lines, ends of those with bands, and the pool of the rest.
   *  Null if that is not known yet. */
  view({ edges, lines, banded, pool }) {
    const whole = this.values.length === this.thetas.length;
    const first = whole ? 0 : edges[0];
    const end = edges[edges.length - 1];
    if (!whole && end - first > AT_ONCE) return null;
    const kept = new Map();
    const valuesOf = (row) => {
      if (whole) return this.values[row];
      if (!kept.has(row)) kept.set(row, this.compute(row, first, end));
      return kept.get(row);
    };
    const key = pool.join();
    let pooled = this.pool && this.pool.key === key ? this.pool : null;
    if (!pooled) {
      pooled = this.pooled(pool, first, whole ? this.last + 1 : end, valuesOf);
      if (whole) this.pool = { ...pooled, key };
    }
    const of = (values) => bucketed(values, first, edges);
    return {
      edges,
      lines: lines.map((row) => of(valuesOf(row)).mean),
      bands: banded.map((row) => of(valuesOf(row))),
      best: of(pooled.best),
      lowest: of(pooled.lowest).low,
      mean: of(pooled.mean),
    };
  }
}

if (typeof document === "undefined") {
  let waves = null;
  const step = () => {
    const more = waves.computeNext();
    postMessage({ computed: waves.values.length });
    if (more) setTimeout(step); // so that requests are answered in between
  };
  onmessage = ({ data }) => {
    if (data.start) {
      waves = new Waves(data.start);
      step();
    } else {
      postMessage({ id: data.id, view: waves.view(data.request) });
    }
  };
}
