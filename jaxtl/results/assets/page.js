"use strict";
// Tables that can be filtered and sorted; what is shown stands in the address, after #,
// so that a view can be handed on: #filter=LoRA&method=full&sort=3&desc=1. Keys of
// tables after the first begin with the table's name: #settings.filter=LoRA.
(() => {
  document.documentElement.classList.add("js");
  const blocks = [...document.querySelectorAll("[data-sheet]")].map(prepare);

  function number(text) {
    const plain = text.replace(/[,<]/g, "").replace(/\u2212/g, "-").trim();
    return /^[-+]?(\d|\.\d)/.test(plain) ? parseFloat(plain) : NaN;
  }

  function compare(a, b) {
    const x = number(a), y = number(b);
    if (!isNaN(x) && !isNaN(y)) return x - y || a.localeCompare(b);
    return a.localeCompare(b, undefined, { numeric: true });
  }

  const empty = (text) => text === "" || text === "\u2013";

  function prepare(block, place) {
    const body = block.querySelector("tbody");
    const rows = [...body.rows].map((row) => ({
      row, cells: [...row.cells].map((cell) => cell.textContent.trim()),
    }));
    const heads = [...block.querySelectorAll("thead th")];
    const input = block.querySelector("input");
    const selects = [...block.querySelectorAll("select")];
    const count = block.querySelector(".count");
    const prefix = place ? block.dataset.sheet + "." : "";
    const state = { sort: null, desc: false };

    function apply() {
      const words = input ? input.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
      let shown = 0;
      for (const { row, cells } of rows) {
        const text = cells.join(" ").toLowerCase();
        const kept = words.every((word) => text.includes(word)) && selects.every(
          (s) => s.value === "" || cells[+s.dataset.column] === s.value.slice(1));
        row.hidden = !kept;
        shown += kept;
      }
      if (count) count.textContent = `${shown} of ${rows.length} lines shown`;
      const order = state.sort === null ? rows : [...rows].sort((a, b) => {
        const x = a.cells[state.sort], y = b.cells[state.sort];
        // What is not known stands last, whichever way is up.
        if (empty(x) !== empty(y)) return empty(x) - empty(y);
        return (state.desc ? -1 : 1) * compare(x, y);
      });
      body.append(...order.map(({ row }) => row));
      heads.forEach((head, i) => head.setAttribute("aria-sort",
        i !== state.sort ? "none" : state.desc ? "descending" : "ascending"));
    }

    function read(address) {
      if (input) input.value = address.get(prefix + "filter") || "";
      for (const s of selects) {
        const wanted = address.get(prefix + s.name);
        const known = [...s.options].some((o) => o.value === "=" + wanted);
        s.value = wanted !== null && known ? "=" + wanted : "";
      }
      const sort = parseInt(address.get(prefix + "sort"), 10);
      state.sort = sort >= 0 && sort < heads.length ? sort : null;
      state.desc = address.get(prefix + "desc") === "1";
      apply();
    }

    function tell(address) {
      if (input && input.value) address.set(prefix + "filter", input.value);
      for (const s of selects) if (s.value) address.set(prefix + s.name, s.value.slice(1));
      if (state.sort !== null) address.set(prefix + "sort", state.sort);
      if (state.desc) address.set(prefix + "desc", "1");
    }

    function changed() {
      apply();
      const address = new URLSearchParams();
      blocks.forEach((other) => other.tell(address));
      const hash = address.toString();
      history.replaceState(null, "", hash ? "#" + hash : location.pathname);
    }

    heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
      // Numbers from the largest on first; a third click gives the first order back.
      const first = !head.classList.contains("left");
      if (state.sort !== i) Object.assign(state, { sort: i, desc: first });
      else if (state.desc === first) state.desc = !first;
      else Object.assign(state, { sort: null, desc: false });
      changed();
    }));
    for (const one of [input, ...selects]) if (one) one.addEventListener("input", changed);
    const reset = block.querySelector("button[data-reset]");
    if (reset) reset.addEventListener("click", () => {
      read(new URLSearchParams());
      changed();
    });
    return { read, tell };
  }

  function fromAddress() {
    const hash = location.hash.slice(1);
    // Without "=" it is the name of a section, to which the browser goes.
    if (hash === "" || hash.includes("=")) {
      const address = new URLSearchParams(hash);
      blocks.forEach((block) => block.read(address));
    }
  }

  blocks.forEach((block) => block.read(new URLSearchParams()));
  fromAddress();
  addEventListener("hashchange", fromAddress);
})();
