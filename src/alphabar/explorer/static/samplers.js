// Samplers: the table of any two, and their exact errors.

import { asker, element, fill, find, options, samplerControls, samplerOf } from "/static/common.js";

const settings = () => ({ schedule: find("t-schedule").value, samplers: ["t-0", "t-1"].map(samplerOf) });

function show(answer) {
  find("t-plot").innerHTML = answer.plot;
  find("t-tables").replaceChildren(...answer.tables.map((table) => {
    const rows = table.rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
    if (table.left_out) rows.splice(rows.length / 2, 0, element("tr", {}, element("td", { colspan: table.head.length, class: "left-out" }, table.left_out)));
    return element("div", { class: "scroll", tabindex: 0 }, element("table", {},
      element("caption", {}, table.caption),
      element("thead", {}, element("tr", {}, ...table.head.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...rows)));
  }));
}

export const refresh = asker("table", settings, show, "samplers");

export function begin() {
  fill(find("t-schedule"), options.families);
  for (const place of find("samplers").querySelectorAll("[data-prefix]")) samplerControls(place);
  find("samplers").querySelector("form").addEventListener("input", refresh);
}
