"use strict";
// What the page knows, what is chosen, and how values are written. Text from runs is set as text, never as HTML.

const study = JSON.parse(document.getElementById("study").textContent);
const columns = study.columns.map((column, index) => ({ ...column, index }));
const columnNamed = new Map(columns.map((column) => [column.name, column]));
const runs = study.runs.map((run, index) => ({ ...run, index }));
const runAt = new Map(runs.map((run) => [addressOf(run), run]));
const params = columns.filter((column) => column.kind === "param");
const metrics = columns.filter((column) => column.kind === "val" || column.kind === "test");
// Only runs of the same task and data can be compared: each group has a metric that its runs monitored, and a best run.
const groups = study.groups.map((group, number) => {
  const members = runs.filter((run) => run.group === number);
  const column = columnNamed.get(group.monitor);
  const ranks = members.length > 1 && column && column.kind === "val";
  const best = ranks ? members.find((run) => isNumber(valueOf(run, column))) : undefined; // they come the best first
  return { ...group, members, monitor: column, best };
});
const largest = groups.reduce((a, b) => (b.members.length > a.members.length ? b : a));
const monitor = largest.monitor || metrics[0];
const NUM_COLOURS = 8;
const MOST_CHOSEN = 24; // more colours and lines cannot be distinguished

const chosen = []; // runs, in the order in which they were chosen
const colours = new Map(); // run -> number of its colour

function byId(id) {
  return document.getElementById(id);
}

/** Return a new element; children are elements or text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return a table; the cells of its rows are elements or text, and the first of each row names it. */
function tableOf(head, rows, attributes = { class: "plain" }) {
  const named = (cells, scope) => cells.map((cell) => make("th", { scope }, cell));
  const cellOf = (content) => (content instanceof HTMLTableCellElement ? content : make("td", {}, String(content)));
  const body = rows.map(([name, ...cells]) => make("tr", {}, ...named([name], "row"), ...cells.map(cellOf)));
  const top = make("thead", {}, make("tr", {}, ...named(head, "col")));
  return make("table", attributes, top, make("tbody", {}, ...body));
}

/** Return a box in which a table that is wider than the screen can be moved. */
function wide(table, name = "Table") {
  return make("div", { class: "wide", role: "region", tabindex: "0", "aria-label": name }, table);
}

/** Return a mark and a text for each entry of a legend. */
function legendOf(entries) {
  return entries.flatMap(([mark, text]) => [make("span", { class: `mark ${mark}` }), ` ${text} `]);
}

/** Return the 95% interval of a metric of test in a run's directory as text, if the page holds one. */
function intervalOf(run, name) {
  const ends = study.details.runs[run.index]?.intervals?.[name];
  const column = columnNamed.get(`test ${name}`);
  return ends && column ? ends.map((end) => format(end, column)).join(" to ") : "";
}

function valueOf(run, column) {
  return run.values[column.index];
}

function isNumber(value) {
  return typeof value === "number";
}

/** Return whether a column is what some runs were after, on val or on test. */
function isMonitored(column) {
  return groups.some((group) => group.monitor && column.name.replace(/^test /, "") === group.monitor.name);
}

function isBest(run) {
  return groups[run.group].best === run;
}

/** Return the run with the best value of a metric; undefined if no run has a number. */
function bestOf(members, column) {
  const sign = column.higher ? 1 : -1;
  const scored = members.filter((run) => isNumber(valueOf(run, column)));
  return scored.reduce((a, b) => (a && sign * valueOf(a, column) >= sign * valueOf(b, column) ? a : b), undefined);
}

const isNumeric = columns.map((column) => {
  const present = runs.map((run) => run.values[column.index]).filter((value) => value !== null);
  return present.length > 0 && present.every((value) => isNumber(value) || value === "nan" || /^-?inf$/.test(value));
});

/** Digits after the point of a metric's column: the same for all, so that they stand below each other. */
const decimals = columns.map((column) => {
  if (column.kind !== "val" && column.kind !== "test") return null;
  const sizes = runs.map((run) => Math.abs(run.values[column.index])).filter((size) => size > 0 && size < Infinity);
  const middle = sizes.sort((a, b) => a - b)[Math.floor(sizes.length / 2)] || 1;
  if (middle >= 1000) return 1;
  if (middle >= 10) return 2;
  return middle >= 0.1 ? 4 : Math.min(8, 3 - Math.floor(Math.log10(middle)));
});

function formatNumber(value) {
  const size = Math.abs(value);
  if (value === 0 || (Number.isInteger(value) && size < 1e7)) return String(value);
  return size >= 1e-4 && size < 1e7 ? String(Number(value.toPrecision(5))) : String(Number(value.toPrecision(4)));
}

function formatSeconds(seconds) {
  const [whole, minutes] = [Math.round(seconds), Math.floor(Math.round(seconds) / 60)];
  if (whole < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** Return a value as people read it in its column. */
function format(value, column) {
  if (value === null || value === undefined) return "–";
  if (isNumber(value)) {
    if (column && column.kind === "time") return formatSeconds(value);
    const isFixed = column && decimals[column.index] !== null && Math.abs(value) < 1e6;
    return isFixed ? value.toFixed(decimals[column.index]) : formatNumber(value);
  }
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Return text with places where a long name may go on in the next line. */
function breakable(text, after = /(?<=__|\/)/) {
  return text.split(after).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));
}

/** Return text that Plotly shows as it is: it would take tags for formatting. */
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

/** Return the address of a run's own page; names of folders need not be text, and addresses must. */
function addressOf(run) {
  return `#run=${encodeURIComponent(run.name.replace(/\p{Surrogate}/gu, "\ufffd"))}`;
}

/** Choose a run, or unchoose it; returns whether its curves are shown now. */
function choose(run, isChosen) {
  const place = chosen.indexOf(run);
  if (isChosen && place < 0 && chosen.length < MOST_CHOSEN) {
    chosen.push(run);
    const taken = new Set(chosen.map((other) => colours.get(other)));
    let number = 0;
    while (taken.has(number) && number < NUM_COLOURS - 1) number += 1;
    colours.set(run, taken.has(number) ? chosen.length % NUM_COLOURS : number);
  } else if (!isChosen && place >= 0) {
    chosen.splice(place, 1);
    colours.delete(run);
  }
  return chosen.includes(run);
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function colourOf(run) {
  return colours.has(run) ? css(`--run-${colours.get(run)}`) : css("--accent");
}
