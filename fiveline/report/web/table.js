// The table: sorted by a click on a column, filtered by what is typed, a row a run.

const FEW_ROWS = 100; // shown at first, and more by a button: thousands of rows would make each click slow
const order = { column: null, down: false }; // null: the order of the file, the best first
let rowsShown = FEW_ROWS;
let filtered = runs;
const shown = new Set(columns.filter(isShownAtFirst));

function isShownAtFirst(column) {
  if (column.kind === "data") return false; // the rows between the groups say it
  if (column.kind === "param") return (monitor ? ranked(monitor) : params).indexOf(column) < 8;
  if (column.kind === "status") return new Set(runs.map((run) => valueOf(run, column))).size > 1;
  if (column.kind === "epochs") return new Set(runs.map((run) => valueOf(run, column))).size > 1;
  if (column.kind === "time") return runs.some((run) => valueOf(run, column) !== null);
  if (metrics.length <= 4) return true;
  return isMonitored(column) || column.name.replace(/^test /, "") === "loss";
}

/** Return the columns that are shown: first what the runs were after, then what they were given, then the rest. */
function visible() {
  const those = columns.filter((column) => shown.has(column));
  return [...those.filter(isMonitored), ...those.filter((column) => !isMonitored(column))];
}

/** Return a number that says where a value goes: numbers, then text, then nothing. */
function compare(a, b) {
  const kind = (value) => (isNumber(value) ? 0 : value === null ? 2 : 1);
  if (kind(a) !== kind(b)) return kind(a) - kind(b);
  if (isNumber(a)) return order.down ? b - a : a - b;
  if (a === null) return 0;
  const text = format(a).localeCompare(format(b), "en", { numeric: true });
  return order.down ? -text : text;
}

function sorted() {
  const { column } = order;
  const get = column === "run" ? (run) => run.name : (run) => valueOf(run, column);
  const within = column === null ? () => 0 : (a, b) => compare(get(a), get(b));
  return [...filtered].sort((a, b) => a.group - b.group || within(a, b) || a.index - b.index);
}

function sortBy(column) {
  const better = column !== "run" && column.higher;
  order.down = order.column === column ? !order.down : better;
  order.column = column;
  drawTable();
}

function headCell(column) {
  const isRun = column === "run";
  const isSorted = order.column === column || (order.column === null && column === monitor);
  const down = order.column === null ? Boolean(monitor && monitor.higher) : order.down;
  const button = make("button", { type: "button" }, ...breakable(isRun ? "run" : column.name, /(?<=[_. ])/));
  button.addEventListener("click", () => {
    sortBy(column);
    byId("table")
      .querySelector(`[data-column="${isRun ? "run" : column.index}"] button`)
      .focus();
  });
  return make(
    "th",
    {
      scope: "col",
      class: !isRun && isNumeric[column.index] ? "number" : null,
      "aria-sort": isSorted ? (down ? "descending" : "ascending") : "none",
      "data-column": isRun ? "run" : column.index,
    },
    button,
  );
}

/** The best value of each metric's column, over the runs of each group. */
const tops = columns.map((column) =>
  groups.map(({ members }) => {
    if (column.kind !== "val" && column.kind !== "test") return null;
    const values = members.map((run) => run.values[column.index]).filter(isNumber);
    return values.length > 1 ? values.reduce((a, b) => (a > b === column.higher ? a : b)) : null;
  }),
);

function cell(run, column) {
  const value = valueOf(run, column);
  const classes = [isNumeric[column.index] ? "number" : "", value === null ? "none" : ""];
  const top = tops[column.index][run.group];
  if (top !== null && value === top) classes.push("top");
  if (column.kind === "status") classes.push("state", String(value).replace(/\W/g, "-"));
  const text = format(value, column);
  return make("td", { class: classes.filter(Boolean).join(" ") || null, title: text.length > 24 ? text : null }, text);
}

function row(run) {
  const box = make("input", { type: "checkbox", "aria-label": `Show the curves of ${run.name}` });
  box.checked = chosen.includes(run);
  box.addEventListener("change", () => {
    box.checked = choose(run, box.checked);
    drawChosen();
  });
  const pick = make("td", { class: "pick" }, make("label", {}, box));
  if (box.checked) box.style.accentColor = colourOf(run);
  const name = make(
    "th",
    { scope: "row" },
    make("a", { href: addressOf(run) }, ...breakable(run.name)),
    isBest(run) ? make("span", { class: "star" }, "★ best") : null,
  );
  return make(
    "tr",
    { class: isBest(run) ? "best" : null, "data-run": run.index },
    pick,
    name,
    ...visible().map((column) => cell(run, column)),
  );
}

/** Return the row that says which task and data the runs below it are of. */
function groupRow(run) {
  const name = make("th", { scope: "rowgroup", colspan: visible().length + 1 }, groups[run.group].name);
  return make("tr", { class: "group" }, make("td", { class: "pick" }), name);
}

function drawTable() {
  const body = byId("table").querySelector("tbody");
  const rows = sorted();
  byId("table")
    .querySelector("thead")
    .replaceChildren(
      make(
        "tr",
        {},
        make("td", { class: "pick" }, make("span", { class: "unseen" }, "Curves")),
        headCell("run"),
        ...visible().map(headCell),
      ),
    );
  const isFirst = (run, i) => groups.length > 1 && (!i || rows[i - 1].group !== run.group);
  body.replaceChildren(
    ...rows.slice(0, rowsShown).flatMap((run, i) => (isFirst(run, i) ? [groupRow(run), row(run)] : [row(run)])),
  );
  const left = rows.length - rowsShown;
  byId("more").hidden = left <= 0;
  byId("more").textContent = `Show ${Math.min(left, 500)} more of ${rows.length} runs`;
}

/** Mark the chosen runs in the rows that are shown, without redrawing them. */
function markChosen() {
  for (const tr of byId("table").querySelectorAll("tbody tr[data-run]")) {
    const run = runs[Number(tr.dataset.run)];
    const box = tr.querySelector("input");
    box.checked = chosen.includes(run);
    box.style.accentColor = box.checked ? colourOf(run) : "";
  }
}

function drawColumnList() {
  const groups = [
    ["Hyperparameters that differ", ["param"]],
    ["Run", ["data", "status", "epochs", "time"]],
    ["val", ["val"]],
    ["test", ["test"]],
  ];
  byId("column-list").replaceChildren(
    ...groups.flatMap(([title, kinds]) => {
      const group = columns.filter((column) => kinds.includes(column.kind));
      if (!group.length) return [];
      return [
        make("p", {}, title),
        ...group.map((column) => {
          const box = make("input", { type: "checkbox" });
          box.checked = shown.has(column);
          box.addEventListener("change", () => {
            if (box.checked) shown.add(column);
            else shown.delete(column);
            drawTable();
          });
          return make("label", {}, box, column.name);
        }),
      ];
    }),
  );
}

function applyFilter() {
  const { test, note, wrong } = readFilter(byId("filter").value);
  filtered = runs.filter(test);
  rowsShown = FEW_ROWS;
  const counted =
    filtered.length === runs.length ? `${runs.length} runs.` : `${filtered.length} of ${runs.length} runs.`;
  const hint = params.length && !byId("filter").value ? ` Filter by words, or as in ${conditionExample()}.` : "";
  byId("filter-note").textContent = note || counted + hint;
  byId("filter-note").classList.toggle("wrong", wrong);
  drawTable();
}

function conditionExample() {
  const column = params.find((each) => isNumeric[each.index]) || params[0];
  const values = runs.map((run) => valueOf(run, column)).filter((value) => value !== null);
  const value = values[Math.floor(values.length / 2)];
  return isNumeric[column.index] ? `${column.name} <= ${formatNumber(value)}` : `${identifierOf(column.name)} == ${literalOf(value)}`;
}
