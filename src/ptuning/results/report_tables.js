// Tables that are sorted by a click on the head of a column, or by Enter or Space on it; a second one turns the order.
"use strict";
(() => {
  const order = new Intl.Collator("en", { numeric: true });
  // "−1.2 ± 0.4" is -1.2, whatever mark is behind it, "1,024 seeds" 1024, "<0.001" 0.001; other texts are no numbers.
  const number = (text) => {
    const found = /^[<≤≈+]?\s*([-−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)/i.exec(text);
    return found ? Number(found[1].replace("−", "-").replaceAll(",", "")) : NaN;
  };
  const sort = (head, column) => {
    const down = head.ariaSort === "ascending";
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => {
      const text = row.cells[column].textContent.trim();
      const value = head.classList.contains("text") ? text : number(text);
      return { row, value, missing: /^–/.test(text) || text === "" || Number.isNaN(value) };
    });
    rows.sort((a, b) => {
      if (a.missing || b.missing) return a.missing - b.missing; // last in both orders
      const way = typeof a.value === "number" ? a.value - b.value : order.compare(a.value, b.value);
      return down ? -way : way;
    });
    body.append(...rows.map(({ row }) => row));
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.ariaSort = down ? "descending" : "ascending";
  };
  for (const row of document.querySelectorAll("thead tr")) {
    [...row.cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(head, column));
      head.append(button);
    });
  }
})();
