"use strict";
// Sorts a table by the column whose head was pressed: numbers as numbers, ties as they stood.
function compare(a, b) {
  const [x, y] = [Number(a), Number(b)];
  if (a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return a.localeCompare(b, "en", { numeric: true });
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.key.replace("-inf", "-Infinity");
    const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)) * (ascending ? 1 : -1));
    body.append(...rows);
  }));
}
// A table that is wider than its place becomes one card a row; its heads still sort.
function fit() {
  for (const region of document.querySelectorAll(".wide")) {
    region.classList.remove("cards");
    region.classList.toggle("cards", region.scrollWidth > region.clientWidth);
  }
}
addEventListener("resize", fit);
document.addEventListener("toggle", fit, true);
fit();
