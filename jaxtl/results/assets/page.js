"use strict";
// Filters and sorts the tables. The address holds the state of all tables after "#", so
// that a view can be shared: #filter=LoRA&method=full&sort=3&desc=1. Keys of other tables
// than the results start with the table's name: #settings.filter=LoRA.
(() => {
  document.documentElement.classList.add("js");
  const tables = [...document.querySelectorAll("[data-table]")].map(prepare);

  function parseNumber(text) {
    const plain = text.replace(/[,<]/g, "").replace(/\u2212/g, "-").trim();
    return /^[-+]?(\d|\.\d)/.test(plain) ? parseFloat(plain) : NaN;
  }

  function compareTexts(a, b) {
    const x = parseNumber(a), y = parseNumber(b);
    if (!isNaN(x) && !isNaN(y)) return x - y || a.localeCompare(b);
    return a.localeCompare(b, undefined, { numeric: true });
  }

  const isMissing = (text) => text === "" || text === "\u2013";

  function prepare(block) {
    const body = block.querySelector("tbody");
    const rows = [...body.rows].map((row) => ({
      row, cells: [...row.cells].map((cell) => cell.textContent.trim()),
    }));
    const heads = [...block.querySelectorAll("thead th")];
    const input = block.querySelector("input");
    const selects = [...block.querySelectorAll("select[data-column]")];
    const sorting = block.querySelector("select[data-sort]");
    const count = block.querySelector(".count");
    const prefix = block.dataset.table === "results" ? "" : block.dataset.table + ".";
    const state = { sort: null, desc: false };

    function apply() {
      const words = input ? input.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
      let shown = 0;
      for (const { row, cells } of rows) {
        const text = cells.join(" ").toLowerCase();
        const visible = words.every((word) => text.includes(word)) && selects.every(
          (s) => s.value === "" || cells[+s.dataset.column] === s.value.slice(1));
        row.hidden = !visible;
        shown += visible;
      }
      const number = (n) => n.toLocaleString("en-US");
      if (count) count.textContent = `${number(shown)} of ${number(rows.length)} lines shown`;
      const order = state.sort === null ? rows : [...rows].sort((a, b) => {
        const x = a.cells[state.sort], y = b.cells[state.sort];
        // Missing values come last in either direction.
        if (isMissing(x) !== isMissing(y)) return isMissing(x) - isMissing(y);
        return (state.desc ? -1 : 1) * compareTexts(x, y);
      });
      body.append(...order.map(({ row }) => row));
      if (sorting) sorting.value = state.sort === null ? "" : state.sort;
      heads.forEach((head, i) => head.setAttribute("aria-sort",
        i !== state.sort ? "none" : state.desc ? "descending" : "ascending"));
    }

    function read(address) {
      if (input) input.value = address.get(prefix + "filter") || "";
      for (const s of selects) {
        const value = address.get(prefix + s.name);
        const exists = [...s.options].some((o) => o.value === "=" + value);
        s.value = value !== null && exists ? "=" + value : "";
      }
      const sort = parseInt(address.get(prefix + "sort"), 10);
      state.sort = sort >= 0 && sort < heads.length ? sort : null;
      state.desc = address.get(prefix + "desc") === "1";
      apply();
    }

    function write(address) {
      if (input && input.value) address.set(prefix + "filter", input.value);
      for (const s of selects) if (s.value) address.set(prefix + s.name, s.value.slice(1));
      if (state.sort !== null) address.set(prefix + "sort", state.sort);
      if (state.desc) address.set(prefix + "desc", "1");
    }

    function changed() {
      apply();
      const address = new URLSearchParams();
      tables.forEach((table) => table.write(address));
      const hash = address.toString();
      history.replaceState(null, "", hash ? "#" + hash : location.pathname);
    }

    heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
      // Numbers are sorted from the largest first; a third click restores the order.
      const descendingFirst = !head.classList.contains("left");
      if (state.sort !== i) Object.assign(state, { sort: i, desc: descendingFirst });
      else if (state.desc === descendingFirst) state.desc = !descendingFirst;
      else Object.assign(state, { sort: null, desc: false });
      changed();
    }));
    for (const control of [input, ...selects]) {
      if (control) control.addEventListener("input", changed);
    }
    if (sorting) sorting.addEventListener("input", () => {
      const sort = sorting.value === "" ? null : +sorting.value;
      const desc = sort !== null && !heads[sort].classList.contains("left");
      Object.assign(state, { sort, desc });
      changed();
    });
    const reset = block.querySelector("button[data-reset]");
    if (reset) reset.addEventListener("click", () => {
      read(new URLSearchParams());
      changed();
    });
    return { read, write };
  }

  function readAddress() {
    const hash = location.hash.slice(1);
    // Without "=" it is the name of a section, which the browser scrolls to.
    if (hash === "" || hash.includes("=")) {
      const address = new URLSearchParams(hash);
      tables.forEach((table) => table.read(address));
    }
  }

  // A table that is wider than its place gets smaller, wraps, and becomes cards.
  function fit() {
    for (const block of document.querySelectorAll("[data-table]")) {
      const box = block.querySelector(".scroll");
      const overflows = () => box.scrollWidth > box.clientWidth;
      const steps = [[], ["dense"], ["dense", "wrap"], ["cards"]];
      for (const step of steps) {
        block.classList.remove("dense", "wrap", "cards");
        block.classList.add(...step);
        if (!overflows()) break;
      }
    }
  }

  tables.forEach((table) => table.read(new URLSearchParams()));
  readAddress();
  addEventListener("hashchange", readAddress);
  fit();
  addEventListener("resize", fit);
  addEventListener("beforeprint", fit);
  document.querySelectorAll("details").forEach((box) => box.addEventListener("toggle", fit));
})();
