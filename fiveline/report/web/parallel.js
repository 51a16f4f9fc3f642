// Parallel coordinates: a line for each run across its hyperparameters and a metric.

/** Return where a column's values are on an axis from 0 to 1, and its ticks. */
function scaleOf(column) {
  const values = groupShown()
    .members.map((run) => valueOf(run, column))
    .filter((value) => value !== null);
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
    const ticks = (apart ? few : even).map((value) => [
      at(value),
      formatNumber(Number(value.toPrecision(apart ? 12 : 3))),
    ]);
    return { at: (value) => (isNumber(value) ? at(value) : null), ticks };
  }
  const names = distinct.map((text) => JSON.parse(text)).sort((a, b) => compareText(a, b));
  const place = new Map(
    names.map((value, i) => [JSON.stringify(value), names.length > 1 ? i / (names.length - 1) : 0.5]),
  );
  const step = Math.ceil(names.length / 12);
  const ticks = names
    .filter((_, i) => i % step === 0)
    .map((value) => [place.get(JSON.stringify(value)), shorten(format(value, column), 14)]);
  return { at: (value) => (value === null ? null : place.get(JSON.stringify(value))), ticks };
}

function compareText(a, b) {
  return isNumber(a) && isNumber(b) ? a - b : format(a).localeCompare(format(b), "en", { numeric: true });
}

function shorten(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

/** Return the hyperparameters, those that matter most for the metric first. */
function ranked(metric) {
  const shares = groupShown().importance[metric.name].shares;
  return [...params].sort((a, b) => (shares[b.name] || 0) - (shares[a.name] || 0) || a.index - b.index);
}

/** Return the hyperparameters that differ among the runs of the group shown, as `ranked`. */
function rankedInGroup(metric) {
  const values = (column) => new Set(groupShown().members.map((run) => JSON.stringify(valueOf(run, column))));
  return ranked(metric).filter((column) => values(column).size > 1);
}

/** Return the runs that the charts of hyperparameters show. */
function scoredRuns(metric) {
  return filtered.filter((run) => groups[run.group] === groupShown() && isNumber(valueOf(run, metric)));
}

function drawParallel() {
  const metric = metricShown();
  const axes = [...rankedInGroup(metric).slice(0, MOST_AXES), metric];
  const scales = axes.map(scaleOf);
  const scored = scoredRuns(metric);
  // the best are drawn last, on top of the others
  scored.sort((a, b) => (metric.higher ? 1 : -1) * (valueOf(a, metric) - valueOf(b, metric)));
  const shades = Array.from({ length: NUM_SHADES }, () => []);
  scored.forEach((run, rank) => shades[Math.floor((rank * NUM_SHADES) / scored.length)].push(run));
  const line = (members, style, opacity = 1) => {
    const vertices = members.flatMap((run) => [...axes.map((column, i) => [run, column, i]), [run, null, null]]);
    return {
      type: "scatter",
      mode: "lines",
      connectgaps: false,
      line: style,
      opacity,
      x: vertices.map(([, , i]) => i),
      y: vertices.map(([run, column, i]) => (column ? scales[i].at(valueOf(run, column)) : null)),
      customdata: vertices.map(([run]) => run.index),
      hoverinfo: "text",
      text: vertices.map(([run, column]) => (column ? pointText(run, column, metric) : "")),
    };
  };
  const [width, opacity] = scored.length > 300 ? [0.8, 0.6] : [1.6, 1];
  const traces = shades.map((members, i) =>
    line(members, { color: mixed(css("--pale"), css("--accent"), i / (NUM_SHADES - 1)), width }, opacity),
  );
  traces.push(
    ...chosen.filter((run) => scored.includes(run)).map((run) => line([run], { color: colourOf(run), width: 3 })),
  );
  const annotations = axes.flatMap((column, i) => [
    {
      x: i,
      y: 1,
      yref: "paper",
      text: wrapped(column.name),
      showarrow: false,
      yanchor: "bottom",
      font: { color: css("--text"), size: 12 },
    },
    ...scales[i].ticks.map(([y, text]) => ({
      x: i,
      y,
      text: plain(text),
      showarrow: false,
      xanchor: i === axes.length - 1 ? "left" : "right",
      xshift: i === axes.length - 1 ? 4 : -4,
      font: { size: 11, color: css("--soft") },
      bgcolor: translucent(css("--back")),
      borderpad: 1,
    })),
  ]);
  const shapes = axes.map((_, i) => ({
    type: "line",
    x0: i,
    x1: i,
    y0: 0,
    y1: 1,
    line: { color: css("--soft"), width: 1 },
    layer: "above",
  }));
  byId("parallel-note").textContent =
    `A line for each run that the filter keeps and that has ${metric.name}, ${scored.length} in all. The stronger ` +
    "its colour, the better the run; ticked runs have the colours of their curves.";
  byId("parallel-chart").style.minWidth = `${Math.max(320, axes.length * 88)}px`;
  return draw(
    "parallel-chart",
    traces,
    {
      height: 380,
      margin: { l: 62, r: 62, t: 62, b: 14 },
      annotations,
      shapes,
      xaxis: { visible: false, range: [-0.08, axes.length - 0.92], fixedrange: true },
      yaxis: { visible: false, range: [-0.04, 1.04], fixedrange: true },
    },
    `Parallel coordinates of ${scored.length} runs over ${axes.map((column) => column.name).join(", ")}. ` +
      "The table holds the same values.",
  ).then(() => listen("parallel-chart", "click", chooseClicked));
}

function wrapped(name) {
  const lines = [""];
  for (const part of name.split(/(?<=[_ .])/)) {
    if ((lines.at(-1) + part).length > 12 && lines.at(-1)) lines.push(part);
    else lines[lines.length - 1] += part;
  }
  return lines
    .slice(0, 3)
    .map((line) => plain(shorten(line, 14)))
    .join("<br>");
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
