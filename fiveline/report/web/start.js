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
    if (!isFirst) title.focus({ preventScroll: true });
    if (!isFirst) scrollTo(0, 0);
  } else if (!isFirst && before) {
    byId("run").replaceChildren();
    drawCharts(allCharts());
  }
}

let waiting = []; // charts that are still to be drawn
let isDrawing = false;

/** Draw charts one after the other, so that the page answers in between. */
async function drawCharts(steps) {
  const isSmall = (step) => !allCharts().includes(step);
  waiting = [
    ...steps,
    ...waiting.filter((step) => !steps.includes(step) && !(isSmall(step) && steps.includes(drawEach))),
  ];
  document.documentElement.dataset.drawn = "no";
  if (isDrawing) return;
  isDrawing = true;
  while (waiting.length) {
    await new Promise((done) => setTimeout(done));
    if (byId("overview").hidden) waiting = [];
    else {
      const more = await waiting.shift()();
      if (Array.isArray(more)) waiting.unshift(...more); // drawEach says what there is to draw
    }
  }
  isDrawing = false;
  document.documentElement.dataset.drawn = "yes";
}

function drawChosen() {
  markChosen();
  drawCharts(hasStudy() ? [drawCurves, drawParallel, drawEach] : [drawCurves]);
}

function filterChanged() {
  applyFilter();
  if (hasStudy()) drawCharts([drawParallel, drawEach]);
}

function hasStudy() {
  return params.length > 0 && metrics.length > 0;
}

function drawFacts() {
  const status = columnNamed.get("status");
  const states = new Map();
  for (const run of runs) states.set(valueOf(run, status), (states.get(valueOf(run, status)) || 0) + 1);
  const times = runs.map((run) => valueOf(run, columnNamed.get("time"))).filter(isNumber);
  const note = study.left_out ? [`the best of ${runs.length + study.left_out}`] : [];
  const facts = [
    ["runs", String(runs.length), [...note, ...[...states].map(([state, number]) => `${number} ${state}`)].join(", ")],
  ];
  for (const group of groups) facts.push(...bestFacts(group));
  if (times.length) facts.push(["time, all together", formatSeconds(times.reduce((a, b) => a + b, 0)), ""]);
  byId("facts").replaceChildren(
    ...facts.map(([name, value, more]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value, more ? make("small", {}, more) : null)),
    ),
  );
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
  if (test && isNumber(valueOf(best, test)))
    facts.push([`of these weights on test${on}`, format(valueOf(best, test), test), interval && `95% interval ${interval}`]);
  return facts;
}

function option(name) {
  return make("option", {}, name);
}

/** Wait until nothing more is typed. */
function later(action) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, 150);
  };
}

function start() {
  byId("written").textContent = `Written by synthesize_results.py, ${study.written.replace("T", " ")}.`;
  byId("problems").hidden = !study.problems.length;
  byId("problems").querySelector("summary").textContent = `${study.problems.length} of the files could not be read`;
  byId("problems")
    .querySelector("ul")
    .append(...study.problems.slice(0, 200).map((line) => make("li", {}, line)));
  const longest = Math.max(...runs.map((run) => run.name.length));
  byId("table").style.setProperty("--name", `${Math.min(18.5, Math.max(8, 0.55 * longest))}rem`);
  drawFacts();
  byId("curve-chart").after(curveLegend());
  byId("curve-metric").append(...seriesNames(runs).map(option));
  byId("metric").append(...metrics.map((column) => option(column.name)));
  byId("data").append(...groups.map(({ name }, number) => make("option", { value: number }, name)));
  byId("data").value = groups.indexOf(largest);
  byId("data").parentElement.hidden = groups.length < 2;
  if (monitor) byId("metric").value = monitor.name;
  if (monitor && seriesNames(runs).includes(monitor.name)) byId("curve-metric").value = monitor.name;
  byId("study-charts").hidden = !hasStudy();
  byId("curves").hidden = !seriesNames(runs).length;
  const chooseTop = () => {
    [...chosen].forEach((run) => choose(run, false));
    sorted()
      .filter((run) => study.curves[run.index]?.series[byId("curve-metric").value])
      .slice(0, 5)
      .forEach((run) => choose(run, true));
  };
  chooseTop();
  drawColumnList();
  applyFilter();
  byId("filter").addEventListener("input", later(filterChanged));
  byId("choose-top").addEventListener("click", () => {
    chooseTop();
    drawChosen();
  });
  byId("choose-none").addEventListener("click", () => {
    [...chosen].forEach((run) => choose(run, false));
    drawChosen();
  });
  byId("more").addEventListener("click", () => {
    rowsShown += 500;
    drawTable();
  });
  for (const id of ["curve-metric", "curve-train", "curve-log"]) byId(id).addEventListener("change", drawCurves);
  byId("metric").addEventListener("change", () => drawCharts([drawImportance, drawParallel, drawEach]));
  byId("data").addEventListener("change", () => {
    if (groupShown().monitor) byId("metric").value = groupShown().monitor.name;
    drawCharts([drawImportance, drawParallel, drawEach]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawTable();
    if (byId("overview").hidden) route(false);
    else drawCharts(allCharts());
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") byId("columns").open = false;
  });
  document.addEventListener("click", (event) => {
    if (!byId("columns").contains(event.target)) byId("columns").open = false;
  });
  addEventListener("hashchange", () => route(false));
  // the table is there already while the browser still reads Plotly, which comes last
  document.addEventListener("DOMContentLoaded", () => {
    route(true);
    if (!byId("overview").hidden) drawCharts(allCharts());
  });
}

function allCharts() {
  return [
    ...(byId("curves").hidden ? [] : [drawCurves]),
    ...(hasStudy() ? [drawImportance, drawParallel, drawEach] : []),
  ];
}

start();
