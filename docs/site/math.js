// Formulas from stdin, as JSON, to HTML on stdout.
const katex = require(process.argv[2] + "/katex");
const formulas = JSON.parse(require("fs").readFileSync(0, "utf8"));
const made = formulas.map((f) => katex.renderToString(f.text, { displayMode: f.display, strict: "error" }));
process.stdout.write(JSON.stringify(made));
