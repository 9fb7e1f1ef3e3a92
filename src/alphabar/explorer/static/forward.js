// Forward: a picture, t, schedules side by side.

import { ask, asker, element, fill, find, format, number, onLanguage, options, showOutputs, tell, text } from "/static/common.js";

const MOST = 3;
let upload = null, images = [];

const chosen = () => [...find("f-schedules").querySelectorAll("input:checked")].map((box) => ({ name: box.value }));

function settings() {
  showOutputs("forward");
  if (!chosen().length) { tell(text("choose_a_schedule")); return null; }
  const asked = {
    picture: find("f-picture").value,
    schedules: chosen(),
    t: number("f-t"),
    seed: Math.round(number("f-seed")),
    way: document.querySelector("[name=f-way]:checked").value,
  };
  images = asked.schedules.map((one) => picture({ ...asked, schedules: [one] }));
  return asked;
}

// Asked for at once, so that it is there when the numbers are.
const picture = (asked) => element("img", { src: `/api/noised?asked=${encodeURIComponent(JSON.stringify(asked))}` });

function show(answer) {
  find("f-panes").replaceChildren(...answer.panes.map((pane, i) => {
    images[i].alt = pane.alt;
    const facts = `√ᾱ = ${pane.signal}, √(1−ᾱ) = ${pane.noise}, SNR = ${pane.snr}`;
    return element("figure", {}, images[i],
      element("figcaption", {}, element("strong", {}, pane.name), element("br"), facts));
  }));
  find("f-thinned").textContent = answer.thinned;
  const head = ["", "mean", "mean_predicted", "variance", "variance_predicted"];
  const table = find("f-moments");
  table.replaceChildren(
    element("caption", {}, text("moments")),
    element("thead", {}, element("tr", {}, ...head.map((key) => element("th", { scope: "col" }, key && text(`moment_${key}`))))),
    element("tbody", {}, ...answer.panes.map((pane) => element("tr", {},
      element("th", { scope: "row" }, pane.name), ...pane.moments.map((value) => element("td", {}, value))))),
  );
  find("f-histogram").innerHTML = answer.histogram;
  find("f-curves").innerHTML = answer.curves.join("");
}

export const refresh = asker("forward", settings, show, "forward");

async function send() {
  const [file] = find("f-file").files;
  if (!file) return;
  try {
    if (file.size > options.largest_upload) throw new Error(format("upload_bytes", { most: options.largest_upload / 2 ** 20 }));
    upload = (await ask("picture", file)).picture;
  } catch (wrong) {
    tell(wrong.message);
    return;
  }
  relabel();
  find("f-picture").value = upload;
  refresh();
}

const relabel = () => fill(find("f-picture"), [...options.pictures, ...(upload ? [upload] : [])],
  (name) => text(name.startsWith("upload-") ? "picture_upload" : `picture_${name}`));

export function begin() {
  for (const name of options.families) {
    const box = element("input", { type: "checkbox", value: name });
    box.checked = name === "linear" || name === "cosine";
    find("f-schedules").append(element("label", {}, box, element("span", {}, name)));
  }
  find("f-schedules").addEventListener("change", (event) => {
    if (chosen().length > MOST) { event.target.checked = false; tell(text("three_schedules")); }
  });
  onLanguage(relabel);
  find("f-file").addEventListener("change", send);
  find("forward").addEventListener("input", (event) => event.target.id !== "f-file" && refresh());
}
