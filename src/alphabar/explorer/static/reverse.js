// Reverse: train where there is no network yet, sample with two samplers from the same noise, look at each state.

import { ask, element, fill, find, format, number, onLanguage, post, samplerControls, samplerOf, shown, tell, text } from "/static/common.js";

let run = null, watching = null;
let states = [[], []], names = ["", ""];

function describe() {
  if (!run) return;
  const said = {
    none: text("run_none"),
    training: format("run_training", { loss: run.loss === null ? "…" : run.loss.toFixed(3) }),
    ready: run.state === "ready" && format("run_ready", {
      parameters: run.parameters.toLocaleString("en"), shape: run.shape.join("×"), steps: run.steps,
    }),
    failed: `${text("run_failed")} ${run.trouble}`,
  };
  find("r-state").textContent = said[run.state];
  find("reverse").dataset.run = run.state;
  find("r-progress").hidden = run.state !== "training";
  find("r-progress").value = run.share;
  find("r-train").hidden = !["none", "failed"].includes(run.state);
  find("r-sample").disabled = run.state !== "ready";
  find("r-guidance").disabled = !run.guided;
  const classes = ["", ...(run.classes ?? [])];
  fill(find("r-label"), classes, (name) => name || text(classes.length > 1 ? "all_classes" : "no_classes"));
}

async function look() {
  clearTimeout(watching);
  try {
    run = await (await fetch("/api/run")).json();
  } catch {
    tell(text("no_server"));
    return;
  }
  describe();
  if (run.state === "training") watching = setTimeout(look, 400);
}

function show() {
  const place = Number(find("r-step").value), longer = states[1].length > states[0].length ? states[1] : states[0];
  find("reverse").querySelector("output").value = longer.length ? `${longer[place].step} / ${longer.at(-1).step}` : "";
  find("r-sides").replaceChildren(...(longer.length ? states : []).map((side, i) => {
    // The slider goes through the longer chain; the other one keeps pace with it.
    const state = side[Math.round((place / Math.max(1, longer.length - 1)) * (side.length - 1))];
    const where = state && (state.t < 0 ? text("done") : `t = ${shown(state.t)}`);
    const figures = !state ? [] : ["x_t", "x_0"].map((name) => element("figure", {},
      element("img", { src: state[name], alt: format(`state_${name}_alt`, { step: state.step, where, spread: shown(state[`${name}_spread`], 3) }) }),
      element("figcaption", {}, `${name === "x_t" ? "x_t" : "x̂_0"} · ${where}`)));
    return element("div", { class: "side" }, element("h2", {}, names[i]), ...figures);
  }));
}

// The answer comes line by line, a state a line.
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

async function sample() {
  const samplers = ["r-0", "r-1"].map(samplerOf);
  names = samplers.map((each) => `${each.sampler}${each.eta ? `, η = ${each.eta}` : ""}, ${each.evaluations}`);
  states = [[], []];
  find("r-sample").disabled = true;
  find("reverse").setAttribute("aria-busy", "true");
  tell("");
  try {
    const response = await post("sample", {
      samplers, label: find("r-label").value, guidance: find("r-guidance").disabled ? 1 : number("r-guidance"),
      seed: Math.round(number("r-seed")), num: Math.round(number("r-num")),
    });
    for await (const state of lines(response)) {
      if (state.error) throw new Error(state.error);
      states[state.side].push(state);
      const last = Math.max(...states.map((side) => side.length)) - 1;
      Object.assign(find("r-step"), { max: last, value: last, disabled: false });
      show();
    }
    find("reverse").dataset.sampled = String(Number(find("reverse").dataset.sampled ?? 0) + 1);
  } catch (wrong) {
    tell(wrong instanceof TypeError ? text("no_answer") : wrong.message); // a TypeError is what a broken stream throws
  }
  find("r-sample").disabled = run?.state !== "ready";
  find("reverse").setAttribute("aria-busy", "false");
}

export async function refresh() {
  if (!find("reverse").hidden) await look();
}

export function begin() {
  for (const place of find("reverse").querySelectorAll("[data-prefix]")) samplerControls(place);
  onLanguage(() => { describe(); show(); });
  find("r-step").addEventListener("input", show);
  find("r-sample").addEventListener("click", sample);
  find("r-train").addEventListener("click", async () => {
    try { await ask("train", {}); } catch (wrong) { tell(wrong.message); }
    look();
  });
}
