"use strict";
// The table of every picture: sorted by its headers, filtered by codec and picture.
(() => {
  const {columns, rows} = JSON.parse(document.getElementById("data").textContent).rows;
  const table = document.getElementById("row-table");
  const codec = document.getElementById("row-codec");
  const image = document.getElementById("row-image");
  const count = document.getElementById("row-count");
  const order = new Intl.Collator("en", {numeric: true});
  const place = (key) => columns.findIndex((c) => c.key === key);
  let sorted = {column: null, sign: 1};

  function text(value, {decimals}) {
    if (value === null) return "–";
    if (value === "inf") return "∞";
    return typeof value === "number" ? value.toFixed(decimals) : value;
  }

  // What is not there comes last, whichever way the order goes.
  function compare(a, b) {
    const [x, y] = [a, b].map((row) => row[sorted.column] === "inf" ? Infinity : row[sorted.column]);
    if (x === null || y === null) return (x === null) - (y === null);
    const difference = typeof x === "string" ? order.compare(x, y) : x === y ? 0 : x < y ? -1 : 1;
    return sorted.sign * difference;
  }

  function fill() {
    const chosen = rows.filter((row) =>
      (!codec.value || row[place("codec")] === codec.value) && (!image.value || row[place("image")] === image.value));
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
    count.textContent = `${chosen.length} of ${rows.length} coded pictures`;
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
  for (const [choice, key] of [[codec, "codec"], [image, "image"]]) {
    const values = [...new Set(rows.map((row) => row[place(key)]))];
    choice.add(new Option("all", ""));
    for (const value of values) choice.add(new Option(value, value));
    choice.addEventListener("change", fill);
  }
  // All at once may be thousands of rows: the first codec is enough to begin with.
  codec.selectedIndex = Math.min(1, codec.length - 1);
  fill();
})();
