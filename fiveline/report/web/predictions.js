// What a run predicted: the confusion matrix, each class, the worst mistakes with their inputs; of numbers, a chart.

function confusionTable({ classes, counts }) {
  const rows = classes.map((label, i) => {
    const total = counts[i].reduce((a, b) => a + b, 0);
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, label),
      ...counts[i].map((count, j) => {
        const share = total ? count / total : 0;
        const kind = count ? `some ${i === j ? "right" : "off"}` : null;
        return make(
          "td",
          {
            class: kind,
            style: count ? `--share: ${(i === j ? 0.12 + 0.4 * share : 0.18 + 0.6 * share).toFixed(3)}` : null,
          },
          count ? String(count) : "·",
        );
      }),
    );
  });
  return make(
    "div",
    { class: "wide", role: "region", tabindex: "0", "aria-label": "Confusion matrix" },
    make(
      "table",
      { class: "matrix" },
      make(
        "caption",
        {},
        "A row for each label, a column for each prediction; the darker, the larger its share of the row.",
      ),
      make("thead", {}, make("tr", {}, make("td"), ...classes.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows),
    ),
  );
}

function confusionSection(detail) {
  const { confusion } = detail;
  if (confusion.counts) return confusionTable(confusion);
  return make(
    "div",
    {},
    make("p", { class: "told" }, `${confusion.num_classes} classes; what was most often taken for what:`),
    make(
      "table",
      { class: "plain" },
      make(
        "thead",
        {},
        make("tr", {}, ...["label", "prediction", "times"].map((name) => make("th", { scope: "col" }, name))),
      ),
      make(
        "tbody",
        {},
        ...confusion.pairs.map(([a, b, count]) =>
          make("tr", {}, make("td", {}, a), make("td", {}, b), make("td", {}, String(count))),
        ),
      ),
    ),
  );
}

function perClassTable(rows) {
  const names = Object.keys(rows[0]);
  return make(
    "div",
    { class: "wide", role: "region", tabindex: "0", "aria-label": "Metrics of each class" },
    make(
      "table",
      { class: "plain" },
      make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))),
      make(
        "tbody",
        {},
        ...rows.map((row) =>
          make(
            "tr",
            {},
            ...names.map((name, i) => {
              const number = Number(row[name]);
              const text = i > 1 && row[name] && Number.isFinite(number) ? number.toFixed(4) : row[name];
              return i ? make("td", {}, text) : make("th", { scope: "row" }, text);
            }),
          ),
        ),
      ),
    ),
  );
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
  const told = make("p", { class: "id" }, [row.id, loss].filter(Boolean).join(" · "));
  if (input && input.tokens) return make("li", {}, sentenceOf(input.tokens, row.label, row.prediction), told);
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
    return make("li", {}, verdict, make("dl", { class: "cells" }, ...cells), more, told);
  }
  if (input)
    return make(
      "li",
      {},
      make("img", { src: input.image, alt: `Input ${row.id}`, class: input.side <= 32 ? "small" : null }),
      verdict,
      told,
    );
  return make("li", {}, verdict, told);
}

function predictionsSection(run) {
  const detail = study.details.runs[run.index];
  if (!detail) {
    const has = metrics.some((column) => column.kind === "test" && valueOf(run, column) !== null);
    const told = has
      ? `This page holds the predictions of the ${Object.keys(study.details.runs).length} best runs that have any. ` +
        "synthesize_results.py with this run's directory as --parent_dir makes a page of its own."
      : "There are no predictions on test yet: evaluate.py makes them.";
    return [make("h3", {}, "Predictions on test"), make("p", { class: "told" }, told)];
  }
  const { examples, mistakes, worst } = detail;
  const isText = worst.some((row) => !isNumber(row.input) || !study.details.inputs[row.input].image);
  const list = make("ol", { class: isText ? "mistakes text" : "mistakes" }, ...worst.map(mistakeItem));
  const note = detail.note === undefined ? null : make("p", { class: "told" }, study.details.notes[detail.note]);
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
      { class: "told" },
      mistakes
        ? `${share} ${worst.length < mistakes ? `The ${worst.length} of the largest loss:` : ""}`
        : `None: all ${examples} examples are right.`,
    ),
  );
  if (note && worst.length) sections.push(note);
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
