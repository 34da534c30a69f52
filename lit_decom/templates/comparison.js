"use strict";
// The table shows the images that are chosen, and is sorted by the column whose heading is pressed, the best first.
(() => {
  const table = document.getElementById("standings");
  const body = table.tBodies[0];
  const stratum = document.getElementById("stratum");
  const show = () => { for (const row of body.rows) row.hidden = row.dataset.stratum !== stratum.value; };
  const text = (row) => row.cells[0].textContent;
  const number = (row, column) => parseFloat(row.cells[column].dataset.value);
  const compare = (column, sign) => (one, other) => {
    if (column === 0) return sign * text(one).localeCompare(text(other));
    const [first, second] = [number(one, column), number(other, column)];
    if (Number.isNaN(first) || Number.isNaN(second)) return Number.isNaN(first) - Number.isNaN(second);
    return sign * (second - first);
  };
  for (const head of table.tHead.rows[0].cells) {
    if (head.dataset.sign === undefined && head.cellIndex > 0) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const best = Number(head.dataset.sign ?? 1);
      const sign = head.dataset.sorted === String(best) ? -best : best;
      for (const each of table.tHead.rows[0].cells) { each.removeAttribute("aria-sort"); delete each.dataset.sorted; }
      head.dataset.sorted = sign;
      const ascending = head.cellIndex === 0 ? sign > 0 : sign < 0;
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      body.append(...[...body.rows].sort(compare(head.cellIndex, sign)));
    });
  }
  document.getElementById("choice").hidden = false;
  stratum.addEventListener("change", show);
  show();
  document.documentElement.dataset.ready = "";
})();
