// The charts, drawn by Plotly: learning curves, and for a study the metric against each hyperparameter.

const LOG_RATIO = 10; // positive values that span less are never thought of by their order of magnitude
const config = {
  responsive: true,
  displaylogo: false,
  displayModeBar: matchMedia("(hover: none)").matches ? false : "hover",
  modeBarButtons: [["toImage"]],
  toImageButtonOptions: { format: "svg" },
};

function layoutOf({ xaxis, yaxis, ...others }) {
  const axis = { gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true };
  const font = { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--text") };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font,
    showlegend: false,
    dragmode: false,
    hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--line"), font: { ...font }, align: "left" },
    margin: { l: 52, r: 12, t: 10, b: 40 },
    hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--text") },
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, ...yaxis },
    ...others,
  };
}

/** Draw a chart, and say in words what it shows. */
async function draw(element, traces, settings, words) {
  element.setAttribute("aria-label", words);
  await Plotly.react(element, traces, layoutOf(settings), config);
  // a screen reader gets the words, not Plotly's drawing
  for (const inner of [...element.children, byId("js-plotly-tester")]) inner?.setAttribute("aria-hidden", "true");
}

// Learning curves

function drawChips() {
  const chips = chosen.map((run) => {
    const remove = make("button", { type: "button", "aria-label": `Take away ${run.name}` }, "×");
    remove.addEventListener("click", () => {
      choose(run, false);
      drawChosen();
      (byId("chosen").querySelector("button") || byId("choose-top")).focus();
    });
    const swatch = make("span", { class: "swatch", style: `--color: var(--run-${colours.get(run)})` });
    return make("li", {}, swatch, make("a", { href: addressOf(run) }, ...breakable(run.name)), remove);
  });
  const none = make("li", { class: "empty" }, "No run is chosen; tick some in the table.");
  byId("chosen").replaceChildren(...(chips.length ? chips : [none]));
}

/** Return the values of a run's curve, or undefined. */
function curveOf(run, name) {
  return study.curves[run.index]?.series[name];
}

/** Return the names of the curves that some of the runs have; the learning rate comes last. */
function seriesNames(some) {
  const names = new Set(some.flatMap((run) => Object.keys(study.curves[run.index]?.series ?? {})));
  const isLast = (name) => Number(name === "learning_rate");
  return [...names].filter((name) => !name.startsWith("train ")).sort((a, b) => isLast(a) - isLast(b));
}

/** Draw the curves of some runs: val as lines, train dotted. */
function drawCurvesOf(element, shownRuns, metric, withTrain, settings) {
  const lines = [[metric, "solid"], ...(withTrain ? [[`train ${metric}`, "dot"]] : [])];
  const traces = shownRuns.flatMap((run) => {
    const { epochs } = study.curves[run.index] ?? {};
    const known = lines.filter(([name]) => curveOf(run, name));
    return known.map(([name, dash]) => ({
      type: "scatter",
      x: epochs,
      y: curveOf(run, name),
      mode: epochs.length > 1 ? "lines" : "markers",
      line: { color: colourOf(run), dash, width: dash === "dot" ? 1.5 : 2.2 },
      text: curveOf(run, name).map((value) => `${plain(run.name)}<br>${plain(name)} ${format(value)}`),
      hovertemplate: "%{text}<br>epoch %{x}<extra></extra>",
    }));
  });
  const words = shownRuns.flatMap((run) => {
    const values = (curveOf(run, metric) ?? []).filter(isNumber);
    return values.length ? [`${run.name}: from ${formatNumber(values[0])} to ${formatNumber(values.at(-1))}`] : [];
  });
  const last = Math.max(0, ...shownRuns.map((run) => study.curves[run.index]?.epochs.at(-1) ?? 0));
  const layout = {
    height: 340,
    xaxis: { title: { text: "epoch" }, tickformat: "d", ...(last <= 12 ? { dtick: 1 } : { nticks: 10 }) },
    ...settings,
    yaxis: { title: { text: plain(metric) }, ...settings.yaxis },
  };
  const said = words.join("; ") || "Nothing is drawn";
  return draw(element, traces, layout, `Learning curves, ${metric} by epoch. ${said}.`);
}

function drawCurves() {
  drawChips();
  const metric = byId("curve-metric").value;
  const missing = chosen.filter((run) => !curveOf(run, metric)).length;
  const note = `${missing} of the chosen runs ${missing > 1 ? "have" : "has"} no history of ${metric}.`;
  byId("curve-note").textContent = missing ? note : "";
  const yaxis = { type: byId("curve-log").checked ? "log" : "linear" };
  return drawCurvesOf(byId("curve-chart"), chosen, metric, byId("curve-train").checked, { yaxis });
}

// The metric against each hyperparameter: a small chart for each, a point for each run

/** Return whether an axis of these values should be logarithmic: half of them crowd at its lower end. */
function isLog(values) {
  const distinct = [...new Set(values)].sort((a, b) => a - b);
  const [low, middle, high] = [distinct[0], distinct[Math.floor((distinct.length - 1) / 2)], distinct.at(-1)];
  return low > 0 && high / low >= LOG_RATIO && middle < 0.32 * high;
}

/** Return a function for each chart that draws it. */
function drawEach() {
  const metric = columnNamed.get(byId("metric").value);
  const group = groups[Number(byId("data").value)];
  const differs = (column) => new Set(group.members.map((run) => JSON.stringify(valueOf(run, column)))).size > 1;
  const scored = filtered.filter((run) => groups[run.group] === group && isNumber(valueOf(run, metric)));
  const shown = params.filter(differs);
  const grid = byId("each-charts");
  while (grid.children.length > shown.length) grid.lastChild.remove();
  while (grid.children.length < shown.length)
    grid.append(make("figure", {}, make("h3"), make("div", { class: "chart", role: "img" })));
  return shown.map((column, i) => () => {
    const [title, chart] = grid.children[i].children;
    title.textContent = column.name;
    return drawAgainst(chart, column, metric, scored.filter((run) => valueOf(run, column) !== null));
  });
}

async function drawAgainst(chart, column, metric, present) {
  const values = present.map((run) => valueOf(run, column));
  const isNumeric = values.length > 0 && values.every(isNumber);
  const { at, xaxis } = isNumeric ? numericAxis(values) : axisOfNames(values);
  const many = present.length > 500;
  // where many points have the same place they are spread a little, by a number that stays the same for a run
  const spread = (run) => ((run.index * 0.618) % 1) - 0.5;
  const points = (members, marker) => ({
    type: "scatter",
    mode: "markers",
    x: members.map((run) => at(valueOf(run, column), spread(run))),
    y: members.map((run) => valueOf(run, metric)),
    marker,
    hoverinfo: "text",
    customdata: members.map((run) => run.index),
    text: members.map((run) =>
      [run.name, ...[column, metric].map((each) => `${each.name} ${format(valueOf(run, each), each)}`)]
        .map(plain)
        .join("<br>"),
    ),
  });
  const marked = present.filter((run) => chosen.includes(run));
  const traces = [
    points(present, { color: css("--accent"), size: many ? 4 : 6, opacity: many ? 0.35 : 0.55 }),
    points(marked, { color: marked.map(colourOf), size: 10, line: { color: css("--back"), width: 1 } }),
  ];
  const best = bestOf(present, metric);
  const words = [metric, column].map((each) => best && format(valueOf(best, each), each)).join(" at ");
  const title = `${metric.name} against ${column.name}, ${present.length} runs${best ? `; best ${words}` : ""}.`;
  await draw(chart, traces, { height: 210, margin: { l: 46, r: 8, t: 6, b: 28 }, xaxis, yaxis: { nticks: 5 } }, title);
  chart.removeAllListeners("plotly_click");
  chart.on("plotly_click", ({ points: [{ customdata: index }] }) => {
    choose(runs[index], !chosen.includes(runs[index]));
    drawChosen();
  });
}

/** Return an axis of numbers, with ticks at the values themselves where they are few, as in a grid. */
function numericAxis(values) {
  const few = [...new Set(values)].sort((a, b) => a - b);
  const isLogarithmic = isLog(values);
  const move = isLogarithmic ? Math.log : (value) => value;
  const gaps = few.slice(1).map((value, i) => move(value) - move(few[i]));
  const span = move(few.at(-1)) - move(few[0]);
  const gap = few.length > 1 && few.length <= 6 && values.length > 30 ? 0.3 * Math.min(...gaps) : 0;
  const at = (value, spread) => (isLogarithmic ? value * Math.exp(gap * spread) : value + gap * spread);
  const isGrid = few.length <= 6 && gaps.every((each) => each > 0.12 * span);
  const logTicks = { dtick: span < 3.5 ? "D2" : 1, tickformat: "~g" };
  const ticks = isGrid ? { tickvals: few, ticktext: few.map(formatNumber) } : isLogarithmic ? logTicks : { nticks: 6 };
  return { at, xaxis: { type: isLogarithmic ? "log" : "linear", ...ticks } };
}

function axisOfNames(values) {
  const texts = [...new Set(values.map((value) => format(value)))];
  const names = texts.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const ticktext = names.map((name) => plain(name.length > 16 ? `${name.slice(0, 15)}…` : name));
  const xaxis = { tickvals: names.map((_, i) => i), ticktext, range: [-0.6, names.length - 0.4] };
  return { at: (value, spread) => names.indexOf(format(value)) + 0.36 * spread, xaxis };
}
