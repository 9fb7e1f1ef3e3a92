// What the tabs share: questions to the server, texts, and the controls of a sampler.

export const options = await (await fetch("/api/options")).json();
export const find = (id) => document.getElementById(id);
const wanted = new URLSearchParams(location.search).get("lang");
let language = wanted in options.languages ? wanted : options.language;

export const currentLanguage = () => language;
export const text = (key) => options.texts[language][key] ?? key;
export const format = (key, values) => text(key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
// As the server writes numbers: so many digits, a real minus.
export const shown = (value, digits = 4) => String(Number(value.toPrecision(digits))).replace("-", "−");
const listeners = [];
export const onLanguage = (listener) => listeners.push(listener);

export function setLanguage(chosen) {
  language = chosen;
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : chosen;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", text(element.dataset.label));
  for (const listener of listeners) listener();
}

export function tell(trouble) {
  find("trouble").hidden = !trouble;
  find("trouble").textContent = trouble ? `${text("trouble")} ${trouble}` : "";
}

// Every failure is an error whose message is a sentence of the reader's language.
export async function post(question, body) {
  const raw = body instanceof Blob;
  let response;
  try {
    response = await fetch(`/api/${question}?lang=${language}`, {
      method: "POST",
      headers: { "X-Alphabar": "1", "Content-Type": raw ? "application/octet-stream" : "application/json" },
      body: raw ? body : JSON.stringify(body),
    });
  } catch {
    throw new Error(text("no_server"));
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new Error(answer.error ?? text("no_answer"));
}

export const ask = async (question, body) => (await post(question, body)).json();

// A function that asks with the latest settings: one question under way, at most one waiting.
export function asker(question, settings, show, panel) {
  let underWay = false, again = false;
  return async function refresh() {
    if (find(panel).hidden) return;
    if (underWay) { again = true; return; }
    underWay = true;
    find(panel).setAttribute("aria-busy", "true");
    try {
      const asked = settings();
      if (asked) { show(await ask(question, asked)); tell(""); }
    } catch (wrong) {
      tell(wrong.message);
    }
    underWay = false;
    if (again) { again = false; await refresh(); return; }
    find(panel).setAttribute("aria-busy", "false");
  };
}

export function number(id) {
  const input = find(id);
  const value = input.value === "" ? NaN : Number(input.value);
  const whole = Number.isNaN(value) ? Number(input.defaultValue) : value;
  return Math.min(Number(input.max), Math.max(Number(input.min), whole));
}

export function fill(select, values, label = (value) => value) {
  const kept = select.value;
  select.replaceChildren(...values.map((value) => new Option(label(value), value)));
  if (values.includes(kept)) select.value = kept;
}

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";
export function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Fills every .sampler[data-prefix] with a sampler, its evaluations, η, and where asked its spacing.
export function samplerControls(place, changed) {
  const prefix = place.dataset.prefix;
  const select = element("select", { id: `${prefix}-sampler` });
  fill(select, Object.keys(options.samplers));
  select.value = place.dataset.default ?? "ddim";
  const count = { type: "number", id: `${prefix}-evaluations`, min: 1, max: 1000, value: place.dataset.evaluations ?? 20 };
  const eta = element("input", { type: "number", id: `${prefix}-eta`, min: 0, max: 1, step: 0.1, value: 0 });
  const labelled = (key, control) => element("label", {}, element("span", { "data-text": key }), control);
  place.append(labelled("sampler", select), labelled("evaluations", element("input", count)), labelled("eta", eta));
  const spacing = element("select", { id: `${prefix}-spacing` });
  if (place.dataset.spacing) place.append(labelled("spacing", spacing));
  const relabel = () => fill(spacing, ["", ...options.spacings], (value) => value || text("as_suits"));
  const follow = () => {
    eta.disabled = select.value !== "ddim";
    spacing.disabled = !options.samplers[select.value].spaced;
  };
  onLanguage(relabel);
  select.addEventListener("input", follow);
  place.addEventListener("input", () => changed?.());
  relabel();
  follow();
}

export const samplerOf = (prefix) => ({
  sampler: find(`${prefix}-sampler`).value,
  evaluations: Math.round(number(`${prefix}-evaluations`)),
  eta: find(`${prefix}-eta`).disabled ? 0 : number(`${prefix}-eta`),
  spacing: find(`${prefix}-spacing`) && !find(`${prefix}-spacing`).disabled ? find(`${prefix}-spacing`).value : "",
});

export function showOutputs(panel) {
  for (const output of find(panel).querySelectorAll("output")) output.value = find(output.htmlFor.value).value;
}
