"use strict";
const tooltip = document.getElementById("tooltip");

function showTooltip(mark) {
  const { label, x, value } = mark.dataset;
  tooltip.textContent = [label, x, value].filter(Boolean).join("\n");
  tooltip.hidden = false;
  const at = mark.getBoundingClientRect();
  const own = tooltip.getBoundingClientRect();
  const left = Math.min(Math.max(4, at.left + at.width / 2 - own.width / 2), innerWidth - own.width - 4);
  const above = at.top - own.height - 8;
  tooltip.style.left = left + "px";
  tooltip.style.top = (above > 4 ? above : at.bottom + 8) + "px";
}

document.addEventListener("pointerover", event => {
  const mark = event.target.closest("[data-label]");
  if (mark) showTooltip(mark); else tooltip.hidden = true;
});
document.addEventListener("keydown", event => { if (event.key === "Escape") tooltip.hidden = true; });
document.addEventListener("scroll", () => { tooltip.hidden = true; }, { passive: true });

// Arrow keys move through the points of a figure, from left to right within a curve.
for (const plot of document.querySelectorAll(".plot .panels")) {
  const marks = [...plot.querySelectorAll(".marks circle")];
  let current = -1;
  const leave = () => { marks[current]?.classList.remove("current"); tooltip.hidden = true; };
  plot.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !marks.length) return;
    event.preventDefault();
    leave();
    current = (current + step + marks.length) % marks.length;
    marks[current].classList.add("current");
    showTooltip(marks[current]);
  });
  plot.addEventListener("blur", leave);
}

// A click on a column name sorts by that column, best first; a second click reverses the order. The first column restores it.
function sortTable(table, button, turn) {
  const column = Number(button.dataset.column);
  const head = button.closest("th");
  const by = table.closest("figure")?.querySelector(".sort-by")?.value ?? "ours";
  const ascending = turn ? head.getAttribute("aria-sort") === "descending" : head.getAttribute("aria-sort") === "ascending";
  const key = row => {
    if (column === 0) return -Number(row.dataset.index);
    const number = row.children[column].querySelector("data." + by);
    return number ? Number(number.dataset.value) : null;
  };
  const rows = [...table.tBodies[0].rows].map(row => [key(row), row]);
  // Rows without a number stay last in both orders.
  rows.sort(([a], [b]) => (a === null) - (b === null) || (ascending ? a - b : b - a));
  table.tBodies[0].append(...rows.map(([, row]) => row));
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
}
for (const table of document.querySelectorAll("table.sortable")) {
  for (const button of table.querySelectorAll("button")) {
    button.addEventListener("click", () => sortTable(table, button, true));
  }
  table.closest("figure")?.querySelector(".sort-by")?.addEventListener("change", () => {
    const button = table.querySelector("th[aria-sort] button");
    if (button && button.dataset.column !== "0") sortTable(table, button, false);
  });
}

// A photograph that does not load uncovers the drawing below it.
for (const photograph of document.querySelectorAll("img.linked")) {
  photograph.addEventListener("error", () => photograph.remove());
  if (photograph.complete && photograph.currentSrc && photograph.naturalWidth === 0) photograph.remove();
}

const rounded = new Map();
document.getElementById("exact").addEventListener("change", event => {
  for (const number of document.querySelectorAll("table data[data-value]")) {
    if (!rounded.has(number)) rounded.set(number, number.textContent);
    number.textContent = event.target.checked ? number.dataset.value : rounded.get(number);
  }
});
