// The metric against each hyperparameter: a small chart for each, a point for each run.

function drawEach() {
  const metric = metricShown();
  const scored = scoredRuns(metric);
  const names = rankedInGroup(metric);
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
  const names = numeric
    ? []
    : [...new Set(values.map((value) => JSON.stringify(value)))].map((text) => JSON.parse(text)).sort(compareText);
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
    type: "scatter",
    mode: "markers",
    x: members.map(at),
    y: members.map((run) => valueOf(run, metric)),
    marker,
    hoverinfo: "text",
    customdata: members.map((run) => run.index),
    text: members.map((run) => pointText(run, column, metric)),
  });
  const marked = present.filter((run) => chosen.includes(run));
  const traces = [
    points(present, {
      color: css("--accent"),
      size: present.length > 500 ? 4 : 6,
      opacity: present.length > 500 ? 0.35 : 0.55,
    }),
    points(marked, { color: marked.map(colourOf), size: 10, line: { color: css("--back"), width: 1 } }),
  ];
  const xaxis = numeric
    ? { type: isLogarithmic ? "log" : "linear", ...numberTicks(values) }
    : {
        tickvals: names.map((_, i) => i),
        ticktext: names.map((value) => plain(shorten(format(value), 16))),
        range: [-0.6, names.length - 0.4],
      };
  const words =
    `${metric.name} against ${column.name}, ${present.length} runs. ` + summaryOf(present, column, metric, names);
  return draw(
    chart,
    traces,
    { height: 210, margin: { l: 46, r: 8, t: 6, b: 28 }, xaxis, yaxis: { nticks: 5 } },
    words,
  ).then(() => listen(chart, "click", chooseClicked));
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
    return names
      .map((name) => {
        const group = present.filter((run) => valueOf(run, column) === name).map((run) => valueOf(run, metric));
        return group.length
          ? `${format(name)}: mean ${formatNumber(group.reduce((a, b) => a + b, 0) / group.length)}`
          : "";
      })
      .filter(Boolean)
      .join("; ");
  }
  const top = present.reduce((a, b) => (valueOf(a, metric) > valueOf(b, metric) === metric.higher ? a : b));
  return `Best ${format(valueOf(top, metric), metric)} at ${format(valueOf(top, column), column)}.`;
}
