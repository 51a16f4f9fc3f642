// What the charts share, and two of them, drawn by Plotly: learning curves and importance.

const LOG_RATIO = 10; // positive values that span less are never thought of by their order of magnitude
const MOST_AXES = 9; // of parallel coordinates, the metric's aside
const NUM_SHADES = 12;
const config = {
  responsive: true,
  displaylogo: false,
  displayModeBar: matchMedia("(hover: none)").matches ? false : "hover",
  modeBarButtons: [["toImage"]],
  toImageButtonOptions: { format: "svg" },
};

function layoutOf(settings) {
  const axis = { gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true };
  const font = { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--text") };
  const { xaxis, yaxis, ...others } = settings;
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
function draw(id, traces, settings, words) {
  const element = typeof id === "string" ? byId(id) : id;
  element.setAttribute("aria-label", words);
  element.hidden = false;
  return Plotly.react(element, traces, layoutOf(settings), config).then(() => {
    // a screen reader gets the words, not Plotly's drawing
    for (const inner of [...element.children, byId("js-plotly-tester")]) inner?.setAttribute("aria-hidden", "true");
  });
}

/** Return the text beside a point of a run, where a column and a metric are drawn. */
function pointText(run, column, metric) {
  const cells = [column, metric].map((each) => `${each.name} ${format(valueOf(run, each), each)}`);
  return [run.name, ...cells].map(plain).join("<br>");
}

/** Let a click on a point choose its run; Plotly keeps listeners when a chart is redrawn. */
function listen(id, name, listener) {
  const element = typeof id === "string" ? byId(id) : id;
  if (!element.dataset[name]) element.on(`plotly_${name}`, listener);
  element.dataset[name] = "yes";
}

function chooseClicked(event) {
  const run = runs[event.points[0].customdata];
  if (!run) return;
  choose(run, !chosen.includes(run));
  drawChosen();
}

/** Return whether an axis of these values should be logarithmic: half of them crowd at its lower end. */
function isLog(values) {
  const distinct = [...new Set(values)].sort((a, b) => a - b);
  const [low, middle, high] = [distinct[0], distinct[Math.floor((distinct.length - 1) / 2)], distinct.at(-1)];
  return low > 0 && high / low >= LOG_RATIO && middle < 0.32 * high;
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
  byId("chosen").replaceChildren(
    ...(chips.length ? chips : [make("li", { class: "empty" }, "No run is chosen; tick some in the table.")]),
  );
}

/** Return the traces of some runs' curves: val as lines, train dotted. */
function curveTraces(shownRuns, metric, withTrain) {
  return shownRuns.flatMap((run) => {
    const curves = study.curves[run.index];
    if (!curves) return [];
    return [[metric, "solid"], ...(withTrain ? [[`train ${metric}`, "dot"]] : [])]
      .filter(([name]) => curves.series[name])
      .map(([name, dash]) => ({
        type: "scatter",
        x: curves.epochs,
        y: curves.series[name],
        name: plain(run.name),
        mode: curves.epochs.length > 1 ? "lines" : "markers",
        line: { color: colourOf(run), dash, width: dash === "dot" ? 1.5 : 2.2 },
        text: curves.series[name].map(
          (value) => `${plain(run.name)}<br>${plain(name)} ${value === null ? "" : formatNumber(value)}`,
        ),
        hovertemplate: "%{text}<br>epoch %{x}<extra></extra>",
      }));
  });
}

function curveLegend() {
  return make("p", { class: "legend" }, ...legendOf([["solid", "val"], ["dotted", "train"]]));
}

function curveWords(shownRuns, metric) {
  const note = shownRuns.flatMap((run) => {
    const curves = study.curves[run.index];
    const values = curves && curves.series[metric] ? curves.series[metric].filter(isNumber) : [];
    if (!values.length) return [];
    const ends = `from ${formatNumber(values[0])} to ${formatNumber(values.at(-1))}`;
    return [`${run.name}: ${ends} in ${curves.epochs.at(-1)} epochs`];
  });
  return `Learning curves, ${metric} by epoch. ${note.join("; ") || "Nothing is drawn"}.`;
}

function curveLayout(shownRuns, metric, isLogarithmic) {
  const last = Math.max(
    0,
    ...shownRuns.map((run) => (study.curves[run.index] ? study.curves[run.index].epochs.at(-1) : 0)),
  );
  return {
    height: 340,
    yaxis: { title: { text: plain(metric) }, type: isLogarithmic ? "log" : "linear" },
    xaxis: { title: { text: "epoch" }, tickformat: "d", ...(last <= 12 ? { dtick: 1 } : { nticks: 10 }) },
  };
}

function drawCurves() {
  drawChips();
  const metric = byId("curve-metric").value;
  const traces = curveTraces(chosen, metric, byId("curve-train").checked);
  const missing = chosen.filter((run) => !study.curves[run.index] || !study.curves[run.index].series[metric]);
  byId("curve-note").textContent = missing.length
    ? `${missing.length} of the chosen runs ${missing.length > 1 ? "have" : "has"} no history of ${metric}.`
    : "";
  draw("curve-chart", traces, curveLayout(chosen, metric, byId("curve-log").checked), curveWords(chosen, metric));
}

// Importance

function drawImportance() {
  const metric = metricShown();
  const { runs: number, shares } = groupShown().importance[metric.name];
  const entries = Object.entries(shares).slice(0, 15);
  const chart = byId("importance-chart");
  if (!entries.length) {
    chart.hidden = true;
    const tooFew = `Ten runs with ${metric.name} are needed before this says anything; there are ${number}.`;
    const known = ["The runs have the same hyperparameters.", `The runs differ in ${params[0]?.name} only.`];
    byId("importance-note").textContent = known[params.length] ?? tooFew;
    return null;
  }
  const width = (name) => name.length * 7 + 20;
  const note = entries.map(([name, share]) => `${name} ${(100 * share).toFixed(0)}%`);
  byId("importance-note").textContent =
    `The share of each hyperparameter in what tells the best tenth of ${number} runs from the rest, ` +
    `by ${metric.name} (PED-ANOVA, Optuna).${number < 50 ? " With fewer than 50 runs, take it as a hint." : ""}`;
  const trace = {
    type: "bar",
    orientation: "h",
    x: entries.map(([, share]) => share),
    y: entries.map((_, i) => i),
    marker: { color: css("--accent") },
    text: entries.map(([, share]) => `${(100 * share).toFixed(0)}%`),
    textposition: "outside",
    cliponaxis: false,
    hoverinfo: "skip",
    width: 0.62,
  };
  return draw(
    "importance-chart",
    [trace],
    {
      height: 30 + 27 * entries.length,
      margin: { l: Math.min(200, Math.max(...entries.map(([name]) => width(name)))), r: 46, t: 4, b: 8 },
      xaxis: { visible: false, range: [0, Math.max(...entries.map(([, share]) => share)) * 1.02], fixedrange: true },
      yaxis: {
        tickvals: entries.map((_, i) => i),
        ticktext: entries.map(([name]) => plain(name.length > 26 ? `${name.slice(0, 25)}…` : name)),
        autorange: "reversed",
        fixedrange: true,
        showgrid: false,
        automargin: false,
        ticks: "outside",
        tickcolor: "rgba(0,0,0,0)",
      },
    },
    `What mattered for ${metric.name}: ${note.join(", ")}.`,
  );
}

function metricShown() {
  return columnNamed.get(byId("metric").value);
}
