"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const part = (id) => document.getElementById(id);
const canvas = part("canvas"), pen = canvas.getContext("2d");
const photos = new Map(), colors = data.colors, shapes = ["circle", "square", "triangle", "diamond", "cross"];
const nothing = { name: data.nothing, looked_in: "decoder", predictions: [], looks: [] };
const state = { picture: 0, subject: 0, layer: 0, head: 0, kind: 0 };

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function chosen() {
  const picture = data.pictures[state.picture], subject = picture.subjects[state.subject] || nothing;
  return { picture, subject, look: subject.looks[state.layer] };
}

// Weights of what is shown: of one head, or the mean over all of them, as shares of 1.
function weightsOf(seen) {
  if (!seen.decoded) {
    seen.decoded = seen.weights.map((text, head) => Float32Array.from(bytes(text), (value) => value / 255 * seen.largest[head]));
  }
  if (state.head > 0) return seen.decoded[Math.min(state.head, seen.decoded.length) - 1];
  const mean = new Float32Array(seen.decoded[0].length);
  for (const head of seen.decoded) head.forEach((value, place) => { mean[place] += value / seen.decoded.length; });
  return mean;
}

function shownOf(look) {
  return state.kind === 1 && look.gaussian ? look.gaussian : look.seen;
}

// The levels of maps with their slice of the weights.
function levelsOf(seen, weights) {
  let first = 0;
  return seen.sizes.map(([height, width], place) => {
    const slice = weights.subarray(first, first + height * width);
    first += height * width;
    return { level: seen.levels[place], height, width, weights: slice };
  });
}

function drawMaps(seen, picture) {
  const weights = weightsOf(seen), largest = Math.max(1e-9, ...weights), strength = Number(part("strength").value);
  for (const { height, width, weights: cells } of levelsOf(seen, weights)) {
    const wide = picture.width / width, high = picture.height / height;
    cells.forEach((weight, cell) => {
      if (weight / largest < 0.02) return;
      pen.fillStyle = `rgba(213, 94, 0, ${(strength * weight / largest).toFixed(3)})`;
      pen.fillRect((cell % width) * wide, Math.floor(cell / width) * high, wide, high);
    });
  }
}

function mark(x, y, radius, shape, color) {
  pen.beginPath();
  if (shape === "square") pen.rect(x - radius, y - radius, 2 * radius, 2 * radius);
  else if (shape === "triangle") { pen.moveTo(x, y - radius); pen.lineTo(x + radius, y + radius); pen.lineTo(x - radius, y + radius); pen.closePath(); }
  else if (shape === "diamond") { pen.moveTo(x, y - radius); pen.lineTo(x + radius, y); pen.lineTo(x, y + radius); pen.lineTo(x - radius, y); pen.closePath(); }
  else if (shape === "cross") { pen.rect(x - radius, y - radius / 3, 2 * radius, 2 * radius / 3); pen.rect(x - radius / 3, y - radius, 2 * radius / 3, 2 * radius); }
  else pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fillStyle = color;
  pen.fill();
  pen.strokeStyle = "#ffffff";
  pen.lineWidth = Math.max(1 / pen.getTransform().a, radius / 6);
  pen.stroke();
}

function pointsOf(seen) {
  const heads = state.head > 0 ? [Math.min(state.head, seen.xy.length) - 1] : seen.xy.map((_, head) => head);
  weightsOf(seen);
  return heads.flatMap((head) => seen.xy[head].map(([x, y], place) => ({
    x, y, head, weight: seen.decoded[head][place], level: seen.point_levels ? seen.point_levels[place] : 0,
  })));
}

function drawPoints(seen, picture) {
  const unit = Math.max(picture.width, picture.height), found = pointsOf(seen).sort((one, other) => other.weight - one.weight);
  const largest = Math.max(1e-9, ...found.map((point) => point.weight));
  pen.globalAlpha = Number(part("strength").value);
  for (const { x, y, weight, level } of found) {
    if (weight / largest < 0.01) continue;
    mark(x, y, unit * 0.014 * Math.sqrt(weight / largest), shapes[level % shapes.length], colors[level % colors.length]);
  }
  pen.globalAlpha = 1;
}

function drawBox([left, top, right, bottom], color, dashes) {
  const scale = pen.getTransform().a;  // lines are as wide in a photo that was made smaller
  const strokes = [[0.008, "#ffffff"], [0.005, color]];
  for (const [width, style] of dashes.length ? strokes.slice(1) : strokes) {
    pen.setLineDash(dashes.map((length) => length * (devicePixelRatio || 1) / scale));
    pen.lineWidth = Math.max(1.5, width * Math.max(canvas.width, canvas.height) / 2) / scale;
    pen.strokeStyle = style;
    pen.strokeRect(left, top, right - left, bottom - top);
  }
  pen.setLineDash([]);
}

// What the layer said; where the encoder is looked into, what the model said in the end.
function predictionOf(subject, look) {
  const last = subject.predictions.length - 1;
  return subject.predictions[subject.looked_in === "decoder" && look ? Math.min(look.layer, last) : last];
}

function drawMarks(subject, look, picture) {
  const unit = Math.max(picture.width, picture.height);
  const prediction = predictionOf(subject, look);
  if (prediction) drawBox(prediction.box, colors[5], []);  // first, since dashes on a line can be seen, and what is below it cannot
  if (subject.start && subject.start.box) drawBox(subject.start.box, colors[4], [4, 4]);
  if (subject.start && subject.start.cell) {  // as large as the cells of its level are
    const [left, top, right, bottom] = subject.start.cell;
    pen.fillStyle = `${colors[4]}66`;
    pen.fillRect(left, top, right - left, bottom - top);
  }
  if (subject.start) mark(...subject.start.xy, unit * 0.008, "diamond", colors[4]);
  if (subject.xy) mark(...subject.xy, unit * 0.01, "diamond", colors[3]);
  if (subject.object) drawBox(subject.object, colors[2], [10, 4, 2, 4]);
  if (!prediction) return;
  if (prediction.reference && prediction.reference.length === 4) drawBox(prediction.reference, colors[3], [8, 5]);
  if (prediction.reference && prediction.reference.length === 2) mark(...prediction.reference, unit * 0.008, "circle", colors[3]);
  if (look && look.salient) {
    const heads = state.head > 0 ? [look.salient[Math.min(state.head, look.salient.length) - 1]] : look.salient;
    for (const [x, y] of heads) mark(x, y, unit * 0.007, "square", colors[2]);
  }
}

function together(look) {
  return look.heads.length === 1 ? `head ${look.heads[0]}` : `heads ${look.heads.join(", ")} together`;
}

function sentenceOf(subject, look) {
  if (!look) return `${subject.said || subject.name}.`;
  const where = `${subject.looked_in} layer ${look.layer}`, who = state.head > 0 ? `head ${look.heads[state.head - 1]}` : together(look);
  const prediction = predictionOf(subject, look);
  const said = prediction && subject.looked_in === "decoder" ? ` After it: ${prediction.label} ${prediction.score.toFixed(2)}.` : "";
  return `${subject.said ? `${subject.said}. Shown is` : `${subject.name}:`} where ${who} looked in ${where}.${said}`;
}

function keyOf(subject, look) {
  const entries = [];
  const prediction = subject.predictions[0];
  if (prediction) entries.push([colors[5], subject.looked_in === "decoder" ? "box after this layer" : "box"]);
  if (subject.predictions.some((each) => each.reference)) entries.push([colors[3], "reference of this layer"]);
  if (subject.xy) entries.push([colors[3], "the token"]);
  if (subject.object) entries.push([colors[2], "the annotated object"]);
  if (subject.start) entries.push([colors[4], subject.start.level === null ? "where it started" : `where it started, a token of level ${subject.start.level}`]);
  if (look && look.salient) entries.push([colors[2], "salient points"]);
  const seen = look && shownOf(look);
  if (seen && seen.sizes) entries.push([colors[1], state.kind === 1 ? "where the Gaussian is high" : "cells with much weight"]);
  if (seen && seen.xy) {
    const levels = seen.point_levels ? [...new Set(seen.point_levels)].sort() : [0];
    for (const level of levels) entries.push([colors[level % colors.length], seen.point_levels ? `level ${level} (${shapes[level % shapes.length]})` : "other tokens"]);
  }
  return entries;
}

function fill(select, names, value) {
  select.replaceChildren(...names.map((name, place) => new Option(name, place)));
  select.value = Math.min(value, names.length - 1);
  return Number(select.value);
}

function refresh() {
  const picture = data.pictures[state.picture];
  state.subject = fill(part("subject"), picture.subjects.map((each) => each.name), state.subject);
  const subject = picture.subjects[state.subject] || nothing;
  state.layer = fill(part("layer"), subject.looks.map((each) => `${subject.looked_in} ${each.layer}`), state.layer);
  const look = subject.looks[state.layer];
  state.head = fill(part("head"), look ? ["all together", ...look.heads.map(String)] : ["-"], state.head);
  part("second").hidden = !(look && look.gaussian);
  state.kind = fill(part("kind"), ["attention", "Gaussian"], part("second").hidden ? 0 : state.kind);
  part("sentence").textContent = sentenceOf(subject, look);
  part("key").replaceChildren(...keyOf(subject, look).map(([color, words]) => {
    const entry = document.createElement("li"), patch = document.createElement("span");
    patch.style.background = color;
    entry.append(patch, words);
    return entry;
  }));
  fillTable(subject, look);
  draw();
}

function fillTable(subject, look) {
  const rows = subject.predictions.map((each, layer) => {
    const row = document.createElement("tr");
    const overlap = subject.object ? [each.iou.toFixed(2)] : [], box = each.box.map((side) => side.toFixed(0)).join(", ");
    const texts = [subject.looked_in === "decoder" ? layer : "last", each.label, each.score.toFixed(3), ...overlap, box];
    for (const text of texts) row.insertCell().textContent = text;
    if (subject.looked_in === "decoder" && each === predictionOf(subject, look)) row.className = "chosen";
    row.onclick = () => {
      if (subject.looked_in !== "decoder") return;
      const place = subject.looks.findIndex((one) => one.layer === layer);
      if (place >= 0) { state.layer = place; refresh(); }
    };
    return row;
  });
  part("layers").tBodies[0].replaceChildren(...rows);
  part("layers").hidden = rows.length === 0;
  part("overlap").hidden = !subject.object;
}

// The most that the style lets the canvas be high.
function tallest() {
  return 0.85 * innerHeight;
}

function draw() {
  const { picture, subject, look } = chosen();
  let photo = photos.get(picture);
  if (!photo) {
    photo = new Image();
    photo.onload = draw;
    photo.src = picture.photo;
    photos.set(picture, photo);
  }
  // Places are in pixels of the original; the canvas has those of the screen, so that marks on small photos are sharp.
  const width = Math.max(1, Math.round(Math.min(canvas.clientWidth, tallest() * picture.width / picture.height) * (devicePixelRatio || 1)));
  const height = Math.max(1, Math.round(width * picture.height / picture.width)), scale = width / picture.width;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.filter = "saturate(0.35)";
  if (photo.complete && photo.naturalWidth) pen.drawImage(photo, 0, 0, canvas.width, canvas.height);
  pen.filter = "none";
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  const seen = look && shownOf(look);
  if (seen && seen.sizes) drawMaps(seen, picture);
  else if (seen) drawPoints(seen, picture);
  drawMarks(subject, look, picture);
}

function wordsAt(x, y) {
  const { picture, look } = chosen(), seen = look && shownOf(look);
  const place = `x ${x.toFixed(0)}, y ${y.toFixed(0)}`;
  if (!seen) return place;
  if (seen.sizes) {
    const found = levelsOf(seen, weightsOf(seen)).map(({ level, height, width, weights }) => {
      const column = Math.min(width - 1, Math.floor(x / picture.width * width)), row = Math.min(height - 1, Math.floor(y / picture.height * height));
      return `level ${level}, row ${row}, column ${column}: ${(100 * weights[row * width + column]).toFixed(1)} %`;
    });
    return `${place}. ${found.join("; ")}`;
  }
  const nearest = pointsOf(seen).map((point) => ({ ...point, far: Math.hypot(point.x - x, point.y - y) })).sort((one, other) => one.far - other.far)[0];
  if (!nearest) return place;
  return `${place}. Nearest point: x ${nearest.x.toFixed(0)}, y ${nearest.y.toFixed(0)}, head ${look.heads[nearest.head]}`
    + `${seen.point_levels ? `, level ${nearest.level}` : ""}, weight ${(100 * nearest.weight).toFixed(1)} %`;
}

function readValues(event) {
  const around = canvas.getBoundingClientRect(), picture = data.pictures[state.picture];
  // The picture fills the element's width or, on low screens, its height, from the left top corner.
  const scale = Math.min(around.width / canvas.width, around.height / canvas.height) * canvas.width / picture.width;
  const x = (event.clientX - around.left) / scale, y = (event.clientY - around.top) / scale;
  if (x >= 0 && y >= 0 && x < picture.width && y < picture.height) part("hover").textContent = wordsAt(x, y);
}

canvas.addEventListener("pointermove", readValues);
canvas.addEventListener("pointerdown", readValues);  // a finger that touches and does not move
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowUp: ["layer", -1], ArrowDown: ["layer", 1], ArrowLeft: ["head", -1], ArrowRight: ["head", 1] }[event.key];
  if (!steps) return;
  event.preventDefault();
  state[steps[0]] = Math.max(0, state[steps[0]] + steps[1]);
  refresh();
});
for (const name of ["picture", "subject", "layer", "head", "kind"]) {
  part(name).addEventListener("change", (event) => { state[name] = Number(event.target.value); refresh(); });
}
part("strength").addEventListener("input", draw);
addEventListener("resize", draw);
fill(part("picture"), data.pictures.map((each) => each.name), 0);
part("picture").closest("label").hidden = data.pictures.length === 1;
part("only").textContent = data.pictures.length === 1 ? data.pictures[0].name : "";
refresh();
