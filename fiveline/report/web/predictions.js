// What a run predicted: the confusion matrix, each class, the worst mistakes with their inputs; of numbers, a chart.

function confusionSection({ confusion: { classes, counts, num_classes: number, pairs } }) {
  if (!counts) {
    const note = make("p", { class: "note" }, `${number} classes; the most frequent confusions:`);
    return make("div", {}, note, wide(tableOf(["label", "prediction", "times"], pairs)));
  }
  const rows = counts.map((row, i) => {
    const total = row.reduce((a, b) => a + b, 0);
    const cells = row.map((count, j) => {
      const share = i === j ? 0.12 + (0.4 * count) / total : 0.18 + (0.6 * count) / total;
      const attributes = { class: i === j ? "right" : "off", style: `--share: ${share.toFixed(3)}` };
      return count ? make("td", attributes, String(count)) : make("td", {}, "·");
    });
    return [className(classes[i]), ...cells];
  });
  const legend = legendOf([["right", "right"], ["off", "wrong; the darker, the larger its share of the row"]]);
  const note = make("p", { class: "legend" }, "A row for each label, a column for each prediction: ", ...legend);
  const table = tableOf(["", ...classes.map(className)], rows, { class: "matrix" });
  return make("div", {}, note, wide(table, "Confusion matrix"));
}

/** Return a class's name, which continues in the next line only after a word; a very long one is cut. */
function className(name) {
  return make("span", { class: "class-name", title: name }, ...breakable(name, /(?<=[_/ -])/));
}

function perClassTable(rows) {
  const names = Object.keys(rows[0]); // `class`, `examples`, metrics
  const text = (value, i) => (i > 1 && Number.isFinite(parseFloat(value)) ? Number(value).toFixed(4) : value);
  const cells = (row) => names.map((name, i) => (i ? text(row[name], i) : className(row[name])));
  return wide(tableOf(names, rows.map(cells)), "Metrics of each class");
}

function sentenceOf(tokens, label, prediction) {
  const [labels, predictions] = [label.split(" "), prediction.split(" ")];
  const words = tokens.flatMap((token, i) => {
    const isWrong = labels[i] !== predictions[i];
    const label = labels[i] && (isWrong || labels[i] !== "O") ? labels[i] : "\u00a0";
    const note = isWrong ? [make("del", {}, predictions[i] || "–"), ` → ${label}`] : [label];
    return [make("span", { class: isWrong ? "token off" : "token" }, token, make("small", {}, ...note)), " "];
  });
  return make("p", { class: "sentence" }, ...words);
}

/** Return a token in its context, and what was predicted instead: of "before⟦token⟧ predicted ⟦other⟧". */
function worstToken({ id, worst, worst_loss: loss }) {
  const [before, token, , predicted] = worst.split(/[⟦⟧]/);
  const text = make("code", {}, before, make("mark", {}, token));
  const other = token === predicted ? "" : [", predicted ", make("code", { class: "wrong-text" }, predicted)];
  const note = make("p", { class: "id" }, `example ${id} · loss of the token ${Number(loss).toFixed(2)}`);
  return make("div", {}, make("p", { class: "verdict" }, text, ...other), note);
}

function mistakeItem(row) {
  const input = study.details.inputs[row.input] ?? {};
  const loss = row.loss ? `loss ${formatNumber(Number(Number(row.loss).toPrecision(3)))}` : "";
  const note = make("p", { class: "id" }, [row.id, loss].filter(Boolean).join(" · "));
  if (row.worst) return make("li", {}, worstToken(row));
  if (input.tokens) return make("li", {}, sentenceOf(input.tokens, row.label, row.prediction), note);
  const shorter = (text) => (Number.isFinite(Number(text)) && /\.\d{5}/.test(text) ? formatNumber(Number(text)) : text);
  const sure = row.confidence ? `, ${(100 * Number(row.confidence)).toFixed(0)}% sure` : "";
  const [prediction, label] = [make("span", { class: "wrong-text" }, shorter(row.prediction)), shorter(row.label)];
  const verdict = make("p", { class: "verdict" }, prediction, " should be ", make("b", {}, label), sure);
  if (input.row) {
    const more = input.more ? make("p", { class: "id" }, `and ${input.more} columns more`) : null;
    return make("li", {}, verdict, listOf(input.row, { class: "cells" }), more, note);
  }
  if (!input.image) return make("li", {}, verdict, note);
  const size = input.side <= 32 ? "small" : null;
  return make("li", {}, make("img", { src: input.image, alt: `Input ${row.id}`, class: size }), verdict, note);
}

function predictionsSection(run) {
  const title = make("h3", {}, "Predictions on test");
  const detail = study.details.runs[run.index];
  if (!detail) {
    const has = metrics.some((column) => column.kind === "test" && valueOf(run, column) !== null);
    const note = has
      ? `This page holds the predictions of the ${Object.keys(study.details.runs).length} best runs that have any. ` +
        "synthesize_results.py with this run's directory as --parent_dir makes a page of its own."
      : "There are no predictions on test yet: evaluate.py makes them.";
    return [title, make("p", { class: "note" }, note)];
  }
  const { examples, mistakes, worst } = detail;
  const inputs = worst.map((row) => study.details.inputs[row.input] ?? {});
  const isText = inputs.some((input) => !input.image);
  const list = make("ol", { class: isText ? "mistakes text" : "mistakes" }, ...worst.map(mistakeItem));
  const note = make("p", { class: "note" }, worst.length ? detail.note : "");
  if (detail.points) {
    const chart = make("div", { class: "chart", role: "img", id: "points-chart" });
    return [title, chart, make("h3", {}, "Farthest off"), note, list];
  }
  const which = worst.length < mistakes ? ` The ${worst.length} of the largest loss:` : "";
  const isNext = worst.some((row) => row.worst);
  const count = isNext
    ? `The least expected token of each example, in its context. The ${worst.length} of the largest loss:`
    : `${mistakes} of ${examples} examples are wrong.${which}`;
  const part = (heading, content) => make("div", {}, make("h3", {}, heading), content);
  const classes = detail.per_class.length ? part("Each class", perClassTable(detail.per_class)) : null;
  const tags = make("span", { class: "wrong-text" }, make("del", {}, "prediction"), " → label");
  const hint = " below each wrong token; the label below the others";
  return [
    make("div", { class: "two" }, part("Confusion matrix, test", confusionSection(detail)), classes),
    make("h3", {}, isNext ? "Worst tokens" : "Worst mistakes"),
    make("p", { class: "note" }, count),
    note,
    inputs.some((input) => input.tokens) ? make("p", { class: "legend" }, tags, hint) : "",
    list,
  ];
}

function drawPoints(points, title) {
  const ends = [Math.min(...points.flat()), Math.max(...points.flat())];
  const line = { color: css("--soft"), width: 1, dash: "dot" };
  const marker = { color: css("--accent"), size: 6, opacity: 0.6 };
  const hovertemplate = "label %{x}<br>prediction %{y}<extra></extra>";
  const [x, y] = [points.map(([label]) => label), points.map(([, prediction]) => prediction)];
  return draw(
    byId("points-chart"),
    [
      { type: "scatter", mode: "lines", x: ends, y: ends, line, hoverinfo: "skip" },
      { type: "scatter", mode: "markers", x, y, marker, hovertemplate },
    ],
    { height: 360, xaxis: { title: { text: "label" } }, yaxis: { title: { text: "prediction" } } },
    `Predictions against labels of ${points.length} test examples of ${title}; on the dotted line they are equal.`,
  );
}
