"use strict";
// Operations on images, as OpenCV and NumPy have them. An image is {levels, width, height}: levels row by row.

function image(width, height, levels = new Float32Array(width * height)) {
  return { levels, width, height };
}

function mapped(one, change) {
  return image(one.width, one.height, one.levels.map(change));
}

function whole(level) {
  return Math.min(255, Math.max(0, roundHalfEven(level)));
}

function roundHalfEven(value) {
  const near = Math.round(value);
  return near - value === 0.5 && near % 2 ? near - 1 : near;
}

function sum(values) {
  let total = 0;
  for (let at = 0; at < values.length; at++) total += values[at];
  return total;
}

function mean(values) {
  return sum(values) / values.length;
}

function deviation(values) {
  const middle = mean(values);
  return Math.sqrt(sum(values.map((value) => (value - middle) ** 2)) / values.length);
}

function percentile(values, percent) {
  const sorted = Float32Array.from(values).sort();
  const place = ((sorted.length - 1) * percent) / 100;
  const [low, high] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
  return low + (high - low) * (place - Math.floor(place));
}

// A quarter turn to the left, `times` times.
function turned(one, times) {
  if (times % 4 === 0) return one;
  const { levels, width, height } = one;
  const result = image(height, width);
  for (let y = 0; y < width; y++) {
    for (let x = 0; x < height; x++) result.levels[y * height + x] = levels[x * width + width - 1 - y];
  }
  return turned(result, times - 1);
}

function transposed({ levels, width, height }) {
  const result = image(height, width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) result.levels[x * height + y] = levels[y * width + x];
  }
  return result;
}

function rowsFrom({ levels, width, height }, first) {
  return image(width, height - first, levels.slice(first * width));
}

// The mean of each row.
function rowMeans({ levels, width, height }) {
  return Array.from({ length: height }, (_, y) => mean(levels.subarray(y * width, (y + 1) * width)));
}

// ---- filters: for each place of the result, weights of the pixels from `first` on ----

function filtered(one, columns, rows) {
  const { levels, width, height } = one;
  const across = image(columns.length, height);
  for (let y = 0; y < height; y++) {
    columns.forEach(({ first, weights }, x) => {
      let total = 0;
      for (let n = 0; n < weights.length; n++) total += weights[n] * levels[y * width + first + n];
      across.levels[y * columns.length + x] = total;
    });
  }
  const result = image(columns.length, rows.length);
  rows.forEach(({ first, weights }, y) => {
    for (let x = 0; x < columns.length; x++) {
      let total = 0;
      for (let n = 0; n < weights.length; n++) total += weights[n] * across.levels[(first + n) * columns.length + x];
      result.levels[y * columns.length + x] = total;
    }
  });
  return result;
}

// The mean over the area that each pixel of a smaller image covers.
function areaFilter(size, target, scale = size / target) {
  return Array.from({ length: target }, (_, place) => {
    const [from, to] = [place * scale, Math.min(size, (place + 1) * scale)];
    const first = Math.floor(from + 1e-6);
    const count = Math.max(1, Math.ceil(to - 1e-6) - first);
    const weights = Array.from({ length: count }, (_, n) => {
      return (Math.min(to, first + n + 1) - Math.max(from, first + n)) / (to - from);
    });
    return { first, weights };
  });
}

// Taps of a kernel around each place of a larger image; the image's edge goes on for ever.
function tapFilter(size, target, before, taps) {
  const scale = size / target;
  return Array.from({ length: target }, (_, place) => {
    const centre = (place + 0.5) * scale - 0.5;
    const base = Math.floor(centre);
    const weights = new Array(size).fill(0);
    taps(centre - base).forEach((weight, n) => (weights[Math.min(size - 1, Math.max(0, base - before + n))] += weight));
    const first = weights.findIndex((weight) => weight !== 0);
    return { first, weights: weights.slice(first, first + taps(0).length) };
  });
}

function linearTaps(part) {
  return [1 - part, part];
}

function cubicTaps(part) {
  const inner = (x) => (1.25 * x - 2.25) * x * x + 1;
  const outer = (x) => -0.75 * (((x - 5) * x + 8) * x - 4);
  return [outer(part + 1), inner(part), inner(1 - part), outer(2 - part)];
}

function resizedTo(one, width, height, enlarge) {
  const filters = [
    [one.width, width],
    [one.height, height],
  ].map(([size, target]) => {
    if (target <= size) return areaFilter(size, target);
    return enlarge === "cubic" ? tapFilter(size, target, 1, cubicTaps) : tapFilter(size, target, 0, linearTaps);
  });
  return filtered(one, ...filters);
}

// Smoothed by a normal distribution `reach` deviations wide, the image mirrored at its edges.
function blurred(one, deviation, reach) {
  return filtered(one, normalFilter(one.width, deviation, reach), normalFilter(one.height, deviation, reach));
}

function normalFilter(size, deviation, reach) {
  const radius = roundHalfEven(deviation * reach * 2 + 1) >> 1;
  const raw = Array.from({ length: 2 * radius + 1 }, (_, n) => Math.exp(-((n - radius) ** 2) / (2 * deviation ** 2)));
  return kernelFilter(size, raw.map((weight) => weight / sum(raw)));
}

// An odd number of weights around each place, the image mirrored at its edges.
function kernelFilter(size, kernel) {
  const radius = kernel.length >> 1;
  return Array.from({ length: size }, (_, place) => {
    const [first, end] = [Math.max(0, place - radius), Math.min(size, place + radius + 1)];
    const weights = new Array(end - first).fill(0);
    kernel.forEach((weight, n) => (weights[mirror(place - radius + n, size) - first] += weight));
    return { first, weights };
  });
}

function mirror(place, size) {
  if (size === 1) return 0;
  const period = 2 * size - 2;
  const inside = ((place % period) + period) % period;
  return inside < size ? inside : period - inside;
}

// The strongest, or by `better` another, level in the square around each pixel.
function extremes(one, side, better) {
  return transposed(extremesInRows(transposed(extremesInRows(one, side, better)), side, better));
}

// By blocks of `side`: the best from a block's start and to its end (van Herk, Pattern Recognition Letters 13, 1992).
function extremesInRows({ levels, width, height }, side, better) {
  const result = image(width, height);
  const [start, length] = [side >> 1, width + side - 1];
  const padded = new Float32Array(length).fill(-better(-Infinity, Infinity));
  const [forward, backward] = [new Float32Array(length), new Float32Array(length)];
  for (let y = 0; y < height; y++) {
    padded.set(levels.subarray(y * width, (y + 1) * width), start);
    for (let x = 0; x < length; x++) forward[x] = x % side ? better(forward[x - 1], padded[x]) : padded[x];
    for (let x = length - 1; x >= 0; x--) {
      backward[x] = (x + 1) % side && x + 1 < length ? better(backward[x + 1], padded[x]) : padded[x];
    }
    for (let x = 0; x < width; x++) result.levels[y * width + x] = better(backward[x], forward[x + side - 1]);
  }
  return result;
}

function closed(one, side) {
  return extremes(extremes(one, side, Math.max), side, Math.min);
}

// The median of whole levels in the square around each pixel, the image's edge going on for ever.
function medians({ levels, width, height }, side) {
  const result = image(width, height);
  const [half, middle] = [side >> 1, (side * side + 1) / 2];
  const inside = (place, size) => Math.min(size - 1, Math.max(0, place));
  for (let y = 0; y < height; y++) {
    const counts = new Int32Array(256);
    const column = (x, change) => {
      for (let n = -half; n <= half; n++) counts[levels[inside(y + n, height) * width + inside(x, width)]] += change;
    };
    for (let n = -half; n < half; n++) column(n, 1);
    for (let x = 0; x < width; x++) {
      column(x + half, 1);
      let level = 0;
      for (let seen = counts[0]; seen < middle; seen += counts[++level]);
      result.levels[y * width + x] = level;
      column(x - half, -1);
    }
  }
  return result;
}

// The level that divides whole levels best in two groups (Otsu).
function otsu(levels) {
  const parts = new Float64Array(256);
  for (const level of levels) parts[level] += 1 / levels.length;
  const average = sum(parts.map((part, level) => part * level));
  let [threshold, most, below, weighted] = [0, 0, 0, 0];
  for (let level = 0; level < 256; level++) {
    below += parts[level];
    weighted += parts[level] * level;
    if (below < 1e-7 || below > 1 - 1e-7) continue;
    const between = below * (1 - below) * (weighted / below - (average - weighted) / (1 - below)) ** 2;
    if (between > most) [threshold, most] = [level, between];
  }
  return threshold;
}

// Connected parts of a mask, diagonals too: the number of each pixel's part (0: none), and of each part its pixels.
function partsOf({ levels, width, height }) {
  const numbers = new Int32Array(levels.length);
  const parts = [[]];
  levels.forEach((level, start) => {
    if (!level || numbers[start]) return;
    const pixels = [start];
    numbers[start] = parts.length;
    for (let n = 0; n < pixels.length; n++) {
      for (const next of around(pixels[n], width, height)) {
        if (!levels[next] || numbers[next]) continue;
        numbers[next] = parts.length;
        pixels.push(next);
      }
    }
    parts.push(pixels);
  });
  return { numbers, parts };
}

function around(place, width, height) {
  const [x, y] = [place % width, Math.floor(place / width)];
  const found = [];
  for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
    for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) found.push(v * width + u);
  }
  return found;
}
