// A run's own page, at #run=NAME, and what happens when the page opens.

function pairsOf(entries, differing) {
  return make("dl", { class: "pairs" }, ...entries.map(([name, value]) =>
    make("div", { class: differing.has(name) ? "differs" : null }, make("dt", {}, name), make("dd", {}, format(value)))));
}

function metricsTable(run) {
  const names = [...new Set(metrics.map((column) => column.name.replace(/^test /, "")))];
  const splits = ["val", "test"].filter((split) => metrics.some((column) => column.kind === split && valueOf(run, column) !== null));
  if (!splits.length) return make("p", { class: "told" }, "It has no metrics yet.");
  const value = (split, name) => columnNamed.get(split === "test" ? `test ${name}` : name);
  const rows = names.filter((name) => splits.some((split) => value(split, name) && valueOf(run, value(split, name)) !== null));
  return make("table", { class: "plain" },
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "metric"), ...splits.map((split) => make("th", { scope: "col" }, split)))),
    make("tbody", {}, ...rows.map((name) => make("tr", {}, make("th", { scope: "row" }, name), ...splits.map((split) => {
      const column = value(split, name);
      return make("td", {}, column ? format(valueOf(run, column), column) : "–");
    })))));
}

function confusionTable({ classes, counts }) {
  const rows = classes.map((label, i) => {
    const total = counts[i].reduce((a, b) => a + b, 0);
    return make("tr", {}, make("th", { scope: "row" }, label), ...counts[i].map((count, j) => {
      const share = total ? count / total : 0;
      const kind = count ? `some ${i === j ? "right" : "off"}` : null;
      return make("td", { class: kind, style: count ? `--share: ${(i === j ? 0.12 + 0.4 * share : 0.18 + 0.6 * share).toFixed(3)}` : null }, count ? String(count) : "·");
    }));
  });
  return make("div", { class: "wide", role: "region", tabindex: "0", "aria-label": "Confusion matrix" },
    make("table", { class: "matrix" },
      make("caption", {}, "A row for each label, a column for each prediction; the darker, the larger its share of the row."),
      make("thead", {}, make("tr", {}, make("td"), ...classes.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows)));
}

function confusionSection(detail) {
  const { confusion } = detail;
  if (confusion.counts) return confusionTable(confusion);
  return make("div", {},
    make("p", { class: "told" }, `${confusion.num_classes} classes; what was most often taken for what:`),
    make("table", { class: "plain" },
      make("thead", {}, make("tr", {}, ...["label", "prediction", "times"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...confusion.pairs.map(([a, b, count]) => make("tr", {}, make("td", {}, a), make("td", {}, b), make("td", {}, String(count)))))));
}

function perClassTable(rows) {
  const names = Object.keys(rows[0]);
  return make("div", { class: "wide", role: "region", tabindex: "0", "aria-label": "Metrics of each class" },
    make("table", { class: "plain" },
      make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...names.map((name, i) => {
        const number = Number(row[name]);
        const text = i > 1 && Number.isFinite(number) ? number.toFixed(4) : row[name];
        return i ? make("td", {}, text) : make("th", { scope: "row" }, text);
      }))))));
}

function sentenceOf(tokens, label, prediction) {
  const [labels, predictions] = [label.split(" "), prediction.split(" ")];
  return make("p", { class: "sentence" }, ...tokens.flatMap((token, i) => {
    const isWrong = labels[i] !== predictions[i];
    const notes = isWrong ? [make("small", {}, make("del", {}, predictions[i] || "–"), ` → ${labels[i] || "–"}`)]
      : labels[i] !== "O" ? [make("small", {}, labels[i] || "")] : [make("small", {}, "\u00a0")];
    return [make("span", { class: isWrong ? "token off" : "token" }, token, ...notes), " "];
  }));
}

function mistakeItem(row) {
  const input = isNumber(row.input) ? study.details.inputs[row.input] : null;
  const sure = row.confidence ? `, ${(100 * Number(row.confidence)).toFixed(0)}% sure` : "";
  const loss = row.loss ? `loss ${formatNumber(Number(Number(row.loss).toPrecision(3)))}` : "";
  const told = make("p", { class: "id" }, [row.id, loss].filter(Boolean).join(" · "));
  if (input && input.tokens) return make("li", {}, sentenceOf(input.tokens, row.label, row.prediction), told);
  const shorter = (text) => (Number.isFinite(Number(text)) && /\.\d{5}/.test(text) ? formatNumber(Number(text)) : text);
  const verdict = make("p", { class: "verdict" }, make("span", { class: "wrong-text" }, shorter(row.prediction)), " should be ", make("b", {}, shorter(row.label)), sure);
  if (input && input.row) {
    const cells = input.row.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
    const more = input.more ? make("p", { class: "id" }, `and ${input.more} columns more`) : null;
    return make("li", {}, verdict, make("dl", { class: "cells" }, ...cells), more, told);
  }
  if (input) return make("li", {}, make("img", { src: input.image, alt: `Input ${row.id}`, class: input.side <= 32 ? "small" : null }), verdict, told);
  return make("li", {}, verdict, told);
}

function predictionsSection(run) {
  const detail = study.details.runs[run.index];
  if (!detail) {
    const has = metrics.some((column) => column.kind === "test" && valueOf(run, column) !== null);
    const told = has ? `This page holds the predictions of the ${Object.keys(study.details.runs).length} best runs that have any. synthesize_results.py with this run's directory as --parent_dir makes a page of its own.`
      : "There are no predictions on test yet: evaluate.py makes them.";
    return [make("h3", {}, "Predictions on test"), make("p", { class: "told" }, told)];
  }
  const { examples, mistakes, worst } = detail;
  const isText = worst.some((row) => !isNumber(row.input) || !study.details.inputs[row.input].image);
  const list = make("ol", { class: isText ? "mistakes text" : "mistakes" }, ...worst.map(mistakeItem));
  const note = detail.note === undefined ? null : make("p", { class: "told" }, study.details.notes[detail.note]);
  if (detail.points) {
    return [make("h3", {}, "Predictions on test"), make("div", { class: "chart", role: "img", id: "points-chart" }),
      make("h3", {}, "Farthest off"), note, list];
  }
  const share = `${mistakes} of ${examples} examples are wrong.`;
  const sections = [make("div", { class: "two" },
    make("div", {}, make("h3", {}, "Confusion matrix, test"), confusionSection(detail)),
    detail.per_class.length ? make("div", {}, make("h3", {}, "Each class"), perClassTable(detail.per_class)) : null)];
  sections.push(make("h3", {}, "Worst mistakes"));
  sections.push(make("p", { class: "told" }, mistakes ? `${share} ${worst.length < mistakes ? `The ${worst.length} of the largest loss:` : ""}` : `None: all ${examples} examples are right.`));
  if (note && worst.length) sections.push(note);
  return [...sections, list];
}

function drawPoints(points, title) {
  const [labels, predictions] = [points.map(([label]) => label), points.map(([, prediction]) => prediction)];
  const ends = [Math.min(...labels, ...predictions), Math.max(...labels, ...predictions)];
  return draw("points-chart", [
    { type: "scatter", mode: "lines", x: ends, y: ends, line: { color: css("--soft"), width: 1, dash: "dot" }, hoverinfo: "skip" },
    { type: "scatter", mode: "markers", x: labels, y: predictions, marker: { color: css("--accent"), size: 6, opacity: 0.6 }, hovertemplate: "label %{x}<br>prediction %{y}<extra></extra>" },
  ], { height: 360, xaxis: { title: { text: "label" } }, yaxis: { title: { text: "prediction" } } },
  `Predictions against labels of ${points.length} test examples of ${title}; on the dotted line they are equal.`);
}

function drawRun(run) {
  const status = columnNamed.get("status");
  const facts = [["status", status], ["epochs", columnNamed.get("epochs")], ["time", columnNamed.get("time")]]
    .filter(([, column]) => column && valueOf(run, column) !== null).map(([name, column]) => [name, format(valueOf(run, column), column)]);
  if (run.best_epoch !== null) facts.push(["best epoch", String(run.best_epoch)]);
  const differing = new Set(params.map((column) => column.name));
  const entries = [...params.filter((column) => valueOf(run, column) !== null).map((column) => [column.name, valueOf(run, column)]),
    ...Object.entries(study.shared[run.shared])];
  const select = make("select", { id: "run-metric" }, ...seriesNames([run]).map((name) => make("option", {}, name)));
  const title = make("h2", { tabindex: "-1" }, ...breakable(run.name), run === best && runs.length > 1 ? make("span", { class: "star" }, "★ best") : "");
  byId("run").replaceChildren(
    runs.length > 1 ? make("a", { href: "#" }, "← All runs") : "",
    make("header", {}, title),
    make("dl", { class: "facts" }, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
    make("div", { class: "two" },
      make("section", {}, make("h3", {}, "Metrics of the best weights"), metricsTable(run)),
      make("section", {}, make("h3", {}, "Learning curve"), make("div", { class: "bar" }, make("label", {}, "Metric ", select)), make("div", { class: "chart", role: "img", id: "run-chart" }))),
    make("section", {}, ...predictionsSection(run)),
    make("section", {}, make("h3", {}, "Hyperparameters"), pairsOf(entries, differing)),
  );
  if (monitor && seriesNames([run]).includes(monitor.name)) select.value = monitor.name;
  const drawOne = () => draw("run-chart", curveTraces([run], select.value, true), { ...curveLayout([run], select.value, false), height: 280 }, curveWords([run], select.value));
  select.addEventListener("change", drawOne);
  if (select.value) drawOne();
  else byId("run-chart").replaceWith(make("p", { class: "told" }, "It has no history."));
  const detail = study.details.runs[run.index];
  if (detail && detail.points) drawPoints(detail.points, run.name);
  return title;
}

/** Return the names of the curves that some of the runs have, those of val first. */
function seriesNames(some) {
  const names = new Set(some.flatMap((run) => (study.curves[run.index] ? Object.keys(study.curves[run.index].series) : [])));
  const ours = [...names].filter((name) => !name.startsWith("train "));
  return [...ours.filter((name) => name !== "learning_rate"), ...ours.filter((name) => name === "learning_rate")];
}

/** Show what the address says: all runs, or one. */
function route(isFirst) {
  const wanted = location.hash.startsWith("#run=") ? runNamed.get(decodeURIComponent(location.hash.slice(5))) : null;
  const run = wanted || (runs.length === 1 ? runs[0] : null);
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
    drawCharts();
  }
}

let turn = 0;

/** Draw the charts one after the other, so that the page answers in between. */
async function drawCharts(steps = [drawCurves, drawImportance, drawParallel, drawEach]) {
  turn += 1;
  const mine = turn;
  document.documentElement.dataset.drawn = "no";
  const queue = [...steps];
  while (queue.length) {
    await new Promise((done) => setTimeout(done));
    if (mine !== turn || byId("overview").hidden) return;
    const more = await queue.shift()();
    if (Array.isArray(more)) queue.unshift(...more);
  }
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
  const told = study.left_out ? [`the best of ${runs.length + study.left_out}`] : [];
  const facts = [["runs", String(runs.length), [...told, ...[...states].map(([state, number]) => `${number} ${state}`)].join(", ")]];
  if (best && runs.length > 1) {
    const ties = runs.filter((run) => valueOf(run, monitor) === valueOf(best, monitor)).length - 1;
    const link = make("a", { href: addressOf(best) }, ...breakable(best.name));
    facts.push([`best ${monitor.name}`, format(valueOf(best, monitor), monitor), make("span", {}, link, ties ? `, and ${ties} more` : "")]);
  }
  const test = best && columnNamed.get(`test ${monitor.name}`);
  if (test && isNumber(valueOf(best, test))) facts.push(["of these weights on test", format(valueOf(best, test), test), ""]);
  if (times.length) facts.push(["time, all together", formatSeconds(times.reduce((a, b) => a + b, 0)), ""]);
  byId("facts").replaceChildren(...facts.map(([name, value, more]) => make("div", {}, make("dt", {}, name), make("dd", {}, value, more ? make("small", {}, more) : null))));
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
  byId("problems").querySelector("summary").textContent = `${study.problems.length} files could not be read`;
  byId("problems").querySelector("ul").append(...study.problems.slice(0, 200).map((line) => make("li", {}, line)));
  const longest = Math.max(...runs.map((run) => run.name.length));
  byId("table").style.setProperty("--name", `${Math.min(18.5, Math.max(8, 0.55 * longest))}rem`);
  drawFacts();
  byId("curve-metric").append(...seriesNames(runs).map(option));
  byId("metric").append(...metrics.map((column) => option(column.name)));
  if (monitor) byId("metric").value = monitor.name;
  if (monitor && seriesNames(runs).includes(monitor.name)) byId("curve-metric").value = monitor.name;
  byId("study-charts").hidden = !hasStudy();
  byId("curves").hidden = !seriesNames(runs).length;
  const chooseTop = () => {
    [...chosen].forEach((run) => choose(run, false));
    sorted().filter((run) => study.curves[run.index]).slice(0, 5).forEach((run) => choose(run, true));
  };
  chooseTop();
  drawColumnList();
  applyFilter();
  byId("filter").addEventListener("input", later(filterChanged));
  byId("choose-top").addEventListener("click", () => { chooseTop(); drawChosen(); });
  byId("choose-none").addEventListener("click", () => { [...chosen].forEach((run) => choose(run, false)); drawChosen(); });
  byId("more").addEventListener("click", () => { rowsShown += 500; drawTable(); });
  for (const id of ["curve-metric", "curve-train", "curve-log"]) byId(id).addEventListener("change", drawCurves);
  byId("metric").addEventListener("change", () => drawCharts([drawImportance, drawParallel, drawEach]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawTable(); if (byId("overview").hidden) route(false); else drawCharts(allCharts()); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") byId("columns").open = false; });
  document.addEventListener("click", (event) => { if (!byId("columns").contains(event.target)) byId("columns").open = false; });
  addEventListener("hashchange", () => route(false));
  // the table is there already while the browser still reads Plotly, which comes last
  document.addEventListener("DOMContentLoaded", () => {
    route(true);
    if (!byId("overview").hidden) drawCharts(allCharts());
  });
}

function allCharts() {
  return [...(byId("curves").hidden ? [] : [drawCurves]), ...(hasStudy() ? [drawImportance, drawParallel, drawEach] : [])];
}

start();
