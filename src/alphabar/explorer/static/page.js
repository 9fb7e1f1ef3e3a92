// The tabs, the language, and the buttons that copy.

import { currentLanguage, fill, find, onLanguage, options, setLanguage, tell, text } from "/static/common.js";
import * as forward from "/static/forward.js";
import * as schedules from "/static/schedules.js";
import * as reverse from "/static/reverse.js";
import * as plane from "/static/plane.js";
import * as samplers from "/static/samplers.js";

const modules = { forward, schedules, reverse, plane, samplers };
const tabs = [...document.querySelectorAll("[role=tab]")];

function choose(tab, focus = true) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", String(chosen));
    each.tabIndex = chosen ? 0 : -1;
    find(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
  tell("");
  const name = tab.getAttribute("aria-controls");
  history.replaceState(null, "", `#${name}`);
  modules[name].refresh();
}

const KEYS = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
for (const tab of tabs) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const move = KEYS[event.key];
    if (move === undefined) return;
    event.preventDefault();
    const next = tabs.indexOf(tab) + move;
    const place = Number.isFinite(move) ? (next + tabs.length) % tabs.length : move < 0 ? 0 : tabs.length - 1;
    choose(tabs[place]);
  });
}

for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());

for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", async () => {
    const source = find(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch { // not allowed: then it is at least selected
      getSelection().selectAllChildren(source);
      return;
    }
    button.textContent = text("copied");
  });
}

const language = find("language");
fill(language, Object.keys(options.languages), (key) => options.languages[key]);
language.value = currentLanguage();
language.addEventListener("input", () => {
  history.replaceState(null, "", `?lang=${language.value}${location.hash}`); // so that a reload keeps it
  setLanguage(language.value);
});
for (const module of Object.values(modules)) module.begin();
onLanguage(() => Object.values(modules).forEach((module) => module.refresh()));
setLanguage(currentLanguage());
choose(tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? tabs[0], false);
document.body.dataset.ready = "yes";
