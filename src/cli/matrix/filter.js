"use strict";
const filters = document.querySelector(".filters");
const inputs = [...filters.querySelectorAll("input")];
const rows = [...document.querySelectorAll("tbody tr[data-service]")];
const count = document.querySelector("#shown");
function apply() {
  let shown = 0;
  for (const row of rows) {
    const fits = inputs.every((input) => {
      const wanted = input.value.trim().toLowerCase();
      return row.dataset[input.name].toLowerCase().includes(wanted);
    });
    row.hidden = !fits;
    shown += fits ? 1 : 0;
  }
  count.textContent = shown + " of " + rows.length + " rows";
}
filters.hidden = false;
filters.addEventListener("input", apply);
apply();
