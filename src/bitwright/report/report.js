"use strict";
const plotOptions = {
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  toImageButtonOptions: { format: "svg" },
};
for (const source of document.querySelectorAll("script[data-figure]")) {
  const place = document.getElementById(source.dataset.figure);
  const { data, layout } = JSON.parse(source.textContent);
  // half plots narrow with the screen
  if (place?.classList.contains("half")) layout.width = Math.min(layout.width, place.clientWidth);
  if (place) Plotly.newPlot(place, data, layout, { ...plotOptions, toImageButtonOptions: { format: "svg", filename: place.id } });
}

// plots of silicon: the scheme under the pointer shows in all of them, a click keeps it and draws its array
const choice = document.getElementById("array-scheme");
const linked = [...document.querySelectorAll(".plot.half"), ...(choice ? [document.getElementById("bits-plot")] : [])];
const marks = (place, scheme) => place.data.flatMap((trace, curveNumber) =>
  (trace.customdata || []).flatMap((name, pointNumber) => (name === scheme && trace.x[pointNumber] !== null ? [{ curveNumber, pointNumber }] : [])));
const follow = (source, act) => linked.forEach((place) => { if (place !== source) act(place); });
const subplots = (place) => (place.layout.yaxis2 ? ["xy", "xy2"] : ["xy"]);
function choose(scheme) {
  for (const place of linked) {
    const traces = place.data.flatMap((trace, i) => (trace.customdata ? [i] : []));
    const chosen = traces.map((i) => (scheme ? place.data[i].customdata.flatMap((name, n) => (name === scheme ? [n] : [])) : null));
    Plotly.restyle(place, { selectedpoints: chosen }, traces);
  }
  for (const row of document.querySelectorAll("tr[data-scheme]")) row.classList.toggle("chosen", row.dataset.scheme === scheme);
}
function draw(scheme) {
  const option = [...(choice?.options || [])].find((entry) => entry.value === scheme);
  if (!option) return;
  choice.value = scheme;
  choice.parentElement.querySelector("output").textContent = option.dataset.line;
  document.querySelectorAll(".drawing").forEach((part, i) => { part.hidden = i !== Number(option.dataset.drawing); });
}
for (const place of linked) {
  place.on("plotly_hover", ({ points }) => follow(place, (other) => Plotly.Fx.hover(other, marks(other, points[0].customdata), subplots(other))));
  place.on("plotly_unhover", () => follow(place, (other) => Plotly.Fx.unhover(other)));
  place.on("plotly_click", ({ points }) => { choose(points[0].customdata); draw(points[0].customdata); });
  place.on("plotly_doubleclick", () => choose(null));
}
choice?.addEventListener("change", () => { choose(choice.value); draw(choice.value); });

// empty keys and failed rows stay at the end whichever way the column is sorted
const key = (row, column) => row.children[column]?.dataset.key || null;
const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.querySelectorAll("thead th[scope=col]")];
  const body = table.tBodies[0];
  headers.forEach((header, column) => header.firstElementChild.addEventListener("click", () => {
    const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    headers.forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    body.append(...[...body.rows].sort((p, q) => {
      const [a, b] = [key(p, column), key(q, column)];
      if (a === null || b === null) return (a === null) - (b === null);
      return direction * compare(a, b);
    }));
  }));
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
