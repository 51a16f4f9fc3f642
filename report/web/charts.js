// The charts, drawn by Plotly: learning curves, importance, parallel coordinates, the metric against each hyperparameter.

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
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font, showlegend: false, dragmode: false,
    hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--line"), font: { ...font }, align: "left" },
    margin: { l: 52, r: 12, t: 10, b: 40 }, hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--text") },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...others,
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

/** Let a click on a point choose its run; Plotly keeps listeners when a chart is drawn anew. */
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
  byId("chosen").replaceChildren(...(chips.length ? chips : [make("li", { class: "empty" }, "No run is chosen; tick some in the table.")]));
}

/** Return the traces of some runs' curves: val as lines, train dotted. */
function curveTraces(shownRuns, metric, withTrain) {
  return shownRuns.flatMap((run) => {
    const curves = study.curves[run.index];
    if (!curves) return [];
    return [[metric, "solid"], ...(withTrain ? [[`train ${metric}`, "dot"]] : [])]
      .filter(([name]) => curves.series[name])
      .map(([name, dash]) => ({
        type: "scatter", x: curves.epochs, y: curves.series[name], name: plain(run.name),
        mode: curves.epochs.length > 1 ? "lines" : "markers", line: { color: colourOf(run), dash, width: dash === "dot" ? 1.5 : 2.2 },
        text: curves.series[name].map((value) => `${plain(run.name)}<br>${plain(name)} ${value === null ? "" : formatNumber(value)}`),
        hovertemplate: "%{text}<br>epoch %{x}<extra></extra>",
      }));
  });
}

function curveWords(shownRuns, metric) {
  const told = shownRuns.flatMap((run) => {
    const curves = study.curves[run.index];
    const values = curves && curves.series[metric] ? curves.series[metric].filter(isNumber) : [];
    if (!values.length) return [];
    return [`${run.name}: from ${formatNumber(values[0])} to ${formatNumber(values.at(-1))} in ${curves.epochs.at(-1)} epochs`];
  });
  return `Learning curves, ${metric} by epoch. ${told.join("; ") || "Nothing is drawn"}.`;
}

function curveLayout(shownRuns, metric, isLogarithmic) {
  const last = Math.max(0, ...shownRuns.map((run) => (study.curves[run.index] ? study.curves[run.index].epochs.at(-1) : 0)));
  return {
    height: 340, yaxis: { title: { text: plain(metric) }, type: isLogarithmic ? "log" : "linear" },
    xaxis: { title: { text: "epoch" }, tickformat: "d", ...(last <= 12 ? { dtick: 1 } : { nticks: 10 }) },
  };
}

function drawCurves() {
  drawChips();
  const metric = byId("curve-metric").value;
  const traces = curveTraces(chosen, metric, byId("curve-train").checked);
  const missing = chosen.filter((run) => !study.curves[run.index] || !study.curves[run.index].series[metric]);
  byId("curve-note").textContent = missing.length
    ? `${missing.length} of the chosen runs ${missing.length > 1 ? "have" : "has"} no history of ${metric}.` : "";
  draw("curve-chart", traces, curveLayout(chosen, metric, byId("curve-log").checked), curveWords(chosen, metric));
}

// Importance

function drawImportance() {
  const metric = metricShown();
  const { runs: number, shares } = study.importance[metric.name];
  const entries = Object.entries(shares).slice(0, 15);
  const chart = byId("importance-chart");
  if (!entries.length) {
    chart.hidden = true;
    byId("importance-note").textContent = params.length
      ? `Ten runs with ${metric.name} are needed before this says anything; there are ${number}.`
      : "The runs have the same hyperparameters.";
    return null;
  }
  const width = (name) => name.length * 7 + 20;
  byId("importance-note").textContent =
    `The share of each hyperparameter in what tells the best tenth of ${number} runs from the rest, by ${metric.name} ` +
    `(PED-ANOVA, Optuna).${number < 50 ? " With fewer than 50 runs, take it as a hint." : ""}`;
  const trace = {
    type: "bar", orientation: "h", x: entries.map(([, share]) => share), y: entries.map((_, i) => i),
    marker: { color: css("--accent") }, text: entries.map(([, share]) => `${(100 * share).toFixed(0)}%`),
    textposition: "outside", cliponaxis: false, hoverinfo: "skip", width: 0.62,
  };
  return draw("importance-chart", [trace], {
    height: 30 + 27 * entries.length, margin: { l: Math.min(200, Math.max(...entries.map(([name]) => width(name)))), r: 46, t: 4, b: 8 },
    xaxis: { visible: false, range: [0, Math.max(...entries.map(([, share]) => share)) * 1.02], fixedrange: true },
    yaxis: { tickvals: entries.map((_, i) => i), ticktext: entries.map(([name]) => plain(name.length > 26 ? `${name.slice(0, 25)}…` : name)),
      autorange: "reversed", fixedrange: true, showgrid: false, automargin: false, ticks: "outside", tickcolor: "rgba(0,0,0,0)" },
  }, `What mattered for ${metric.name}: ${entries.map(([name, share]) => `${name} ${(100 * share).toFixed(0)}%`).join(", ")}.`);
}

// Parallel coordinates

/** Return where a column's values are on an axis from 0 to 1, and its ticks. */
function scaleOf(column) {
  const values = runs.map((run) => valueOf(run, column)).filter((value) => value !== null);
  const numbers = values.filter(isNumber);
  const distinct = [...new Set(values.map((value) => JSON.stringify(value)))];
  if (numbers.length === values.length && numbers.length) {
    const log = isLog(numbers);
    const move = log ? Math.log10 : (value) => value;
    const low = move(Math.min(...numbers));
    const span = move(Math.max(...numbers)) - low || 1;
    const few = [...new Set(numbers)].sort((a, b) => a - b);
    const at = (value) => (move(value) - low) / span;
    const even = [0, 0.25, 0.5, 0.75, 1].map((share) => (log ? 10 ** (low + share * span) : low + share * span));
    const apart = few.length <= 6 && few.every((value, i) => !i || at(value) - at(few[i - 1]) > 0.07);
    const ticks = (apart ? few : even).map((value) => [at(value), formatNumber(Number(value.toPrecision(apart ? 12 : 3)))]);
    return { at: (value) => (isNumber(value) ? at(value) : null), ticks, values: few };
  }
  const names = distinct.map((text) => JSON.parse(text)).sort((a, b) => compareText(a, b));
  const place = new Map(names.map((value, i) => [JSON.stringify(value), names.length > 1 ? i / (names.length - 1) : 0.5]));
  const step = Math.ceil(names.length / 12);
  const ticks = names.filter((_, i) => i % step === 0).map((value) => [place.get(JSON.stringify(value)), shorten(format(value, column), 14)]);
  return { at: (value) => (value === null ? null : place.get(JSON.stringify(value))), ticks, values: names };
}

function compareText(a, b) {
  return isNumber(a) && isNumber(b) ? a - b : format(a).localeCompare(format(b), "en", { numeric: true });
}

function shorten(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

/** Return the hyperparameters, those that matter most for the metric first. */
function ranked(metric) {
  const shares = study.importance[metric.name].shares;
  return [...params].sort((a, b) => (shares[b.name] || 0) - (shares[a.name] || 0) || a.index - b.index);
}

function drawParallel() {
  const metric = metricShown();
  const axes = [...ranked(metric).slice(0, MOST_AXES), metric];
  const scales = axes.map(scaleOf);
  const scored = filtered.filter((run) => isNumber(valueOf(run, metric)));
  scored.sort((a, b) => (metric.higher ? 1 : -1) * (valueOf(a, metric) - valueOf(b, metric))); // the best are drawn last
  const shades = Array.from({ length: NUM_SHADES }, () => []);
  scored.forEach((run, rank) => shades[Math.floor((rank * NUM_SHADES) / scored.length)].push(run));
  const line = (members, style, opacity = 1) => {
    const vertices = members.flatMap((run) => [...axes.map((column, i) => [run, column, i]), [run, null, null]]);
    return {
      type: "scatter", mode: "lines", connectgaps: false, line: style, opacity,
      x: vertices.map(([, , i]) => i), y: vertices.map(([run, column, i]) => (column ? scales[i].at(valueOf(run, column)) : null)),
      customdata: vertices.map(([run]) => run.index), hoverinfo: "text",
      text: vertices.map(([run, column]) => (column ? `${plain(run.name)}<br>${plain(column.name)} ${plain(format(valueOf(run, column), column))}<br>${plain(metric.name)} ${format(valueOf(run, metric), metric)}` : "")),
    };
  };
  const [width, opacity] = scored.length > 300 ? [0.8, 0.6] : [1.6, 1];
  const traces = shades.map((members, i) => line(members, { color: mixed(css("--pale"), css("--accent"), i / (NUM_SHADES - 1)), width }, opacity));
  traces.push(...chosen.filter((run) => scored.includes(run)).map((run) => line([run], { color: colourOf(run), width: 3 })));
  const annotations = axes.flatMap((column, i) => [
    { x: i, y: 1, yref: "paper", text: wrapped(column.name), showarrow: false, yanchor: "bottom", font: { color: css("--text"), size: 12 } },
    ...scales[i].ticks.map(([y, text]) => ({
      x: i, y, text: plain(text), showarrow: false, xanchor: i === axes.length - 1 ? "left" : "right", xshift: i === axes.length - 1 ? 4 : -4,
      font: { size: 11, color: css("--soft") }, bgcolor: translucent(css("--back")), borderpad: 1,
    })),
  ]);
  const shapes = axes.map((_, i) => ({ type: "line", x0: i, x1: i, y0: 0, y1: 1, line: { color: css("--soft"), width: 1 }, layer: "above" }));
  byId("parallel-note").textContent =
    `A line for each run that the filter keeps and that has ${metric.name}, ${scored.length} in all; the stronger its colour, the better, and ` +
    `those chosen in their colours. ${canDrag() ? "Drag a box over a part of an axis: the filter then keeps what passes through it." : "The filter narrows them down."}`;
  byId("parallel-chart").style.minWidth = `${Math.max(320, axes.length * 88)}px`;
  return draw("parallel-chart", traces, {
    height: 380, margin: { l: 62, r: 62, t: 62, b: 14 }, annotations, shapes, dragmode: canDrag() ? "select" : false, selections: [],
    xaxis: { visible: false, range: [-0.08, axes.length - 0.92], fixedrange: true }, yaxis: { visible: false, range: [-0.04, 1.04], fixedrange: true },
  }, `Parallel coordinates of ${scored.length} runs over ${axes.map((column) => column.name).join(", ")}. The table holds the same values.`)
    .then(() => {
      listen("parallel-chart", "click", chooseClicked);
      listen("parallel-chart", "selected", (event) => keepSelected(event));
      byId("parallel-chart").axes = axes.map((column, i) => ({ column, scale: scales[i] }));
    });
}

/** Write what was drawn around into the filter. */
function keepSelected(event) {
  if (!event || !event.range) return;
  const [left, right] = [...event.range.x].sort((a, b) => a - b);
  const [low, high] = [...event.range.y].sort((a, b) => a - b);
  const conditions = byId("parallel-chart").axes.flatMap(({ column, scale }, i) => {
    if (i < left || i > right) return [];
    const inside = scale.values.filter((value) => scale.at(value) >= low && scale.at(value) <= high);
    return inside.length ? [conditionFor(column, inside)] : [];
  });
  if (!conditions.length) return drawParallel();
  const before = byId("filter").value.trim();
  const isCondition = before && !readFilter(before).wrong && (/[<>=!]/.test(before) || WORD_OPERATORS.test(before));
  byId("filter").value = [...(isCondition ? [/\bor\b/.test(before) ? `(${before})` : before] : []), ...conditions].join(" and ");
  return filterChanged();
}

function canDrag() {
  return !matchMedia("(pointer: coarse)").matches;
}

function wrapped(name) {
  const lines = [""];
  for (const part of name.split(/(?<=[_ .])/)) {
    if ((lines.at(-1) + part).length > 12 && lines.at(-1)) lines.push(part);
    else lines[lines.length - 1] += part;
  }
  return lines.slice(0, 3).map((line) => plain(shorten(line, 14))).join("<br>");
}

function rgb(colour) {
  const text = colour.replace("#", "");
  return [0, 2, 4].map((place) => parseInt(text.slice(place, place + 2), 16));
}

function mixed(from, to, share) {
  const [a, b] = [rgb(from), rgb(to)];
  return `rgb(${a.map((level, i) => Math.round(level + share * (b[i] - level))).join(",")})`;
}

function translucent(colour) {
  return `rgba(${rgb(colour).join(",")},0.82)`;
}

// The metric against each hyperparameter

function drawEach() {
  const metric = metricShown();
  const scored = filtered.filter((run) => isNumber(valueOf(run, metric)));
  const names = ranked(metric);
  const grid = byId("each-charts");
  while (grid.children.length > names.length) grid.lastChild.remove();
  while (grid.children.length < names.length) {
    grid.append(make("figure", { style: "margin: 0" }, make("h3"), make("div", { class: "chart", role: "img" })));
  }
  return names.map((column, i) => () => {
    const [title, chart] = grid.children[i].children;
    title.textContent = column.name;
    return drawAgainst(chart, column, metric, scored);
  });
}

function drawAgainst(chart, column, metric, scored) {
  const present = scored.filter((run) => valueOf(run, column) !== null);
  const values = present.map((run) => valueOf(run, column));
  const numeric = values.length > 0 && values.every(isNumber);
  const isLogarithmic = numeric && isLog(values);
  const names = numeric ? [] : [...new Set(values.map((value) => JSON.stringify(value)))].map((text) => JSON.parse(text)).sort(compareText);
  const place = new Map(names.map((value, i) => [JSON.stringify(value), i]));
  // where many points have the same place they are spread a little, by a number that stays the same for a run
  const spread = (run) => ((run.index * 0.618) % 1) - 0.5;
  const gap = numeric && present.length > 30 ? gapOf(values) : isLogarithmic ? 1 : 0;
  const at = (run) => {
    const value = valueOf(run, column);
    if (!numeric) return place.get(JSON.stringify(value)) + spread(run) * 0.36;
    return isLogarithmic ? value * gap ** (0.3 * spread(run)) : value + 0.3 * gap * spread(run);
  };
  const points = (members, marker) => ({
    type: "scatter", mode: "markers", x: members.map(at), y: members.map((run) => valueOf(run, metric)), marker, hoverinfo: "text",
    customdata: members.map((run) => run.index),
    text: members.map((run) => `${plain(run.name)}<br>${plain(column.name)} ${plain(format(valueOf(run, column), column))}<br>${plain(metric.name)} ${format(valueOf(run, metric), metric)}`),
  });
  const marked = present.filter((run) => chosen.includes(run));
  const traces = [
    points(present, { color: css("--accent"), size: present.length > 500 ? 4 : 6, opacity: present.length > 500 ? 0.35 : 0.55 }),
    points(marked, { color: marked.map(colourOf), size: 10, line: { color: css("--back"), width: 1 } }),
  ];
  const xaxis = numeric
    ? { type: isLogarithmic ? "log" : "linear", ...numberTicks(values) }
    : { tickvals: names.map((_, i) => i), ticktext: names.map((value) => plain(shorten(format(value), 16))), range: [-0.6, names.length - 0.4] };
  const words = `${metric.name} against ${column.name}, ${present.length} runs. ` + summaryOf(present, column, metric, names);
  return draw(chart, traces, { height: 210, margin: { l: 46, r: 8, t: 6, b: 28 }, xaxis, yaxis: { nticks: 5 } }, words)
    .then(() => listen(chart, "click", chooseClicked));
}

/** Return ticks at the values themselves where they are few, as in a grid. */
function numberTicks(values) {
  const few = [...new Set(values)].sort((a, b) => a - b);
  const move = isLog(values) ? Math.log : (value) => value;
  const span = move(few.at(-1)) - move(few[0]);
  const apart = few.length <= 6 && few.every((value, i) => !i || move(value) - move(few[i - 1]) > 0.12 * span);
  if (apart) return { tickvals: few, ticktext: few.map(formatNumber) };
  return isLog(values) ? { dtick: Math.log10(few.at(-1) / few[0]) < 1.5 ? "D2" : 1, tickformat: "~g" } : { nticks: 6 };
}

/** Return the smallest distance (of a logarithmic axis, ratio) between values that are few, and otherwise none. */
function gapOf(values) {
  const few = [...new Set(values)].sort((a, b) => a - b);
  const logarithmic = isLog(values);
  if (few.length > 6) return logarithmic ? 1 : 0;
  return Math.min(...few.slice(1).map((value, i) => (logarithmic ? value / few[i] : value - few[i])));
}

/** Say what a chart of the metric against a hyperparameter shows: the best value, and of names the mean of each. */
function summaryOf(present, column, metric, names) {
  if (!present.length) return "No run has both.";
  if (names.length && names.length <= 8) {
    return names.map((name) => {
      const group = present.filter((run) => valueOf(run, column) === name).map((run) => valueOf(run, metric));
      return group.length ? `${format(name)}: mean ${formatNumber(group.reduce((a, b) => a + b, 0) / group.length)}` : "";
    }).filter(Boolean).join("; ");
  }
  const top = present.reduce((a, b) => (valueOf(a, metric) > valueOf(b, metric) === metric.higher ? a : b));
  return `Best ${format(valueOf(top, metric), metric)} at ${format(valueOf(top, column), column)}.`;
}

function metricShown() {
  return columnNamed.get(byId("metric").value);
}
