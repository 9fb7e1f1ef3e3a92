// Two dimensions: data, score field, particles, and the reverse density at a chosen point.

import { ask, asker, drawn, fill, find, format, number, onLanguage, options, samplerControls, samplerOf, shown, showOutputs, tell, text } from "/static/common.js";

let points = [], flow = null, playing = 0;
const isDrawing = () => find("p-data").value === "drawn";
const over = () => find("p-plane").querySelector(".over");

const data = () => ({ data: find("p-data").value, points: isDrawing() ? points : [], width: number("p-width"), schedule: find("p-schedule").value });

function settings() {
  showOutputs("plane");
  find("p-frame").parentElement.querySelector("output").value = flow ? place() : "";
  find("p-hint").textContent = text(isDrawing() ? "draw_hint" : "point_hint");
  find("p-drawing").hidden = !isDrawing();
  find("p-plane").classList.toggle("drawing", isDrawing());
  if (isDrawing() && !points.length) { paint(); return null; }
  return { ...data(), t: number("p-t"), back: number("p-back"), x: number("p-x"), y: number("p-y") };
}

function show(answer) {
  find("p-plane").querySelector(".under").innerHTML = answer.field;
  find("p-reverse").innerHTML = answer.reverse;
  find("p-reverse-told").textContent = answer.told;
  find("p-back").parentElement.querySelector("output").value = `s = ${answer.s}`;
  paint();
}

const place = () => { const t = flow.ts[Number(find("p-frame").value)]; return t < 0 ? text("done") : `t = ${shown(t)}`; };

function tellEnd() {
  find("p-told").textContent = flow
    ? format("flow_done", { count: flow.frames[0].length, evaluations: flow.frames.length - 1, distance: shown(flow.distance, 3) }) : "";
}

function axes() {
  const [left, top, right, bottom] = find("p-plane").querySelector("svg.plot").dataset.box.split(" ").map(Number);
  const reach = options.reach, scale = (right - left) / (2 * reach), rise = (bottom - top) / (2 * reach);
  return {
    to: ([x, y]) => [left + (x + reach) * scale, bottom - (y + reach) * rise],
    from: ([x, y]) => [(x - left) / scale - reach, (bottom - y) / rise - reach],
  };
}

function paint() {
  const plot = find("p-plane").querySelector("svg.plot");
  if (!plot) return;
  over().setAttribute("viewBox", plot.getAttribute("viewBox"));
  const { to } = axes(), dot = (point, name, r) => { const [cx, cy] = to(point); return drawn("circle", { class: name, cx, cy, r }); };
  const frame = flow ? flow.frames[Number(find("p-frame").value)] : [];
  const inside = (point) => point.every((value) => Math.abs(value) <= options.reach);
  over().replaceChildren(
    ...(isDrawing() ? points.map((point) => dot(point, "drawn", 4)) : []),
    ...frame.filter(inside).map((point) => dot(point, "particle", 3)),
  );
}

export const refresh = asker("field", settings, show, "plane");

// The arrows are those at the level of the frame that is shown.
function turn() {
  const t = flow.ts[Number(find("p-frame").value)];
  find("p-t").value = Math.max(1, Math.round(t));
  paint();
  refresh();
}

function play() {
  cancelAnimationFrame(playing);
  const frame = find("p-frame"), began = performance.now(), last = flow.frames.length - 1;
  const length = Math.min(3000, 150 * last);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const move = (now) => {
    const share = still ? 1 : Math.min(1, (now - began) / length);
    const next = String(Math.round(share * last));
    if (next !== frame.value || share === 1) { frame.value = next; turn(); }
    if (share < 1) playing = requestAnimationFrame(move);
  };
  playing = requestAnimationFrame(move);
}

async function letFlow() {
  if (isDrawing() && !points.length) { tell(text("draw_first")); return; }
  find("p-flow").disabled = true;
  try {
    flow = await ask("flow", { ...data(), ...samplerOf("p-s"), count: Math.round(number("p-count")), seed: Math.round(number("p-seed")) });
    Object.assign(find("p-frame"), { max: flow.frames.length - 1, value: 0, disabled: false });
    tellEnd();
    tell("");
    play();
  } catch (wrong) {
    tell(wrong.message);
  }
  find("p-flow").disabled = false;
}

function forget() {
  cancelAnimationFrame(playing);
  flow = null;
  Object.assign(find("p-frame"), { max: 0, value: 0, disabled: true });
  tellEnd();
}

function add(point) {
  if (points.length < 300) points.push(point);
  forget();
}

function pointed(event) {
  const box = over().getBoundingClientRect(), view = over().viewBox.baseVal;
  const [x, y] = axes().from([((event.clientX - box.left) / box.width) * view.width, ((event.clientY - box.top) / box.height) * view.height]);
  if (Math.max(Math.abs(x), Math.abs(y)) > options.reach) return;
  const at = [Number(x.toFixed(2)), Number(y.toFixed(2))];
  if (isDrawing()) add(at); else [find("p-x").value, find("p-y").value] = at;
  refresh();
}

const relabel = () => fill(find("p-data"), [...options.presets, "drawn"], (name) => text(`data_${name}`));

export function begin() {
  fill(find("p-schedule"), options.families);
  find("p-schedule").value = "cosine";
  for (const at of find("plane").querySelectorAll("[data-prefix]")) samplerControls(at);
  onLanguage(() => { relabel(); tellEnd(); });
  let down = false;
  over().addEventListener("pointerdown", (event) => { down = true; over().setPointerCapture(event.pointerId); pointed(event); });
  over().addEventListener("pointermove", (event) => down && pointed(event));
  over().addEventListener("pointerup", () => { down = false; });
  find("p-frame").addEventListener("input", () => { cancelAnimationFrame(playing); turn(); });
  find("p-flow").addEventListener("click", letFlow);
  find("p-add").addEventListener("click", () => { add([number("p-x"), number("p-y")]); refresh(); });
  find("p-clear").addEventListener("click", () => { points = []; forget(); refresh(); });
  for (const id of ["p-data", "p-width", "p-schedule"]) find(id).addEventListener("input", forget);
  for (const id of ["p-data", "p-width", "p-schedule", "p-t", "p-back", "p-x", "p-y"]) find(id).addEventListener("input", refresh);
}
