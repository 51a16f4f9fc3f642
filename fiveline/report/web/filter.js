// The filter: words of a run, or an expression as `synthesize_results.py --filter` has it, without arithmetic:
// `learning_rate < 0.01 and status == 'finished'`. It is read part by part, and never run as code.

const WORD_OPERATORS = /(^|[^\w.])(in|is)\s/;

/** Return {test, note, wrong}: a function of a run, what to say about the filter, and whether it could not be read. */
function readFilter(text) {
  const source = text.trim();
  if (!source) return { test: () => true, note: "", wrong: false };
  if (!/[<>=!]/.test(source) && !WORD_OPERATORS.test(source)) {
    const words = source.toLowerCase().split(/\s+/);
    return { test: (run) => words.every((word) => textOf(run).includes(word)), note: "", wrong: false };
  }
  try {
    const test = parseFilter(source);
    return { test: (run) => test(run) === true, note: "", wrong: false };
  } catch (error) {
    return { test: () => true, note: error.message, wrong: true };
  }
}

function textOf(run) {
  if (run.text === undefined) {
    const cells = params.map((column) => `${column.name}=${format(valueOf(run, column), column)}`);
    run.text = [run.name, format(valueOf(run, columnNamed.get("status"))), ...cells].join(" ").toLowerCase();
  }
  return run.text;
}

/** Return a column's name as an expression can hold it: `test accuracy` is `test_accuracy`. */
function identifierOf(name) {
  const text = name.replace(/[^\p{L}\p{N}_.]/gu, "_");
  return /^(and|or|not|in|is|lambda|if|else|for|class|def|None|True|False)$/.test(text)
    ? `${text}_`
    : /^\d/.test(text)
      ? `_${text}`
      : text;
}

const GETTERS = new Map([
  ["run", (run) => run.name],
  ...[...columns].reverse().map((column) => [identifierOf(column.name), (run) => valueOf(run, column)]),
]);
const ORDERINGS = {
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  ">": (a, b) => a > b,
  ">=": (a, b) => a >= b,
};

/** Return a function of a run: `or` (decisive is true) or `and` (decisive is false) of parts that give null as well. */
function joined(parts, decisive) {
  return (run) => {
    const values = parts.map((part) => part(run));
    if (values.includes(decisive)) return decisive;
    return values.includes(null) ? null : !decisive;
  };
}

function compareValues(operator, a, b) {
  if (operator === "in" || operator === "not in") {
    if (a === null || b === null || !b.includes || (typeof b === "string" && typeof a !== "string")) return null;
    return b.includes(a) === (operator === "in");
  }
  if (operator === "==" || operator === "!=")
    return a === null || b === null ? null : (a === b) === (operator === "==");
  return (isNumber(a) && isNumber(b)) || (typeof a === "string" && typeof b === "string")
    ? ORDERINGS[operator](a, b)
    : null;
}

/** Return a function of a run to true, false, or null where it lacks a value; an Error says what was expected. */
function parseFilter(source) {
  let position = 0;
  const rest = () => source.slice(position);

  function fail(expected) {
    const found = rest().trim() ? `“${rest().trim().slice(0, 20)}”` : "the end";
    throw new Error(`Expected ${expected}, found ${found}; all runs are shown.`);
  }
  function take(pattern) {
    const match = rest().match(pattern);
    if (match) position += match[0].length;
    return match;
  }
  function chain(next, word, decisive) {
    const parts = [next()];
    while (take(word)) parts.push(next());
    return parts.length > 1 ? joined(parts, decisive) : parts[0];
  }
  const both = () => chain(single, /^\s*and\b/, false);
  const either = () => chain(both, /^\s*or\b/, true);
  function single() {
    if (take(/^\s*not\b/)) {
      const part = single();
      return (run) => (part(run) === null ? null : !part(run));
    }
    if (take(/^\s*\(/)) {
      const part = either();
      if (!take(/^\s*\)/)) fail("a closing bracket");
      return part;
    }
    return comparison();
  }
  function comparison() {
    const parts = [];
    let left = value();
    for (let found = operator(); found; found = operator()) {
      const [a, b, name] = [left, value(), found];
      parts.push(
        isNull(a) || isNull(b)
          ? (run) => (a(run) === b(run)) === (name === "==")
          : (run) => compareValues(name, a(run), b(run)),
      );
      left = b;
    }
    if (!parts.length) return (run) => (typeof left(run) === "boolean" ? left(run) : null);
    return joined(parts, false);
  }
  function operator() {
    const found = take(/^\s*(<=|>=|==|!=|<|>|not\s+in\b|in\b|is\s+not\b|is\b)/);
    if (!found) return null;
    const name = found[1].replace(/\s+/, " ");
    return { is: "==", "is not": "!=" }[name] || name;
  }
  function value() {
    const text = take(/^\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")/);
    if (text) return constant((text[1] === undefined ? text[2] : text[1]).replace(/\\(.)/g, "$1"));
    const number = take(/^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?![\p{L}\p{N}_.])/iu);
    if (number) return constant(Number(number[1]));
    if (take(/^\s*\[/)) return list();
    const before = position;
    const word = take(/^\s*([\p{L}\p{N}_.]+)/u);
    if (word && GETTERS.has(word[1])) return GETTERS.get(word[1]);
    if (word && /^(true|false|none|null)$/i.test(word[1]))
      return constant({ true: true, false: false }[word[1].toLowerCase()] ?? null);
    position = before;
    return fail("a column, a number or a text in quotes");
  }
  function constant(content) {
    const get = () => content;
    get.content = content;
    return get;
  }
  function isNull(get) {
    return get.content === null;
  }
  function list() {
    const members = [];
    while (!take(/^\s*\]/)) {
      if (members.length && !take(/^\s*,/)) fail("a comma or ]");
      members.push(value());
    }
    return (run) => members.map((member) => member(run));
  }

  const test = either();
  if (rest().trim()) fail("and, or, or the end");
  return test;
}

function literalOf(value) {
  if (typeof value === "string") return `'${value.replace(/[\\']/g, "\\$&")}'`;
  return { true: "True", false: "False", null: "None" }[String(value)] || String(value);
}
