// What a run predicted: the confusion matrix, each class, the worst mistakes with their inputs; of numbers, a chart.

function confusionSection({ confusion }) {
  if (!confusion.counts) {
    const note = `${confusion.num_classes} classes; the most frequent confusions:`;
    const table = tableOf(["label", "prediction", "times"], confusion.pairs, { class: "plain" });
    return make("div", {}, make("p", { class: "note" }, note), table);
  }
  const { classes, counts } = confusion;
  const cellOf = (count, isRight, total) => {
    const share = (isRight ? 0.12 : 0.18) + ((isRight ? 0.4 : 0.6) * count) / total;
    const attributes = { class: `some ${isRight ? "right" : "off"}`, style: `--share: ${share.toFixed(3)}` };
    return count ? make("td", attributes, String(count)) : make("td", {}, "·");
  };
  const rows = classes.map((label, i) => {
    const total = counts[i].reduce((a, b) => a + b, 0);
    return [className(label), ...counts[i].map((count, j) => cellOf(count, i === j, total))];
  });
  const legend = legendOf([
    ["right", "right"],
    ["off", "wrong; the darker, the larger its share of the row"],
  ]);
  const table = tableOf(["", ...classes.map(className)], rows, { class: "matrix" });
  return make(
    "div",
    {},
    make("p", { class: "legend" }, "A row for each label, a column for each prediction: ", ...legend),
    make("div", { class: "wide", role: "region", tabindex: "0", "aria-label": "Confusion matrix" }, table),
  );
}

/** Return a class's name, which continues in the next line only after a word; a very long one is cut. */
function className(name) {
  return make("span", { class: "class-name", title: name }, ...breakable(name, /(?<=[_/ -])/));
}

function perClassTable(rows) {
  const names = Object.keys(rows[0]);
  const text = (value, i) => {
    if (!i) return className(value);
    return i > 1 && value && Number.isFinite(Number(value)) ? Number(value).toFixed(4) : value;
  };
  const table = tableOf(names, rows.map((row) => names.map((name, i) => text(row[name], i))), { class: "plain" });
  return make("div", { class: "wide", role: "region", tabindex: "0", "aria-label": "Metrics of each class" }, table);
}

function sentenceOf(tokens, label, prediction) {
  const [labels, predictions] = [label.split(" "), prediction.split(" ")];
  return make(
    "p",
    { class: "sentence" },
    ...tokens.flatMap((token, i) => {
      const isWrong = labels[i] !== predictions[i];
      const notes = isWrong
        ? [make("small", {}, make("del", {}, predictions[i] || "–"), ` → ${labels[i] || "–"}`)]
        : labels[i] !== "O"
          ? [make("small", {}, labels[i] || "")]
          : [make("small", {}, "\u00a0")];
      return [make("span", { class: isWrong ? "token off" : "token" }, token, ...notes), " "];
    }),
  );
}

function mistakeItem(row) {
  const input = isNumber(row.input) ? study.details.inputs[row.input] : null;
  const sure = row.confidence ? `, ${(100 * Number(row.confidence)).toFixed(0)}% sure` : "";
  const loss = row.loss ? `loss ${formatNumber(Number(Number(row.loss).toPrecision(3)))}` : "";
  const note = make("p", { class: "id" }, [row.id, loss].filter(Boolean).join(" · "));
  if (input && input.tokens) return make("li", {}, sentenceOf(input.tokens, row.label, row.prediction), note);
  const shorter = (text) => (Number.isFinite(Number(text)) && /\.\d{5}/.test(text) ? formatNumber(Number(text)) : text);
  const verdict = make(
    "p",
    { class: "verdict" },
    make("span", { class: "wrong-text" }, shorter(row.prediction)),
    " should be ",
    make("b", {}, shorter(row.label)),
    sure,
  );
  if (input && input.row) {
    const cells = input.row.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
    const more = input.more ? make("p", { class: "id" }, `and ${input.more} columns more`) : null;
    return make("li", {}, verdict, make("dl", { class: "cells" }, ...cells), more, note);
  }
  if (input)
    return make(
      "li",
      {},
      make("img", { src: input.image, alt: `Input ${row.id}`, class: input.side <= 32 ? "small" : null }),
      verdict,
      note,
    );
  return make("li", {}, verdict, note);
}

function predictionsSection(run) {
  const detail = study.details.runs[run.index];
  if (!detail) {
    const has = metrics.some((column) => column.kind === "test" && valueOf(run, column) !== null);
    const note = has
      ? `This page holds the predictions of the ${Object.keys(study.details.runs).length} best runs that have any. ` +
        "synthesize_results.py with this run's directory as --parent_dir makes a page of its own."
      : "There are no predictions on test yet: evaluate.py makes them.";
    return [make("h3", {}, "Predictions on test"), make("p", { class: "note" }, note)];
  }
  const { examples, mistakes, worst } = detail;
  const isText = worst.some((row) => !isNumber(row.input) || !study.details.inputs[row.input].image);
  const list = make("ol", { class: isText ? "mistakes text" : "mistakes" }, ...worst.map(mistakeItem));
  const note = detail.note === undefined ? null : make("p", { class: "note" }, study.details.notes[detail.note]);
  if (detail.points) {
    return [
      make("h3", {}, "Predictions on test"),
      make("div", { class: "chart", role: "img", id: "points-chart" }),
      make("h3", {}, "Farthest off"),
      note,
      list,
    ];
  }
  const share = `${mistakes} of ${examples} examples are wrong.`;
  const sections = [
    make(
      "div",
      { class: "two" },
      make("div", {}, make("h3", {}, "Confusion matrix, test"), confusionSection(detail)),
      detail.per_class.length ? make("div", {}, make("h3", {}, "Each class"), perClassTable(detail.per_class)) : null,
    ),
  ];
  sections.push(make("h3", {}, "Worst mistakes"));
  sections.push(
    make(
      "p",
      { class: "note" },
      mistakes
        ? `${share} ${worst.length < mistakes ? `The ${worst.length} of the largest loss:` : ""}`
        : `None: all ${examples} examples are right.`,
    ),
  );
  if (note && worst.length) sections.push(note);
  if (worst.some((row) => isNumber(row.input) && study.details.inputs[row.input].tokens)) {
    const example = make("span", { class: "wrong-text" }, make("del", {}, "prediction"), " → label");
    sections.push(make("p", { class: "legend" }, example, " below each wrong token; the label below the others"));
  }
  return [...sections, list];
}

function drawPoints(points, title) {
  const [labels, predictions] = [points.map(([label]) => label), points.map(([, prediction]) => prediction)];
  const ends = [Math.min(...labels, ...predictions), Math.max(...labels, ...predictions)];
  return draw(
    "points-chart",
    [
      {
        type: "scatter",
        mode: "lines",
        x: ends,
        y: ends,
        line: { color: css("--soft"), width: 1, dash: "dot" },
        hoverinfo: "skip",
      },
      {
        type: "scatter",
        mode: "markers",
        x: labels,
        y: predictions,
        marker: { color: css("--accent"), size: 6, opacity: 0.6 },
        hovertemplate: "label %{x}<br>prediction %{y}<extra></extra>",
      },
    ],
    { height: 360, xaxis: { title: { text: "label" } }, yaxis: { title: { text: "prediction" } } },
    `Predictions against labels of ${points.length} test examples of ${title}; on the dotted line they are equal.`,
  );
}
