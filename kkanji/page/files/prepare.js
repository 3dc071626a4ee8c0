"use strict";
// The character in a picture, as kkanji/inference/ink.py finds it and lays it out, with the same names. No DOM here.

const SIDE = 64;
const WORK = 320; // pixels of the longer side
const EDGE = 9; // pixels across: what is taken out goes with its soft edges

// Gray 64 x 64, white ink on black, of RGBA pixels; null for a picture without ink.
function prepare(rgba, width, height) {
  let colours = planes(rgba, width, height, 255);
  if (colours.every(isBlank)) colours = planes(rgba, width, height, 0); // white ink on a transparent background
  if (colours.every(isBlank)) return null;
  const found = findInk(colours);
  return found.some((level) => level) ? found : null;
}

// Red, green and blue of pixels laid on paper of this level.
function planes(rgba, width, height, paper) {
  return [0, 1, 2].map((colour) => {
    const plane = image(width, height);
    for (let at = 0; at < plane.levels.length; at++) {
      const alpha = rgba[4 * at + 3];
      const level = rgba[4 * at + colour];
      plane.levels[at] = alpha === 255 ? level : Math.round((level * alpha + paper * (255 - alpha)) / 255);
    }
    return plane;
  });
}

function isBlank({ levels }) {
  return levels.every((level) => level === levels[0]);
}

function findInk(colours) {
  const gray = discounted(colours);
  for (const clean of [gray, mapped(gray, (level) => 255 - level)]) {
    if (isClean(clean)) return Uint8Array.from(clean.levels);
  }
  const small = colours.map((plane) => resized(plane, WORK));
  const ink = density(withoutStrips(underSeals(discounted(small), sealOf(small))));
  const mask = maskOf(ink);
  const own = inkOfCharacter(mask);
  const other = extremes(mapped(mask, (level, at) => (level && !own.levels[at] ? 1 : 0)), EDGE, Math.max);
  return layOut(mapped(ink, (level, at) => (other.levels[at] ? 0 : level)));
}

function maskOf(ink) {
  return mapped(ink, (level) => (level > 0.5 ? 1 : 0));
}

// ---- the picture ----

function isClean({ levels, width, height }) {
  if (width !== SIDE || height !== SIDE || !levels.some((level) => level >= 200)) return false;
  const part = (values, holds) => values.filter(holds).length / values.length;
  const [black, white] = [part(levels, (level) => level < 16), part(levels, (level) => level >= 240)];
  const row = (y) => levels.filter((_, at) => Math.floor(at / SIDE) === y);
  const column = (x) => levels.filter((_, at) => at % SIDE === x);
  const isInk = (level) => level > 128;
  const edges = [row(0), row(SIDE - 1), column(0), column(SIDE - 1)].map((edge) => part(edge, isInk));
  return black >= 0.2 && 1 - black - white <= 0.55 && part(levels, isInk) <= 0.67 && Math.max(...edges) <= 0.95;
}

function sealOf([red, green]) {
  const redness = mapped(red, (level, at) => (level - green.levels[at]) / Math.max(level, 60));
  const least = Math.max(percentile(redness.levels, 50), 0) + 0.25;
  return mapped(redness, (level) => (level > least ? 1 : 0));
}

// Gray levels in which colour is as bright as paper.
function discounted([red, green, blue]) {
  return mapped(red, (level, at) => Math.max(level, green.levels[at], blue.levels[at]));
}

function resized(gray, side) {
  const scale = side / Math.max(gray.width, gray.height);
  const [width, height] = [gray.width, gray.height].map((size) => Math.max(8, roundHalfEven(size * scale)));
  return mapped(resizedTo(gray, width, height, "cubic"), whole);
}

const RING = 5; // pixels across the outline of a seal

function underSeals(gray, seal) {
  const part = mean(seal.levels);
  if (part <= 0.002 || part >= 0.5) return gray;
  const [low, high] = levelsUnder(smoothed(gray).levels.filter((_, at) => seal.levels[at]));
  if (low === high) return filledIn(gray, extremes(seal, RING, Math.max));
  const beside = gray.levels.filter((_, at) => !seal.levels[at]);
  const [dark, paper] = [percentile(beside, 5), percentile(beside, 60)];
  const contrast = mapped(gray, (level, at) => {
    if (!seal.levels[at]) return level;
    return Math.floor(Math.min(paper, Math.max(dark, paper - ((high - level) / (high - low)) * (paper - dark))));
  });
  const [wide, narrow] = [extremes(seal, RING, Math.max), extremes(seal, RING, Math.min)];
  const smooth = medians(contrast, 2 * RING + 1);
  return mapped(contrast, (level, at) => (wide.levels[at] > narrow.levels[at] ? smooth.levels[at] : level));
}

function levelsUnder(levels) {
  const middle = otsu(levels);
  const [low, high] = [levels.filter((level) => level <= middle), levels.filter((level) => level > middle)];
  if (low.length && high.length && distance(low, high) > 1.6) return [mean(low), mean(high)];
  return [mean(levels), mean(levels)];
}

// What a mask covers, filled in from beside it. OpenCV's way (Telea) also follows the slope of levels.
function filledIn(gray, mask) {
  const levels = gray.levels.slice();
  let left = Array.from(mask.levels.keys()).filter((at) => mask.levels[at]);
  const open = new Set(left);
  while (left.length) {
    const rim = left.map((at) => [at, around(at, gray.width, gray.height).filter((next) => !open.has(next))]);
    const done = rim.filter(([, beside]) => beside.length);
    if (!done.length) break;
    done.forEach(([at, beside]) => (levels[at] = whole(mean(beside.map((next) => levels[next])))));
    done.forEach(([at]) => open.delete(at));
    left = left.filter((at) => open.has(at));
  }
  return { ...gray, levels };
}

// ---- the sheet ----

const STEEP = 5;

function withoutStrips(gray) {
  let sheet = gray;
  for (let time = 0; time < 2; time++) {
    for (let turns = 0; turns < 4; turns++) sheet = turned(withoutUpperStrip(turned(sheet, turns)), 4 - turns);
  }
  return sheet.levels.length >= gray.levels.length / 5 ? sheet : gray;
}

function withoutUpperStrip(gray) {
  const middle = otsu(gray.levels);
  const bright = rowMeans(mapped(gray, (level) => (level > middle ? 1 : 0)));
  const first = bright[0] > 0.5 ? bright : bright.map((part) => 1 - part);
  const width = Math.max(0, first.findIndex((part) => part < 0.92));
  const end = first.slice(width, width + STEEP).findIndex((part) => part <= 0.5);
  const further = first.slice(width + STEEP).slice(0, Math.floor(gray.height / 3));
  const begins = first[0] >= 0.92 && width > 0 && width < 0.35 * gray.height && end >= 0 && further.length > 0;
  return begins && percentile(further, 50) <= 0.65 ? rowsFrom(gray, width + end + 1) : gray; // else: a margin
}

// ---- the ink ----

const SMALL = 80; // pixels of the longer side when the local median is taken
const NOISE = 1.5; // pixels

function density(gray) {
  const dark = isDarkOnLight(gray) ? gray : mapped(gray, (level) => 255 - level);
  const paper = closed(smoothed(dark), Math.floor(0.3 * Math.max(gray.width, gray.height)));
  const share = mapped(dark, (level, at) => 1 - Math.min(level, paper.levels[at]) / Math.max(paper.levels[at], 1));
  return contrasted(sharpened(stretched(share)));
}

function smoothed(gray) {
  return mapped(blurred(gray, NOISE, 3), whole);
}

function isDarkOnLight(gray) {
  const small = resized(gray, SMALL);
  const local = medians(small, (SMALL / 5) * 3 + 1);
  const beyond = small.levels.map((level, at) => level - local.levels[at]);
  return sum(beyond.map((value) => Math.min(value, 0) ** 2)) >= sum(beyond.map((value) => Math.max(value, 0) ** 2));
}

function stretched(ink) {
  const nothing = mapped(ink, () => 0);
  const middle = otsu(ink.levels.map((level) => whole(level * 255))) / 255;
  const [rest, above] = [ink.levels.filter((level) => level <= middle), ink.levels.filter((level) => level > middle)];
  if (!above.length) return nothing;
  const [low, high] = [percentile(rest, 50), percentile(above, 90)];
  const part = above.length / ink.levels.length;
  if (high - low < 0.06 || (part > 0.42 && distance(rest, above) < 1.7)) return nothing;
  return mapped(ink, (level) => (level - low) / (high - low));
}

function contrasted(ink) {
  return mapped(ink, (level) => Math.min(1, Math.max(0, (level - 0.3) / 0.5)));
}

// Without the blur of what is out of focus or was enlarged: Richardson and Lucy's deconvolution.
function sharpened(ink) {
  const blur = blurOf(ink);
  if (blur > 12) return mapped(ink, () => 0);
  if (blur < 5) return ink;
  const halves = [ink.width, ink.height].map((size) => areaFilter(size, roundHalfEven(size / 2), 2));
  const small = mapped(filtered(ink, ...halves), (level) => Math.max(level, 0) + 1e-3);
  const filters = [small.width, small.height].map((size) => normalFilter(size, (0.9 * blur) / 2, 4));
  let sharp = small;
  for (let time = 0; time < 25; time++) {
    const expected = filtered(sharp, ...filters);
    const change = filtered(mapped(small, (level, at) => level / (expected.levels[at] + 1e-4)), ...filters);
    sharp = mapped(sharp, (level, at) => level * change.levels[at]);
  }
  const large = resizedTo(sharp, ink.width, ink.height, "cubic");
  return stretched(mapped(large, (level) => Math.min(1.5, Math.max(0, level))));
}

function blurOf(ink) {
  const smooth = blurred(ink, NOISE, 4);
  const slopes = [
    [[-1, 0, 1], [1, 2, 1]],
    [[1, 2, 1], [-1, 0, 1]],
  ].map(([across, down]) => filtered(smooth, kernelFilter(ink.width, across), kernelFilter(ink.height, down)));
  const slope = mapped(slopes[0], (level, at) => Math.hypot(level, slopes[1].levels[at]) / 8);
  const edges = slope.levels.filter((_, at) => Math.abs(smooth.levels[at] - 0.5) < 0.1);
  return edges.length ? 1 / Math.sqrt(2 * Math.PI) / percentile(edges, 75) : 0;
}

function distance(low, high) {
  return (mean(high) - mean(low)) / Math.max(deviation(high) + deviation(low), 1e-6);
}

// ---- what is not the character ----

function inkOfCharacter(mask) {
  const sides = [0, 1, 2, 3];
  const surrounded = sides.filter((turns) => isSurround(turned(mask, turns)));
  const inner = surrounded.reduce((kept, turns) => turned(withoutRim(turned(kept, turns)), 4 - turns), mask);
  const rules = sides.map((turns) => turned(withoutRule(turned(inner, turns)), 4 - turns));
  let kept = mapped(inner, (level, at) => (rules.every((each) => each.levels[at]) ? level : 0));
  kept = transposed(withoutNeighbours(transposed(withoutNeighbours(kept, 0.22)), 0.1));
  return sum(kept.levels) > 0.1 * sum(mask.levels) ? kept : mask;
}

function isSurround({ levels, width }) {
  return mean(levels.subarray(0, width)) >= 0.4 && (levels[0] || levels[width - 1]);
}

function withoutRim(mask) {
  const { levels, width, height } = mask;
  const depths = Array.from({ length: width }, (_, x) => {
    let depth = 0;
    while (depth < height && levels[depth * width + x]) depth++;
    return depth > 0.25 * height ? 0 : depth;
  });
  return mapped(mask, (level, at) => (level && Math.floor(at / width) >= depths[at % width] + 1 ? 1 : 0));
}

function withoutRule(mask) {
  const filled = rowMeans(mask);
  const lines = Array.from(filled.keys()).filter((y) => y < Math.floor(0.15 * mask.height) && filled[y] >= 0.9);
  if (!lines.length) return mask;
  const [first, last] = [lines[0], lines.at(-1)];
  const before = first < STEEP || Math.min(...filled.slice(first - STEEP, first)) < 0.5;
  const after = Math.min(...filled.slice(last + 1, last + 1 + STEEP)) < 0.5;
  if (!before || !after || last - first >= 0.07 * mask.height) return mask;
  return mapped(mask, (level, at) => (level && Math.floor(at / mask.width) > last + 2 ? 1 : 0));
}

// deepest: how far a part reaches in, of the side, that may be a neighbour's.
function withoutNeighbours(mask, deepest) {
  const { width, height } = mask;
  const { numbers, parts } = partsOf(mask);
  const rows = parts.map((pixels) => pixels.map((at) => Math.floor(at / width)));
  const tops = rows.map((each) => each.reduce((least, y) => Math.min(least, y), height));
  const ends = rows.map((each) => each.reduce((most, y) => Math.max(most, y + 1), 0));
  const all = sum(mask.levels);
  const small = parts.map((pixels, n) => n > 0 && ends[n] - tops[n] < deepest * height && pixels.length < 0.25 * all);
  const edges = [
    { widths: rows.map((each, n) => (small[n] ? widthAtEdge(each, tops[n] === 0) : 0)), end: ends },
    {
      widths: rows.map((each, n) => (small[n] ? widthAtEdge(each.map((y) => height - 1 - y), ends[n] === height) : 0)),
      end: tops.map((top) => height - top),
    },
  ];
  if (Math.max(...edges.flatMap(({ widths }) => widths)) < 0.5) return mask;
  const depths = edges.map(({ widths, end }) => Math.max(...end.map((each, n) => (widths[n] >= 0.2 ? each : 0))));
  const gone = parts.map((_, n) => n > 0 && edges.some(({ end }, edge) => end[n] <= depths[edge]));
  return mapped(mask, (level, at) => (level && !gone[numbers[at]] ? 1 : 0));
}

// The least width of a part's first two rows, if it touches the edge, in parts of its largest width.
function widthAtEdge(rows, touches) {
  if (!touches) return 0;
  const widths = new Map();
  rows.forEach((y) => widths.set(y, (widths.get(y) ?? 0) + 1));
  return Math.min(widths.get(0) ?? 0, widths.get(1) ?? 0) / Math.max(...widths.values());
}

function withoutSpecks(mask) {
  const { numbers, parts } = partsOf(mask);
  const least = 0.003 * sum(mask.levels);
  return mapped(mask, (level, at) => (level && parts[numbers[at]].length >= least ? 1 : 0));
}

// ---- the layout ----

function layOut(ink) {
  const result = new Uint8Array(SIDE * SIDE);
  const mask = withoutSpecks(maskOf(ink));
  const inside = Array.from(ink.levels.keys()).filter((at) => mask.levels[at]);
  if (!inside.length) return result;
  const [left, right] = extent(inside.map((at) => at % ink.width));
  const [top, bottom] = extent(inside.map((at) => Math.floor(at / ink.width)));
  const [across, down] = [right - left, bottom - top];
  const wide = Math.max(across, across * Math.sqrt((0.87 * down) / across)); // narrow characters, a little wider
  const scale = SIDE / Math.max(wide, down);
  const [width, height] = [wide, down].map((size) => Math.max(1, roundHalfEven(size * scale)));
  const scaled = resizedTo(cropped(ink, left, top, right, bottom), width, height, "linear");
  const [x, y] = [Math.floor((SIDE - width) / 2), Math.floor((SIDE - height) / 2)];
  scaled.levels.forEach((level, at) => {
    result[(y + Math.floor(at / width)) * SIDE + x + (at % width)] = whole(level * 255);
  });
  return result;
}

function extent(values) {
  return [values.reduce((one, other) => Math.min(one, other)), values.reduce((one, other) => Math.max(one, other)) + 1];
}

function cropped({ levels, width }, left, top, right, bottom) {
  const result = image(right - left, bottom - top);
  for (let y = top; y < bottom; y++) {
    result.levels.set(levels.subarray(y * width + left, y * width + right), (y - top) * result.width);
  }
  return result;
}
