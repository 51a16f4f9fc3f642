// The table: sorted by a click on a column, filtered by what is typed, a row a run.

const FEW_ROWS = 100; // shown at first, and more by a button: thousands of rows would make each click slow
const order = { column: null, down: false }; // null: the order of the file, the best first
let rowsShown = FEW_ROWS;
let filtered = runs;
const shown = new Set(columns.filter(isShownAtFirst));

function isShownAtFirst(column) {
  if (column.kind === "data") return false; // the rows between the groups say it
  if (column.kind === "param") return params.indexOf(column) < 8;
  if (column.kind === "time") return runs.some((run) => valueOf(run, column) !== null);
  if (!metrics.includes(column)) return new Set(runs.map((run) => valueOf(run, column))).size > 1;
  return metrics.length <= 4 || isMonitored(column) || column.name.replace(/^test /, "") === "loss";
}

/** Return the columns that are shown: first what the runs were after, then what they were given, then the rest. */
function visible() {
  const those = columns.filter((column) => shown.has(column));
  return [...those.filter(isMonitored), ...those.filter((column) => !isMonitored(column))];
}

/** Compare two values for the order of rows: numbers, then text, then nothing. */
function compare(a, b) {
  const kind = (value) => (isNumber(value) ? 0 : value === null ? 2 : 1);
  if (kind(a) !== kind(b) || a === null) return kind(a) - kind(b);
  const difference = isNumber(a) ? a - b : format(a).localeCompare(format(b), "en", { numeric: true });
  return order.down ? -difference : difference;
}

function sorted() {
  const { column } = order;
  const get = column === "run" ? (run) => run.name : (run) => valueOf(run, column);
  const within = column === null ? () => 0 : (a, b) => compare(get(a), get(b));
  return [...filtered].sort((a, b) => a.group - b.group || within(a, b) || a.index - b.index);
}

function headCell(column) {
  const isRun = column === "run";
  const isSorted = order.column === column || (order.column === null && column === monitor);
  const isDown = order.column === null ? monitor?.higher : order.down;
  const button = make("button", { type: "button" }, ...breakable(isRun ? "run" : column.name, /(?<=[_. ])/));
  const id = isRun ? "run" : column.index;
  button.addEventListener("click", () => {
    order.down = order.column === column ? !order.down : !isRun && column.higher;
    order.column = column;
    drawTable();
    byId("table").querySelector(`[data-column="${id}"] button`).focus();
  });
  const attributes = {
    scope: "col",
    class: !isRun && isNumeric[column.index] ? "number" : null,
    "aria-sort": isSorted ? (isDown ? "descending" : "ascending") : "none",
    "data-column": id,
  };
  return make("th", attributes, button);
}

/** The best value of each metric's column, over the runs of each group. */
const tops = columns.map((column) =>
  groups.map(({ members }) => {
    const scored = metrics.includes(column) ? members.filter((run) => isNumber(valueOf(run, column))) : [];
    return scored.length > 1 ? valueOf(bestOf(scored, column), column) : null;
  }),
);

function cell(run, column) {
  const value = valueOf(run, column);
  const top = tops[column.index][run.group];
  const classes = [
    isNumeric[column.index] ? "number" : "",
    value === null ? "none" : value === top ? "top" : "",
    column.kind === "status" ? `state ${String(value).replace(/\W/g, "-")}` : "",
  ];
  const text = format(value, column);
  return make("td", { class: classes.join(" ").trim() || null, title: text.length > 24 ? text : null }, text);
}

/** Return the link to a run's own page, with a star for the best run. */
function nameOf(run, tag = "a") {
  const name = make(tag, tag === "a" ? { href: addressOf(run) } : { tabindex: "-1" }, ...breakable(run.name));
  return [name, isBest(run) ? make("span", { class: "star" }, "★ best") : null];
}

function row(run) {
  const box = make("input", { type: "checkbox", "aria-label": `Show the curves of ${run.name}` });
  box.checked = chosen.includes(run);
  box.addEventListener("change", () => {
    box.checked = choose(run, box.checked);
    drawChosen();
  });
  if (box.checked) box.style.accentColor = colourOf(run);
  const pick = make("td", { class: "pick" }, make("label", {}, box));
  const name = make("th", { scope: "row" }, ...nameOf(run));
  const cells = visible().map((column) => cell(run, column));
  return make("tr", { class: isBest(run) ? "best" : null, "data-run": run.index }, pick, name, ...cells);
}

/** Return the row that says which task and data the runs below it are of. */
function groupRow(run) {
  const name = make("th", { scope: "rowgroup", colspan: visible().length + 1 }, groups[run.group].name);
  return make("tr", { class: "group" }, make("td", { class: "pick" }), name);
}

function drawTable() {
  const rows = sorted();
  const [head, body] = ["thead", "tbody"].map((tag) => byId("table").querySelector(tag));
  const pick = make("td", { class: "pick" }, make("span", { class: "unseen" }, "Curves"));
  head.replaceChildren(make("tr", {}, pick, headCell("run"), ...visible().map(headCell)));
  const isFirst = (run, i) => groups.length > 1 && (!i || rows[i - 1].group !== run.group);
  const withGroup = (run, i) => (isFirst(run, i) ? [groupRow(run), row(run)] : [row(run)]);
  body.replaceChildren(...rows.slice(0, rowsShown).flatMap(withGroup));
  const left = rows.length - rowsShown;
  byId("more").hidden = left <= 0;
  byId("more").textContent = `Show ${Math.min(left, 500)} more of ${rows.length} runs`;
}

/** Mark the chosen runs in the rows that are shown, without redrawing them. */
function markChosen() {
  for (const tr of byId("table").querySelectorAll("tbody tr[data-run]")) {
    const [run, box] = [runs[Number(tr.dataset.run)], tr.querySelector("input")];
    box.checked = chosen.includes(run);
    box.style.accentColor = box.checked ? colourOf(run) : "";
  }
}

function drawColumnList() {
  const labelOf = (column) => {
    const box = make("input", { type: "checkbox" });
    box.checked = shown.has(column);
    box.addEventListener("change", () => {
      if (box.checked) shown.add(column);
      else shown.delete(column);
      drawTable();
    });
    return make("label", {}, box, column.name);
  };
  byId("column-list").replaceChildren(...columns.map(labelOf));
}

function applyFilter() {
  const { test, note, wrong } = readFilter(byId("filter").value);
  filtered = runs.filter(test);
  rowsShown = FEW_ROWS;
  const counted = filtered.length < runs.length ? `${filtered.length} of ${runs.length} runs.` : `${runs.length} runs.`;
  const column = params.find((each) => isNumeric[each.index]);
  const example = column && `${identifierOf(column.name)} <= ${valueOf(sorted()[0] ?? runs[0], column)}`;
  const hint = column && !byId("filter").value ? ` Filter by words, or as in ${example}.` : "";
  byId("filter-note").textContent = note || counted + hint;
  byId("filter-note").classList.toggle("wrong", wrong);
  drawTable();
}
