// Schedules: control points on the plot of β or log-SNR, by hand or by keys.

import { ask, asker, drawn, element, fill, find, number, options, tell, text } from "/static/common.js";

const QUANTITIES = ["beta", "signal", "noise", "log_snr"];
let points = null, low = 0, high = 1;
const kind = () => document.querySelector("[name=s-kind]:checked").value;
const steps = () => Math.round(number("s-steps"));

function settings() {
  return points && { kind: kind(), points, steps: steps() };
}

// The plot's own axes: where a value lies, and back.
function axis() {
  const plot = find("s-plots").children[QUANTITIES.indexOf(kind())].querySelector("svg.plot");
  const [left, top, right, bottom] = plot.dataset.box.split(" ").map(Number);
  const [, , first, last] = plot.dataset.ends.split(" ").map(Number);
  const scale = plot.dataset.log === "1" ? Math.log10 : (value) => value;
  const share = (value) => (scale(value) - scale(first)) / (scale(last) - scale(first));
  return {
    plot, left, right,
    down: (value) => bottom - share(value) * (bottom - top),
    value: (y) => {
      const at = scale(first) + ((bottom - y) / (bottom - top)) * (scale(last) - scale(first));
      return plot.dataset.log === "1" ? 10 ** at : at;
    },
  };
}

function moved(i, value) {
  points[i] = Number(Math.min(high, Math.max(low, value)).toPrecision(4));
  place();
  refresh();
}

function place() {
  const { left, right, down } = axis();
  [...document.querySelectorAll("#s-plots .handle")].forEach((handle, i) => {
    const t = Math.round((i / (points.length - 1)) * (steps() - 1));
    handle.setAttribute("cx", left + (i / (points.length - 1)) * (right - left));
    handle.setAttribute("cy", down(points[i]));
    handle.setAttribute("aria-label", `${kind() === "beta" ? "β" : "log-SNR"}, t = ${t}`);
    handle.setAttribute("aria-valuenow", points[i]);
    handle.setAttribute("aria-valuetext", String(points[i]));
  });
}

function handles(editor) {
  const over = drawn("svg", { class: "over", viewBox: editor.querySelector("svg").getAttribute("viewBox") });
  editor.append(over);
  points.forEach((_, i) => {
    const handle = drawn("circle", { class: "handle", r: 8, role: "slider", tabindex: 0, "aria-valuemin": low, "aria-valuemax": high, "aria-orientation": "vertical" });
    over.append(handle);
    handle.addEventListener("pointerdown", (event) => { handle.setPointerCapture(event.pointerId); handle.focus(); event.preventDefault(); });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = over.getBoundingClientRect();
      moved(i, axis().value(((event.clientY - box.top) / box.height) * over.viewBox.baseVal.height));
    });
    handle.addEventListener("keydown", (event) => {
      const move = { ArrowUp: 3, ArrowRight: 3, ArrowDown: -3, ArrowLeft: -3, PageUp: 20, PageDown: -20 }[event.key];
      const end = { Home: low, End: high }[event.key];
      if (move === undefined && end === undefined) return;
      event.preventDefault();
      const { down, value } = axis();
      moved(i, end ?? value(down(points[i]) - move));
    });
  });
}

function show(answer) {
  const plots = find("s-plots");
  if (plots.dataset.kind !== kind()) {
    plots.dataset.kind = kind();
    plots.replaceChildren(...QUANTITIES.map(() => element("div", { class: "editor" }, element("div", { class: "under" }))));
  }
  answer.plots.forEach((plot, i) => { plots.children[i].querySelector(".under").innerHTML = plot; });
  if (!plots.querySelector(".over")) {
    const editor = plots.children[QUANTITIES.indexOf(kind())];
    editor.classList.add("handles");
    handles(editor);
  }
  place();
  const said = answer.warnings.length ? answer.warnings : [text("no_warnings")];
  find("s-warnings").replaceChildren(...said.map((each) => element("li", {}, each)));
  find("s-warnings").classList.toggle("none", !answer.warnings.length);
  find("s-code").textContent = answer.code;
  find("s-config").textContent = answer.config;
}

export const draw = asker("schedule", settings, show, "schedules");

async function restart() {
  try {
    ({ points, low, high } = await ask("points", { family: find("s-family").value, kind: kind(), steps: steps() }));
  } catch (wrong) {
    tell(wrong.message);
    return;
  }
  find("s-plots").dataset.kind = "";
  await draw();
}

export async function refresh() {
  if (find("schedules").hidden) return;
  await (points ? draw() : restart());
}

export function begin() {
  fill(find("s-family"), options.families);
  find("schedules").querySelector("form").addEventListener("change", restart);
}
