// What happens when the page opens, and at each click: what is drawn, and in which order.

/** Return the run that an address is of, however it is encoded. */
function runOf(address) {
  try {
    return runAt.get(address) || runAt.get(`#run=${encodeURIComponent(decodeURIComponent(address.slice(5)))}`);
  } catch {
    return null; // a lone %
  }
}

/** Show what the address says: all runs, or one. */
function route(isFirst) {
  const run = runOf(location.hash) || (runs.length === 1 ? runs[0] : null);
  const before = byId("overview").hidden;
  byId("overview").hidden = Boolean(run);
  byId("run").hidden = !run;
  document.title = run ? `${run.name} · ${study.title}` : `${study.title} · results`;
  if (run) {
    const title = drawRun(run);
    if (isFirst) return;
    title.focus({ preventScroll: true });
    scrollTo(0, 0);
  } else if (!isFirst && before) {
    byId("run").replaceChildren();
    drawCharts(drawCurves, drawEach);
  }
}

let waiting = []; // functions that draw the charts that are still to be drawn
let isDrawing = false;

/** Draw charts one after the other, so that the page answers in between; drawEach returns a function for each small one. */
async function drawCharts(...steps) {
  const isReplaced = (step) => steps.includes(step) || (steps.includes(drawEach) && step !== drawCurves);
  waiting = [...steps, ...waiting.filter((step) => !isReplaced(step))];
  document.documentElement.dataset.drawn = "no";
  if (isDrawing) return;
  isDrawing = true;
  while (waiting.length && !byId("overview").hidden) {
    await new Promise((done) => setTimeout(done));
    const step = waiting.shift();
    const isOff = byId(step === drawCurves ? "curves" : "each").hidden;
    const more = isOff || byId("overview").hidden ? null : await step();
    if (Array.isArray(more)) waiting.unshift(...more);
  }
  isDrawing = false;
  document.documentElement.dataset.drawn = "yes";
}

function drawChosen() {
  markChosen();
  drawCharts(drawCurves, drawEach);
}

function drawFacts() {
  const status = columnNamed.get("status");
  const states = new Map();
  for (const run of runs) states.set(valueOf(run, status), (states.get(valueOf(run, status)) || 0) + 1);
  const times = runs.map((run) => valueOf(run, columnNamed.get("time"))).filter(isNumber);
  const note = study.left_out ? [`the best of ${runs.length + study.left_out}`] : [];
  const counts = [...note, ...[...states].map(([state, number]) => `${number} ${state}`)].join(", ");
  const facts = [["runs", String(runs.length), counts], ...groups.flatMap(bestFacts)];
  if (times.length) facts.push(["time, all together", formatSeconds(times.reduce((a, b) => a + b, 0))]);
  byId("facts").replaceWith(listOf(facts, { id: "facts", class: "facts" }));
}

/** Return the figures of the best run of a group. */
function bestFacts({ name, best, members, monitor: column }) {
  if (!best) return [];
  const columnsOfRank = [column, columnNamed.get("loss")].filter(Boolean); // of equals, the lower loss is better
  const isTie = (run) => columnsOfRank.every((each) => valueOf(run, each) === valueOf(best, each));
  const ties = members.filter(isTie).length - 1;
  const link = make("a", { href: addressOf(best) }, ...breakable(best.name));
  const on = groups.length > 1 ? `, ${name}` : "";
  const more = make("span", {}, link, ties ? `, and ${ties} more` : "");
  const facts = [[`best ${column.name}${on}`, format(valueOf(best, column), column), more]];
  const test = columnNamed.get(`test ${column.name}`);
  const interval = intervalOf(best, column.name);
  if (test && isNumber(valueOf(best, test))) {
    const value = format(valueOf(best, test), test);
    facts.push([`of these weights on test${on}`, value, interval && `95% interval ${interval}`]);
  }
  return facts;
}

/** Wait until nothing more is typed. */
function later(action) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, 150);
  };
}

function curveLegend() {
  return make("p", { class: "legend" }, ...legendOf([["solid", "val"], ["dotted", "train"]]));
}

function unchooseAll() {
  [...chosen].forEach((run) => choose(run, false));
}

function chooseTop() {
  unchooseAll();
  const hasCurve = (run) => curveOf(run, byId("curve-metric").value);
  sorted().filter(hasCurve).slice(0, 5).forEach((run) => choose(run, true));
}

/** Fill in what the charts can show, and hide those without data. */
function fillSelects() {
  const option = (name, value = name) => make("option", { value }, name);
  const names = seriesNames(runs);
  byId("curve-chart").after(curveLegend());
  byId("curve-metric").append(...names.map((name) => option(name)));
  byId("metric").append(...metrics.map((column) => option(column.name)));
  byId("data").append(...groups.map(({ name }, number) => option(name, number)));
  byId("data").value = groups.indexOf(largest);
  byId("data").parentElement.hidden = groups.length < 2;
  if (monitor) byId("metric").value = monitor.name;
  if (names.includes(monitor?.name)) byId("curve-metric").value = monitor.name;
  byId("each").hidden = !params.length || !metrics.length;
  byId("curves").hidden = !names.length;
}

function listenToClicks() {
  const on = (id, kind, action) => byId(id).addEventListener(kind, action);
  const choosing = (action) => () => {
    action();
    drawChosen();
  };
  on("choose-top", "click", choosing(chooseTop));
  on("choose-none", "click", choosing(unchooseAll));
  on("filter", "input", later(() => {
    applyFilter();
    drawCharts(drawEach);
  }));
  on("more", "click", () => {
    rowsShown += 500;
    drawTable();
  });
  for (const id of ["curve-metric", "curve-train", "curve-log"]) on(id, "change", () => drawCharts(drawCurves));
  on("metric", "change", () => drawCharts(drawEach));
  on("data", "change", () => {
    const { monitor: column } = groups[Number(byId("data").value)];
    if (column) byId("metric").value = column.name;
    drawCharts(drawEach);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") byId("columns").open = false;
  });
  document.addEventListener("click", (event) => {
    if (!byId("columns").contains(event.target)) byId("columns").open = false;
  });
  addEventListener("hashchange", () => route(false));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawTable();
    if (byId("overview").hidden) route(true);
    else drawCharts(drawCurves, drawEach);
  });
}

byId("written").textContent = `Written by synthesize_results.py, ${study.written.replace("T", " ")}.`;
byId("problems").hidden = !study.problems.length;
byId("problems").querySelector("summary").textContent = `${study.problems.length} of the files could not be read`;
byId("problems").querySelector("ul").append(...study.problems.slice(0, 200).map((line) => make("li", {}, line)));
const longest = Math.max(...runs.map((run) => run.name.length));
byId("table").style.setProperty("--name", `${Math.min(18.5, Math.max(8, 0.55 * longest))}rem`);
drawFacts();
fillSelects();
chooseTop();
drawColumnList();
applyFilter();
listenToClicks();
// the table is there already while the browser still reads Plotly, which comes last
document.addEventListener("DOMContentLoaded", () => {
  route(true);
  drawCharts(drawCurves, drawEach);
});
