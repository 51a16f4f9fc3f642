// A run's own page, at #run=NAME: its metrics, curve, confusion matrix, worst mistakes and hyperparameters.

function pairsOf(entries, differing) {
  return make(
    "dl",
    { class: "pairs" },
    ...entries.map(([name, value]) =>
      make(
        "div",
        { class: differing.has(name) ? "differs" : null },
        make("dt", {}, name),
        make("dd", {}, format(value)),
      ),
    ),
  );
}

function metricsTable(run) {
  const names = [...new Set(metrics.map((column) => column.name.replace(/^test /, "")))];
  const known = (split, name) => {
    const column = columnNamed.get(split === "test" ? `test ${name}` : name);
    return column && valueOf(run, column) !== null ? format(valueOf(run, column), column) : null;
  };
  const splits = ["val", "test"].filter((split) => names.some((name) => known(split, name)));
  if (!splits.length) return make("p", { class: "note" }, "It has no metrics yet.");
  const intervals = study.details.runs[run.index]?.intervals || {};
  const hasIntervals = Object.keys(intervals).length > 0;
  const rows = names
    .filter((name) => splits.some((split) => known(split, name)))
    .map((name) => [
      name,
      ...splits.map((split) => known(split, name) ?? "–"),
      ...(hasIntervals ? [intervalOf(run, name) || "–"] : []),
    ]);
  const head = ["metric", ...splits, ...(hasIntervals ? ["95% interval on test"] : [])];
  return make("div", { class: "wide" }, tableOf(head, rows, { class: "plain" }));
}

function drawRun(run) {
  const facts = ["status", "epochs", "time"]
    .map((name) => [name, columnNamed.get(name)])
    .filter(([, column]) => column && valueOf(run, column) !== null)
    .map(([name, column]) => [name, format(valueOf(run, column), column)]);
  if (groups.length > 1) facts.unshift(["data", groups[run.group].name]);
  if (run.best_epoch !== null) facts.push(["best epoch", String(run.best_epoch)]);
  const differing = new Set(params.map((column) => column.name));
  const entries = [
    ...params.filter((column) => valueOf(run, column) !== null).map((column) => [column.name, valueOf(run, column)]),
    ...Object.entries(study.shared[run.shared]),
  ];
  const select = make("select", { id: "run-metric" }, ...seriesNames([run]).map((name) => make("option", {}, name)));
  const title = make(
    "h2",
    { tabindex: "-1" },
    ...breakable(run.name),
    isBest(run) ? make("span", { class: "star" }, "★ best") : "",
  );
  byId("run").replaceChildren(
    runs.length > 1 ? make("a", { href: "#" }, "← All runs") : "",
    make("header", {}, title),
    make(
      "dl",
      { class: "facts" },
      ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    ),
    make(
      "div",
      { class: "two" },
      make("section", {}, make("h3", {}, "Metrics of the best weights"), metricsTable(run)),
      make(
        "section",
        {},
        make("h3", {}, "Learning curve"),
        make("div", { class: "bar" }, make("label", {}, "Metric ", select)),
        make("div", { class: "chart", role: "img", id: "run-chart" }),
        curveLegend(),
      ),
    ),
    make("section", {}, ...predictionsSection(run)),
    make("section", {}, make("h3", {}, "Hyperparameters"), pairsOf(entries, differing)),
  );
  const own = groups[run.group].monitor;
  if (own && seriesNames([run]).includes(own.name)) select.value = own.name;
  const drawOne = () =>
    draw(
      "run-chart",
      curveTraces([run], select.value, true),
      { ...curveLayout([run], select.value, false), height: 280 },
      curveWords([run], select.value),
    );
  select.addEventListener("change", drawOne);
  if (select.value) drawOne();
  else byId("run-chart").replaceWith(make("p", { class: "note" }, "It has no history."));
  const detail = study.details.runs[run.index];
  if (detail && detail.points) drawPoints(detail.points, run.name);
  return title;
}

/** Return the names of the curves that some of the runs have; val comes first. */
function seriesNames(some) {
  const names = new Set(
    some.flatMap((run) => (study.curves[run.index] ? Object.keys(study.curves[run.index].series) : [])),
  );
  const ours = [...names].filter((name) => !name.startsWith("train "));
  return [...ours.filter((name) => name !== "learning_rate"), ...ours.filter((name) => name === "learning_rate")];
}
