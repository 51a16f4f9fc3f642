// The filter: `learning_rate < 0.01 and status == 'finished'`, as synthesize_results.py has it, or words of a name.

/** Return {test, told, wrong}: a function of a run, what to say about the filter, and whether it could not be read. */
function readFilter(text) {
  const source = text.trim();
  if (!source) return { test: () => true, told: "", wrong: false };
  if (!/[<>=!]/.test(source)) {
    const words = source.toLowerCase().split(/\s+/);
    return { test: (run) => words.every((word) => textOf(run).includes(word)), told: "", wrong: false };
  }
  try {
    return { test: parseFilter(source), told: "", wrong: false };
  } catch (error) {
    return { test: () => true, told: error.message, wrong: true };
  }
}

function textOf(run) {
  if (run.text === undefined) {
    const cells = params.map((column) => `${column.name}=${format(valueOf(run, column), column)}`);
    const status = columnNamed.get("status");
    run.text = [run.name, status ? format(valueOf(run, status)) : "", ...cells].join(" ").toLowerCase();
  }
  return run.text;
}

const OPERATORS = {
  "<": (a, b) => a < b,
  "<=": (a, b) => a <= b,
  ">": (a, b) => a > b,
  ">=": (a, b) => a >= b,
  "==": (a, b) => a === b,
  "!=": (a, b) => a !== b,
};
const NAMES = ["run", ...columns.map((column) => column.name)].sort((a, b) => b.length - a.length);

/** Return a function of a run; throws an Error that says what was expected where. */
function parseFilter(source) {
  let position = 0;

  function rest() {
    return source.slice(position);
  }
  function fail(expected) {
    const found = rest().trim() ? `“${rest().trim().slice(0, 20)}”` : "the end";
    throw new Error(`Filter: expected ${expected}, found ${found}. All runs are shown.`);
  }
  function take(pattern) {
    const match = rest().match(pattern);
    if (match) position += match[0].length;
    return match;
  }
  function either() {
    let test = both();
    while (take(/^\s*or\b/)) {
      const [left, right] = [test, both()];
      test = (run) => left(run) || right(run);
    }
    return test;
  }
  function both() {
    let test = single();
    while (take(/^\s*and\b/)) {
      const [left, right] = [test, single()];
      test = (run) => left(run) && right(run);
    }
    return test;
  }
  function single() {
    if (take(/^\s*not\b/)) {
      const test = single();
      return (run) => !test(run);
    }
    if (take(/^\s*\(/)) {
      const test = either();
      if (!take(/^\s*\)/)) fail("a closing bracket");
      return test;
    }
    return comparison();
  }
  function comparison() {
    const get = name();
    const operator = take(/^\s*(<=|>=|==|!=|<|>)/);
    if (!operator) fail("<, <=, >, >=, == or !=");
    const wanted = literal();
    return (run) => {
      const value = get(run);
      if (operator[1] === "==" || operator[1] === "!=") return OPERATORS[operator[1]](value, wanted);
      return typeof value === typeof wanted && value !== null && OPERATORS[operator[1]](value, wanted);
    };
  }
  function name() {
    take(/^\s+/);
    const quote = take(/^`([^`]*)`/);
    const found = quote
      ? NAMES.find((each) => each === quote[1])
      : NAMES.find((each) => rest().startsWith(each) && !/[\w.]/.test(rest().charAt(each.length)));
    if (found === undefined) fail("the name of a column");
    if (!quote) position += found.length;
    return found === "run" ? (run) => run.name : (run) => valueOf(run, columnNamed.get(found));
  }
  function literal() {
    const text = take(/^\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")/);
    if (text) return (text[1] === undefined ? text[2] : text[1]).replace(/\\(.)/g, "$1");
    const number = take(/^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?![\w.])/i);
    if (number) return Number(number[1]);
    const word = take(/^\s*(true|false|none|null)\b/i);
    if (word) return { true: true, false: false, none: null, null: null }[word[1].toLowerCase()];
    return fail("a number or a text in quotes");
  }

  const test = either();
  if (rest().trim()) fail("and, or, or the end");
  return test;
}

/** Return a filter that keeps the runs whose value is one of these, or, of numbers, between the two. */
function conditionFor(column, values) {
  const name = /^[A-Za-z_][\w.]*( [\w.]+)?$/.test(column.name) ? column.name : `\`${column.name}\``;
  if (values.every(isNumber) && isNumeric[column.index]) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return low === high ? `${name} == ${low}` : `${name} >= ${low} and ${name} <= ${high}`;
  }
  const quoted = values.map((value) => {
    const text = typeof value === "string" ? `'${value.replace(/[\\']/g, "\\$&")}'` : String(value);
    return `${name} == ${text}`;
  });
  return quoted.length > 1 ? `(${quoted.join(" or ")})` : quoted[0];
}
