"use strict";
// Reading needs no script: it sorts tables, chooses a class, and unfolds everything for paper.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, heading, column));
  });
}
function sort(table, heading, column) {
  const numbers = column > 0 && table.classList.contains("numbers");
  const before = heading.getAttribute("aria-sort");
  const falling = before ? before === "ascending" : numbers;
  for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const key = (row) => row.cells[column].dataset.order;
  const rows = [...table.tBodies[0].rows].sort((one, other) => {
    const first = key(one), second = key(other);
    // Rows without a number stay below, whichever way the others are sorted.
    if (first === "" || second === "") return (first === "") - (second === "");
    const difference = numbers ? first - second : first.localeCompare(second, undefined, { numeric: true });
    return falling ? -difference : difference;
  });
  table.tBodies[0].append(...rows);
}
for (const chooser of document.querySelectorAll(".chooser")) {
  const select = chooser.querySelector("select"), words = chooser.querySelector(".words");
  chooser.querySelector("label").hidden = false;
  chooser.classList.add("chosen");
  const choose = () => {
    for (const line of chooser.querySelectorAll("[id^='choice-']")) {
      line.classList.toggle("shown", line.id.startsWith("choice-" + select.value + "-"));
    }
    words.textContent = select.selectedOptions[0].dataset.words;
  };
  select.addEventListener("change", choose);
  choose();
}
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const part of folded) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of folded) part.open = false;
});
