"use strict";
// Tables of rows, to be sorted by any column and filtered by some.
for (const root of document.querySelectorAll(".rows-view")) {
  const {columns, rows, filters, noun} = JSON.parse(root.querySelector("script").textContent);
  const table = root.querySelector(".row-table");
  const count = root.querySelector(".row-count");
  const choices = new Map();  // index of a column: its select
  const order = new Intl.Collator("en", {numeric: true});
  let sorted = {column: null, sign: 1};

  function text(value, {decimals}) {
    if (value === null) return "–";
    if (decimals === null) return value;
    return value === "inf" ? "∞" : value.toFixed(decimals);
  }

  // Missing values come last, whichever way the order goes.
  function compare(a, b) {
    const isText = columns[sorted.column].decimals === null;
    const [x, y] = [a, b].map((row) => row[sorted.column]).map((v) => v === "inf" && !isText ? Infinity : v);
    if (x === null || y === null) return (x === null) - (y === null);
    const difference = isText ? order.compare(x, y) : x === y ? 0 : x < y ? -1 : 1;
    return sorted.sign * difference;
  }

  function fill() {
    const chosen = rows.filter((row) =>
      [...choices].every(([column, choice]) => !choice.value || row[column] === choice.value));
    if (sorted.column !== null) chosen.sort(compare);
    const body = document.createElement("tbody");
    for (const row of chosen) {
      const line = body.insertRow();
      columns.forEach((column, i) => {
        const cell = line.insertCell();
        cell.textContent = text(row[i], column);
        if (column.decimals !== null) cell.className = "number";
      });
    }
    table.tBodies[0]?.remove();
    table.append(body);
    count.textContent = `${chosen.length} of ${rows.length} ${noun}`;
  }

  function sort(column) {
    const header = table.tHead.rows[0].cells;
    sorted = {column, sign: sorted.column === column ? -sorted.sign : 1};
    for (const cell of header) cell.removeAttribute("aria-sort");
    header[column].setAttribute("aria-sort", sorted.sign > 0 ? "ascending" : "descending");
    fill();
  }

  const header = table.createTHead().insertRow();
  columns.forEach((column, i) => {
    const cell = document.createElement("th");
    const button = document.createElement("button");
    Object.assign(button, {type: "button", textContent: column.label});
    button.addEventListener("click", () => sort(i));
    cell.scope = "col";
    if (column.decimals !== null) cell.className = "number";
    cell.append(button);
    header.append(cell);
  });
  for (const key of filters) {
    const column = columns.findIndex((each) => each.key === key);
    const choice = document.createElement("select");
    const label = document.createElement("label");
    choice.dataset.column = key;
    choice.add(new Option("all", ""));
    for (const value of new Set(rows.map((row) => row[column]))) choice.add(new Option(value, value));
    choice.addEventListener("change", fill);
    label.append(`${columns[column].label} `, choice);
    count.before(label);
    choices.set(column, choice);
  }
  // All at once may be thousands of rows: the first value's are enough to begin with.
  const [first] = choices.values();
  if (first) first.selectedIndex = 1;
  fill();
}
