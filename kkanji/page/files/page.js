"use strict";
// The page: takes an image or strokes, has them read, shows the readings. ABOUT (about.js) describes the model.

const SHOWN = 5;
const LEAST_SHOWN = 0.001; // of a probability: below, digits say nothing
const LARGEST_PIXELS = 5000 * 5000;
const PEN = 0.045; // width of a stroke by the side of the field
const DRAWN_MARGIN = 0.15; // of paper around the strokes, by their longer side: what touches an edge may be a neighbour's
const DOUBTS = ["nothing", "several", "otherScript"]; // texts, in the order of the model's reasons
const at = (id) => document.getElementById(id);
const state = { language: "en", session: null, image: null, strokes: [], found: null, message: ["loading", {}] };

// ---- texts ----

function text(key, values = {}) {
  return TEXTS[state.language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// A number and its sign stay on one line.
function percent(fraction) {
  const least = fraction < LEAST_SHOWN ? "<\u00a0" : "";
  return `${least}${(100 * Math.max(fraction, LEAST_SHOWN)).toFixed(1)}\u00a0%`;
}

function say(key, values = {}) {
  state.message = [key, values];
  at("status").textContent = text(key, values);
}

function speak(language) {
  state.language = language;
  document.documentElement.lang = language;
  document.title = `kkanji: ${text("heading")}`;
  document.querySelectorAll("[data-text]").forEach((each) => (each.textContent = text(each.dataset.text)));
  document.querySelectorAll("[data-label]").forEach((each) => each.setAttribute("aria-label", text(each.dataset.label)));
  at("language").textContent = text("other");
  const count = ABOUT.characters.length.toLocaleString(language);
  const others = text(ABOUT.unknown_threshold === null ? "takenForOne" : "marked");
  at("known").textContent = text("known", { title: ABOUT.title, count, noKana: ABOUT.kana ? "" : text("noKana"), others });
  const { images, same, difference, kind, marks } = ABOUT.agreement;
  const sameMarks = marks === null ? "" : text("sameMarks", { marks });
  at("agreement").textContent = text("agreement", { images, same, difference, kind: text(kind), sameMarks });
  const licence = ABOUT.licence.replaceAll("`", ""); // a model card's Markdown
  at("licence").textContent = text("licence", { licence, maker: ABOUT.maker });
  say(...state.message);
  if (state.found) show(state.found);
}

// ---- the model ----

async function start() {
  const glyphs = new FontFace("kkanji glyphs", await embedded.take("glyphs"));
  document.fonts.add(await glyphs.load());
  speak(state.language); // set again in these glyphs, where the machine has none
  const module = new Blob([await embedded.take("module")], { type: "text/javascript" });
  ort.env.wasm.numThreads = 1; // more need headers that only a server sends
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(module) };
  ort.env.wasm.wasmBinary = await embedded.unzipped("wasm");
  state.session = await ort.InferenceSession.create(await embedded.unzipped("model"));
  say("ready");
  await read();
}

// What the model says of a prepared image: its readings, and with an index of neighbours why it shows no character.
async function judged(prepared) {
  const images = new ort.Tensor("uint8", prepared, [1, 1, SIDE, SIDE]);
  const { probabilities, unknown, reasons } = await state.session.run({ images });
  const readings = readingsOf(probabilities.data);
  return { readings, score: unknown?.data[0] ?? null, doubt: doubtOf(readings[0], unknown, reasons) };
}

// The most probable classes, each with its forms and the sum of their probabilities.
function readingsOf(probabilities) {
  const order = Array.from(probabilities.keys()).sort((one, other) => probabilities[other] - probabilities[one]);
  return order.slice(0, SHOWN).map((number) => {
    const forms = ABOUT.forms[ABOUT.family[number]] ?? [];
    const together = forms.reduce((sum, form) => sum + probabilities[form], 0);
    return { character: ABOUT.characters[number], probability: probabilities[number], forms, together };
  });
}

// Why the image probably shows none of the model's characters: the name of a text; null if it probably shows one.
function doubtOf(best, unknown, reasons) {
  if (!unknown) return Math.max(best.probability, best.together) < ABOUT.least_probability ? "unsure" : null;
  if (unknown.data[0] < ABOUT.unknown_threshold) return null;
  return DOUBTS[reasons.data.indexOf(Math.max(...reasons.data))];
}

// Read what is there: a picture, or else the strokes.
async function read() {
  const pixels = state.image ?? drawnPixels();
  if (!pixels || !state.session) return state.session || forget();
  const prepared = prepare(pixels.data, pixels.width, pixels.height);
  if (!prepared) return refuse("blank");
  say("reading");
  const begin = performance.now();
  const found = await judged(prepared);
  if (pixels !== state.image && state.image) return; // another image came meanwhile
  state.found = { ...found, prepared };
  show(state.found);
  say("read", { milliseconds: Math.round(performance.now() - begin) });
}

function refuse(key, values) {
  forget();
  say(key, values);
}

function forget() {
  state.found = null;
  at("readings").replaceChildren();
  at("doubt").hidden = at("seen").hidden = true;
}

// ---- what was found ----

function show({ readings, doubt, score, prepared }) {
  at("readings").replaceChildren(...readings.map(item));
  at("doubt").hidden = !doubt;
  if (doubt) at("doubt").textContent = text(doubt, { percent: percent(score ?? readings[0].probability) });
  const canvas = at("prepared").getContext("2d");
  const pixels = Uint8ClampedArray.from({ length: 4 * SIDE * SIDE }, (_, n) => (n % 4 === 3 ? 255 : prepared[n >> 2]));
  canvas.putImageData(new ImageData(pixels, SIDE, SIDE), 0, 0);
  at("seen").hidden = false;
}

function item({ character, probability, forms, together }) {
  const point = `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  const button = make("button", { type: "button" });
  button.setAttribute("aria-label", text("copyLabel", { character, point, percent: percent(probability) }));
  button.addEventListener("click", () => copy(character));
  const fill = make("span", {});
  fill.style.width = `${100 * probability}%`;
  const bar = make("span", { className: "bar" }, fill);
  button.append(
    make("span", { className: "glyph", lang: "ja", textContent: character }),
    bar,
    make("span", { className: "percent", textContent: percent(probability) }),
    make("span", { className: "point", textContent: point }),
  );
  if (forms.length && together >= LEAST_SHOWN) {
    const all = make("b", { lang: "ja", textContent: forms.map((form) => ABOUT.characters[form]).join("") });
    button.append(make("span", { className: "forms" }, text("forms", { percent: percent(together) }), " ", all));
  }
  return make("li", {}, button);
}

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function copy(character) {
  try {
    await navigator.clipboard.writeText(character);
    say("copied", { character });
  } catch {
    say("copyFailed", { character });
  }
}

// ---- images ----

async function take(files) {
  const file = Array.from(files).find((each) => each.type.startsWith("image/")) ?? files[0];
  if (!file) return refuse("noFile");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // turned as its EXIF says
  } catch {
    return refuse("notAnImage", { name: file.name });
  }
  const { width, height } = bitmap;
  if (width * height > LARGEST_PIXELS) return refuse("tooLarge", { width, height });
  const canvas = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  canvas.drawImage(bitmap, 0, 0);
  clearStrokes();
  state.image = canvas.getImageData(0, 0, width, height);
  URL.revokeObjectURL(at("picture").src);
  at("picture").src = URL.createObjectURL(file);
  at("picture").hidden = false;
  await read();
}

function clear() {
  clearStrokes();
  state.image = null;
  at("picture").hidden = true;
  forget();
  say(state.session ? "ready" : "loading");
}

// ---- strokes ----

function clearStrokes() {
  state.strokes = [];
  draw();
}

function draw() {
  const canvas = at("drawing");
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.strokeStyle = "#000";
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = PEN * canvas.width;
  for (const [first, ...rest] of state.strokes) {
    pen.beginPath();
    pen.moveTo(...first);
    (rest.length ? rest : [first]).forEach((point) => pen.lineTo(...point));
    pen.stroke();
  }
}

// The strokes with a margin, as an image; null without any.
function drawnPixels() {
  const points = state.strokes.flat();
  if (!points.length) return null;
  const canvas = at("drawing");
  const [left, right] = strokeExtent(points.map(([x]) => x), canvas.width);
  const [top, bottom] = strokeExtent(points.map(([, y]) => y), canvas.height);
  const [width, height] = [right - left, bottom - top];
  const side = Math.round(Math.max(width, height) * (1 + 2 * DRAWN_MARGIN));
  const square = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
  square.fillStyle = "#fff";
  square.fillRect(0, 0, side, side);
  const [x, y] = [(side - width) / 2, (side - height) / 2].map(Math.round);
  square.drawImage(canvas, left, top, width, height, x, y, width, height);
  return square.getImageData(0, 0, side, side);
}

function strokeExtent(values, size) {
  const pen = (PEN * size) / 2;
  const low = Math.max(0, Math.floor(Math.min(...values) - pen));
  return [low, Math.min(size, Math.ceil(Math.max(...values) + pen))];
}

function pointOf(event) {
  const canvas = at("drawing");
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
}

function undo() {
  state.strokes.pop();
  draw();
  if (state.strokes.length) read();
  else clear();
}

// ---- events ----

function listen() {
  const canvas = at("drawing");
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    state.strokes.push([pointOf(event)]);
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    state.strokes.at(-1).push(pointOf(event));
    draw();
  });
  canvas.addEventListener("pointerup", () => read());
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    at("board").classList.add("over");
  });
  document.addEventListener("dragleave", () => at("board").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("board").classList.remove("over");
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  at("choose").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => take(at("file").files));
  at("undo").addEventListener("click", undo);
  at("clear").addEventListener("click", clear);
  at("language").addEventListener("click", () => speak(state.language === "en" ? "ja" : "en"));
  document.addEventListener("keydown", press);
}

function press(event) {
  if (event.key === "Escape") clear();
  else if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (/^[1-5]$/.test(event.key) && !event.ctrlKey) at("readings").querySelectorAll("button")[event.key - 1]?.click();
}

listen();
draw();
speak(navigator.language.startsWith("ja") ? "ja" : "en");
addEventListener("unhandledrejection", ({ reason }) => refuse("failed", { reason: reason.message ?? reason }));
start();
