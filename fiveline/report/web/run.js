// A run's own page, at #run=NAME: its metrics, curve, confusion matrix, worst mistakes and hyperparameters.

/** Return a list of names with their values. */
function listOf(entries, attributes, differing = new Set()) {
  const pair = ([name, value, more]) =>
    make(
      "div",
      { class: differing.has(name) ? "differs" : null },
      make("dt", {}, name),
      make("dd", {}, value, more ? make("small", {}, more) : null),
    );
  return make("dl", attributes, ...entries.map(pair));
}

function metricsTable(run) {
  const text = (split, name) => {
    const column = columnNamed.get(split === "test" ? `test ${name}` : name);
    return column && valueOf(run, column) !== null ? format(valueOf(run, column), column) : "";
  };
  const all = [...new Set(metrics.map((column) => column.name.replace(/^test /, "")))];
  const names = all.filter((name) => text("val", name) || text("test", name));
  const splits = ["val", "test"].filter((split) => names.some((name) => text(split, name)));
  if (!names.length) return make("p", { class: "note" }, "It has no metrics yet.");
  const cells = (name) => [...splits.map((split) => text(split, name)), intervalOf(run, name)];
  const head = ["metric", ...splits, "95% interval on test"];
  const rows = names.map((name) => [name, ...cells(name).map((cell) => cell || "–")]);
  const hasIntervals = names.some((name) => intervalOf(run, name));
  return wide(tableOf(...(hasIntervals ? [head, rows] : [head.slice(0, -1), rows.map((row) => row.slice(0, -1))])));
}

function drawRun(run) {
  const facts = ["status", "epochs", "time"]
    .map((name) => columnNamed.get(name))
    .filter((column) => column && valueOf(run, column) !== null)
    .map((column) => [column.name, format(valueOf(run, column), column)]);
  if (groups.length > 1) facts.unshift(["data", groups[run.group].name]);
  if (run.best_epoch !== null) facts.push(["best epoch", String(run.best_epoch)]);
  const own = params.map((column) => [column.name, valueOf(run, column)]).filter(([, value]) => value !== null);
  const entries = [...own, ...Object.entries(run.others)].map(([name, value]) => [name, format(value)]);
  const select = make("select", { id: "run-metric" }, ...seriesNames([run]).map((name) => make("option", {}, name)));
  const [title, star] = nameOf(run, "h2");
  const chart = make("div", { class: "chart", role: "img", id: "run-chart" });
  const section = (heading, ...children) => make("section", {}, make("h3", {}, heading), ...children);
  const curve = [make("div", { class: "bar" }, make("label", {}, "Metric ", select)), chart, curveLegend()];
  const none = make("p", { class: "note" }, "It has no history.");
  byId("run").replaceChildren(
    runs.length > 1 ? make("a", { href: "#" }, "← All runs") : "",
    make("header", {}, title, star),
    listOf(facts, { class: "facts" }),
    make(
      "div",
      { class: "two" },
      section("Metrics of the best weights", metricsTable(run)),
      section("Learning curve", ...(select.length ? curve : [none])),
    ),
    make("section", {}, ...predictionsSection(run)),
    section("Hyperparameters", listOf(entries, { class: "pairs" }, new Set(params.map((column) => column.name)))),
  );
  const monitored = groups[run.group].monitor?.name;
  if (curveOf(run, monitored)) select.value = monitored;
  const drawOne = () => drawCurvesOf(chart, [run], select.value, true, { height: 280 });
  select.addEventListener("change", drawOne);
  if (select.length) drawOne();
  const points = study.details.runs[run.index]?.points;
  if (points) drawPoints(points, run.name);
  return title;
}
