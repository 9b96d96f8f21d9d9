"use strict";
const plotOptions = {
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  toImageButtonOptions: { format: "svg" },
};
for (const source of document.querySelectorAll("script[data-figure]")) {
  const place = document.getElementById(source.dataset.figure);
  const { data, layout } = JSON.parse(source.textContent);
  if (place) Plotly.newPlot(place, data, layout, { ...plotOptions, toImageButtonOptions: { format: "svg", filename: place.id } });
}

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
