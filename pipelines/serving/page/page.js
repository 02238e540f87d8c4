"use strict";

// The service's page: an image in, its segments over it, each with its class and score.

const LARGEST = 1600; // pixels of the longer side that are drawn
const SMALL = 512; // up to it, an image is shown larger by a whole number
const BLOCKS = 128; // up to it, its pixels are kept as blocks
const STEPS = [0, 0.3, -0.25, 0.5, -0.45, 0.15, -0.12]; // shades of one class's things, as in the reports

const at = (id) => document.getElementById(id);
const state = { model: null, file: null, answer: null, segments: [], width: 0, height: 0, active: -1, turn: 0 };

// Words

const percent = (share) => (share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);
const share = (segment) => segment.area / (state.answer.image.height * state.answer.image.width);
const score = (segment) => (segment.score === null ? "" : segment.score.toFixed(2));
const title = (segment) => `${segment.label}${segment.score === null ? "" : `, score ${score(segment)}`}`;

function say(text) {
  at("status").textContent = text;
}

function fail(error) {
  const { found, allowed, do: todo } = error;
  at("error").textContent = [found, allowed && `allowed: ${allowed}`, todo && `do: ${todo}`].filter(Boolean).join("\n");
  at("error").hidden = false;
  say("");
}

// Asking

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw { found: "the service does not answer", do: "see that it runs, and try again" };
  }
  const value = await response.json().catch(() => null);
  if (!response.ok) throw value?.error ?? { found: `the service answered ${response.status}` };
  return value;
}

async function introduce() {
  try {
    const model = (state.model = await ask("/model"));
    at("model").textContent = `${model.model} · ${model.task} · ${model.classes.length} classes`;
    document.title = `Maskline · ${model.model}`;
    const headline = { semantic: "miou", instance: "ap", panoptic: "pq" }[model.task];
    const measured = model.metrics?.[model.task]?.[headline];
    list(at("about"), {
      model: model.model,
      architecture: [model.architecture, model.encoder].filter(Boolean).join(", "),
      [headline]: typeof measured === "number" ? measured.toFixed(3) : "not measured",
      classes: model.classes.map((c) => c.name).join(", "),
      "trained on": `${model.dataset?.name ?? "unknown"} ${String(model.dataset?.hash ?? "").slice(0, 12)}`,
      weights: `sha256 ${model.weights.slice(0, 12)}`,
    });
  } catch (error) {
    at("model").textContent = "the model cannot be asked for";
    fail(error);
  }
}

function list(target, rows) {
  target.replaceChildren(...Object.entries(rows).flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
}

function make(tag, text = "", kind = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = kind;
  return element;
}

async function take(file) {
  if (!file) return;
  const turn = ++state.turn; // an answer that a newer image has overtaken is dropped
  at("error").hidden = true;
  document.body.classList.add("busy");
  say(`Segmenting ${file.name}…`);
  const started = performance.now();
  try {
    const [answer, bitmap] = await Promise.all([
      ask("/predict", { method: "POST", body: file }),
      createImageBitmap(file).catch(() => null), // a TIFF: the service reads it, the browser does not
    ]);
    if (turn !== state.turn) return;
    Object.assign(state, { file, answer, active: -1 });
    show(bitmap);
    const seconds = ((performance.now() - started) / 1000).toFixed(2);
    say(`${file.name}: ${count(answer.segments.length, "segment")} in ${seconds} s`);
  } catch (error) {
    if (turn === state.turn) fail(error.found ? error : { found: String(error) });
  } finally {
    if (turn === state.turn) document.body.classList.remove("busy");
  }
}

const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

// Masks

// COCO's compressed run lengths: characters of five bits and one that says that more follow, differences from the fourth.
function runs(text) {
  const counts = [];
  for (let i = 0; i < text.length; ) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = text.charCodeAt(i++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16 && shift < 32) value |= -1 << shift;
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

// The places of a mask on the drawn canvas.
function places(segment, { width, height }) {
  const [rows, columns] = segment.rle.size;
  const mask = new Uint8Array(rows * columns);
  let end = 0;
  runs(segment.rle.counts).forEach((run, i) => {
    if (i % 2) mask.fill(1, end, end + run);
    end += run;
  });
  const found = [];
  for (let y = 0; y < height; y++) {
    const row = Math.min(rows - 1, Math.floor(((y + 0.5) * rows) / height));
    for (let x = 0; x < width; x++) {
      const column = Math.min(columns - 1, Math.floor(((x + 0.5) * columns) / width));
      if (mask[column * rows + row]) found.push(y * width + x);
    }
  }
  return Uint32Array.from(found);
}

function shade(color, nth) {
  const step = STEPS[nth % STEPS.length];
  const towards = step > 0 ? 255 : 0;
  return color.map((value) => Math.round(value * (1 - Math.abs(step)) + towards * Math.abs(step)));
}

function show(bitmap) {
  const { height, width } = state.answer.image;
  const side = Math.max(height, width);
  const scale = side <= SMALL ? Math.floor((2 * SMALL) / side) : Math.min(1, LARGEST / side);
  state.width = Math.max(1, Math.round(width * scale));
  state.height = Math.max(1, Math.round(height * scale));
  for (const id of ["image", "masks", "mark"]) Object.assign(at(id), { width: state.width, height: state.height });
  const image = at("image").getContext("2d");
  image.imageSmoothingEnabled = side > BLOCKS;
  if (bitmap) image.drawImage(bitmap, 0, 0, state.width, state.height);
  at("view").classList.toggle("blocks", side <= BLOCKS);

  const seen = new Map();
  state.segments = state.answer.segments.map((segment) => {
    const nth = seen.get(segment.category) ?? 0;
    seen.set(segment.category, nth + 1);
    const color = shade(state.model?.classes[segment.category].color ?? [15, 118, 110], nth);
    return { ...segment, color, nth: nth + 1, shown: true, places: places(segment, state) };
  });
  for (const segment of state.segments) {
    segment.label = seen.get(segment.category) > 1 ? `${segment.name} ${segment.nth}` : segment.name;
  }
  for (const id of ["view", "keys", "panel"]) at(id).hidden = false;
  document.querySelector("main").classList.add("full");
  const names = [...seen].map(([category, n]) => `${n} ${state.answer.segments.find((s) => s.category === category).name}`);
  at("image").setAttribute("aria-label", `${state.file.name}: ${names.join(", ") || "nothing was found"}`);
  legend();
  paint();
}

function paint() {
  const context = at("masks").getContext("2d");
  const picture = context.createImageData(state.width, state.height);
  const pixels = new Uint32Array(picture.data.buffer);
  state.owner = new Int32Array(pixels.length).fill(-1);
  const order = state.segments.map((_, i) => i).sort((a, b) => state.segments[b].area - state.segments[a].area);
  for (const i of order) {
    const { color, places: own, shown } = state.segments[i];
    if (!shown) continue;
    const value = ((255 << 24) | (color[2] << 16) | (color[1] << 8) | color[0]) >>> 0;
    for (const place of own) {
      pixels[place] = value;
      state.owner[place] = i;
    }
  }
  context.putImageData(picture, 0, 0);
  highlight(state.active);
}

// The segment that is looked at: its rim, its row, its name.
function highlight(index, point = null) {
  state.active = index;
  const context = at("mark").getContext("2d");
  context.clearRect(0, 0, state.width, state.height);
  document.querySelectorAll(".row.on").forEach((row) => row.classList.remove("on"));
  const segment = state.segments[index];
  at("tip").hidden = !segment;
  if (!segment) return;
  const { width, height } = state;
  const inside = new Uint8Array(width * height);
  for (const place of segment.places) inside[place] = 1;
  const thick = Math.max(1, Math.round(Math.max(width, height) / 400));
  for (const place of segment.places) {
    const x = place % width;
    const y = (place - x) / width;
    const rim =
      x < thick || y < thick || x >= width - thick || y >= height - thick ||
      !inside[place - thick] || !inside[place + thick] || !inside[place - thick * width] || !inside[place + thick * width];
    if (!rim) continue;
    context.fillStyle = (x + y) % (8 * thick) < 4 * thick ? "#fff" : "#111";
    context.fillRect(x, y, 1, 1);
  }
  document.querySelector(`[data-segment="${index}"]`)?.classList.add("on");
  tip(segment, point);
}

function tip(segment, point) {
  const { height, width } = state.answer.image;
  const [x, y, w] = segment.bbox;
  const [left, top] = point ?? [(x + w / 2) / width, y / height];
  const element = at("tip");
  element.textContent = `${segment.label}${segment.score === null ? "" : ` · ${score(segment)}`}`;
  element.style.left = `${100 * Math.min(0.85, Math.max(0.15, left))}%`;
  element.style.top = `${100 * top}%`;
  element.classList.toggle("below", top < 0.15);
}

// The legend

function legend() {
  const groups = Map.groupBy
    ? Map.groupBy(state.segments.keys(), (i) => state.segments[i].category)
    : [...state.segments.keys()].reduce((m, i) => {
        const { category } = state.segments[i];
        return m.set(category, [...(m.get(category) ?? []), i]);
      }, new Map());
  const rows = [...groups].map(([category, members]) => {
    const [first] = members;
    if (members.length === 1) return item("class", row([first], state.segments[first]));
    const area = members.reduce((sum, i) => sum + share(state.segments[i]), 0);
    const head = { name: state.segments[first].name, color: state.model?.classes[category].color ?? [0, 0, 0] };
    const all = row(members, head, `${members.length} · ${percent(area)}`);
    const own = make("ul");
    own.append(...members.map((i) => item("", row([i], state.segments[i]))));
    return item("class", all, own);
  });
  at("legend").replaceChildren(...(rows.length ? rows : [make("li", "Nothing was found in this image.", "none")]));
  check();
}

function item(kind, ...children) {
  const element = make("li", "", kind);
  element.append(...children);
  return element;
}

// A toggle of one segment, or of all of a class.
function row(members, { name, label = name, color, ...segment }, figures = "") {
  const element = make("label", "", "row");
  const box = Object.assign(make("input"), { type: "checkbox", checked: true });
  const swatch = Object.assign(make("canvas"), { width: 1, height: 1 });
  const context = swatch.getContext("2d");
  context.fillStyle = `rgb(${color})`;
  context.fillRect(0, 0, 1, 1);
  const own = "score" in segment ? [score(segment), percent(share(segment))].filter(Boolean).join(" · ") : figures;
  element.append(box, swatch, make("span", label, "name"), make("span", own, "figures"));
  box.dataset.members = members.join(" ");
  box.addEventListener("change", () => {
    for (const i of members) state.segments[i].shown = box.checked;
    check();
    paint();
  });
  if (members.length === 1) {
    element.dataset.segment = members[0];
    element.addEventListener("mouseenter", () => highlight(members[0]));
    element.addEventListener("mouseleave", () => highlight(-1));
    box.addEventListener("focus", () => highlight(members[0]));
    box.addEventListener("blur", () => highlight(-1));
  }
  return element;
}

// The boxes as the segments are.
function check() {
  for (const box of document.querySelectorAll("[data-members]")) {
    const shown = box.dataset.members.split(" ").map((i) => state.segments[i].shown);
    box.checked = shown.some(Boolean);
    box.indeterminate = box.checked && !shown.every(Boolean);
  }
  const any = state.segments.some((segment) => segment.shown);
  at("all").textContent = any ? "Hide all" : "Show all";
  at("all").setAttribute("aria-pressed", String(any));
}

// Hands

function toggle(index) {
  state.segments[index].shown = !state.segments[index].shown;
  check();
  paint();
  say(`${title(state.segments[index])}: ${state.segments[index].shown ? "shown" : "hidden"}`);
}

function save(name, blob) {
  const link = Object.assign(make("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function picture() {
  const sheet = Object.assign(make("canvas"), { width: state.width, height: state.height });
  const context = sheet.getContext("2d");
  context.drawImage(at("image"), 0, 0);
  context.globalAlpha = at("opacity").value / 100;
  context.drawImage(at("masks"), 0, 0);
  sheet.toBlob((blob) => save(`${stem()}-masks.png`, blob));
}

const stem = () => state.file.name.replace(/\.[^.]*$/, "");

function opacity() {
  at("masks").style.opacity = at("opacity").value / 100;
  at("percent").textContent = `${at("opacity").value} %`;
}

function pointed(event) {
  const box = at("image").getBoundingClientRect();
  const left = (event.clientX - box.left) / box.width;
  const top = (event.clientY - box.top) / box.height;
  const x = Math.min(state.width - 1, Math.max(0, Math.floor(left * state.width)));
  const y = Math.min(state.height - 1, Math.max(0, Math.floor(top * state.height)));
  highlight(state.owner?.[y * state.width + x] ?? -1, [left, top]);
}

function keyed(event) {
  const n = state.segments.length;
  if (!n || event.target !== at("view")) return;
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (step) {
    highlight(state.active < 0 ? (step > 0 ? 0 : n - 1) : (state.active + step + n) % n);
    say(title(state.segments[state.active]));
  } else if (event.key === " " && state.active >= 0) toggle(state.active);
  else if (event.key === "Escape") highlight(-1);
  else return;
  event.preventDefault();
}

at("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
});
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
}
addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => take(event.clipboardData.files[0]));
at("opacity").addEventListener("input", opacity);
at("all").addEventListener("click", () => {
  const any = state.segments.some((segment) => segment.shown);
  for (const segment of state.segments) segment.shown = !any;
  check();
  paint();
});
at("save-json").addEventListener("click", () => {
  save(`${stem()}.json`, new Blob([JSON.stringify(state.answer, null, 1)], { type: "application/json" }));
});
at("save-picture").addEventListener("click", picture);
at("view").addEventListener("pointermove", pointed);
at("view").addEventListener("pointerleave", () => highlight(-1));
at("view").addEventListener("keydown", keyed);
at("view").addEventListener("blur", () => highlight(-1));
opacity();
introduce();
