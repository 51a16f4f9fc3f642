// The filter: words of a run, or an expression as `synthesize_results.py --filter` has it (report/filter.py):
// `learning_rate < 0.01 and status == 'finished'`. It is read part by part, and never run as code.

/** Return {test, note, wrong}: a function of a run, what to say about the filter, and whether it could not be read. */
function readFilter(text) {
  const source = text.trim();
  if (!/[<>=!]|(^|[^\w.])(in|is)\s/.test(source)) {
    const words = source.toLowerCase().split(/\s+/);
    return { test: (run) => words.every((word) => textOf(run).includes(word)), note: "", wrong: false };
  }
  try {
    const test = parseFilter(source);
    return { test: (run) => test(run) === true, note: "", wrong: false };
  } catch (error) {
    return { test: () => true, note: `${error.message}; all runs are shown.`, wrong: true };
  }
}

function textOf(run) {
  run.text ??= [run.name, ...params.map((column) => `${column.name}=${format(valueOf(run, column), column)}`),
    format(valueOf(run, columnNamed.get("status")))].join(" ").toLowerCase();
  return run.text;
}

/** Return a column's name as an expression can hold it: `test accuracy` is `test_accuracy`. */
function identifierOf(name) {
  const text = name.replace(/[^\p{L}\p{N}_.]/gu, "_");
  if (/^\d/.test(text)) return `_${text}`;
  return /^(and|or|not|in|is|lambda|if|else|for|class|def|None|True|False)$/.test(text) ? `${text}_` : text;
}

const nothing = () => null;
const GETTERS = new Map([
  ["None", nothing], ["True", () => true], ["False", () => false],
  ["run", (run) => run.name],
  ...[...columns].reverse().map((column) => [identifierOf(column.name), (run) => valueOf(run, column)]),
]);
const isText = (value) => typeof value === "string";
const negated = (value) => (value === null ? null : !value);
const isEqual = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const isIn = (a, b) => (a !== null && (Array.isArray(b) || (isText(a) && isText(b))) ? b.includes(a) : null);
const ordered = (compare) => (a, b) =>
  (isNumber(a) && isNumber(b)) || (isText(a) && isText(b)) ? compare(a, b) : null;
const OPERATORS = {
  "<": ordered((a, b) => a < b), "<=": ordered((a, b) => a <= b),
  ">": ordered((a, b) => a > b), ">=": ordered((a, b) => a >= b),
  in: isIn, "not in": (a, b) => negated(isIn(a, b)),
};
const EQUALITIES = { "==": true, is: true, "!=": false, "is not": false };
const TOKENS = new RegExp(
  String.raw`(?<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|` +
    String.raw`(?<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\p{L}\p{N}_.])|` +
    String.raw`(?<mark>[<>]=?|[=!]=|[()[\],]|(?:not\s+in|is\s+not|in|is|and|or|not)(?![\p{L}\p{N}_.]))|` +
    String.raw`(?<name>[\p{L}\p{N}_.]+)|(?<wrong>\S)`,
  "gu",
);

/** Return a function of a run to true, false, or null where it lacks a value; an Error says what was expected. */
function parseFilter(source) {
  const tokens = [...source.matchAll(TOKENS)].map((match) => ({ all: match[0], ...match.groups }));
  const next = () => tokens[0]?.mark?.replace(/\s+/, " ");
  const take = (mark) => next() === mark && Boolean(tokens.shift());
  const fail = (expected) => {
    throw new Error(`Expected ${expected}, found ${tokens.length ? tokens[0].all : "the end"}`);
  };
  const joined = (parts, decisive) => (run) => {
    const values = parts.map((part) => part(run)); // for `or`, true decides; for `and`, false
    if (values.includes(decisive)) return decisive;
    return values.includes(null) ? null : !decisive;
  };
  const chain = (part, word, decisive) => {
    const parts = [part()];
    while (take(word)) parts.push(part());
    return joined(parts, decisive);
  };
  const either = () => chain(() => chain(single, "and", false), "or", true);
  function single() {
    if (take("not")) {
      const part = single();
      return (run) => negated(part(run));
    }
    if (!take("(")) return comparison();
    const part = either();
    return take(")") ? part : fail("a closing bracket");
  }
  function comparison() {
    const parts = [];
    let left = value();
    while (next() in OPERATORS || next() in EQUALITIES) {
      const [a, operator] = [left, next()];
      tokens.shift();
      const b = (left = value());
      const compare = OPERATORS[operator] || ((x, y) => isEqual(x, y) === EQUALITIES[operator]);
      const needsBoth = operator in EQUALITIES && a !== nothing && b !== nothing;
      parts.push((run) => (needsBoth && (a(run) === null || b(run) === null) ? null : compare(a(run), b(run))));
    }
    return parts.length ? joined(parts, false) : (run) => (typeof left(run) === "boolean" ? left(run) : null);
  }
  function value() {
    if (take("[")) {
      const members = [];
      while (!take("]")) {
        if (members.length && !take(",")) fail("a comma or ]");
        members.push(value());
      }
      return (run) => members.map((member) => member(run));
    }
    const { text, number, name } = tokens[0] || {};
    const content = text ? text.slice(1, -1).replace(/\\(.)/g, "$1") : Number(number);
    if (!text && !number && !GETTERS.has(name)) fail("a column, a number or a text in quotes");
    tokens.shift();
    return text || number ? () => content : GETTERS.get(name);
  }
  const test = either();
  return tokens.length ? fail("and, or, or the end") : test;
}
