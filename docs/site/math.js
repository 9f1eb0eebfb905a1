// Formulas from stdin, as JSON, to HTML on stdout.
const katex = require(process.argv[2] + "/katex");
const formulas = JSON.parse(require("fs").readFileSync(0, "utf8"));
// The index of the search does without them: it would hold each three times.
const made = formulas.map((f) =>
  `<span data-search-exclude>${katex.renderToString(f.text, { displayMode: f.display, strict: "error" })}</span>`);
process.stdout.write(JSON.stringify(made));
