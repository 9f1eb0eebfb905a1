"""A notebook executed, and as a page: `python docs/site/notebooks.py docs/first-maps.ipynb` writes its outputs.

The cells run as they would in Jupyter, but without it: what they print, and the picture that their last line is.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]


def executed(notebook: Notebook) -> Notebook:
    """The notebook with the outputs of its cells made anew."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells, number = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            outputs = run("".join(cell["source"]), namespace, number)
            cell = {**cell, "metadata": {}, "execution_count": number, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def run(source: str, namespace: dict[str, Any], number: int) -> list[dict[str, Any]]:
    *body, last = ast.parse(source).body
    shown = last.value if isinstance(last, ast.Expr) else None
    out, value = io.StringIO(), None
    with redirect_stdout(out):
        exec(compile(ast.Module([*body, *([] if shown else [last])], []), f"cell {number}", "exec"), namespace)
        if shown is not None:
            value = eval(compile(ast.Expression(shown), f"cell {number}", "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if out.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": out.getvalue().splitlines(keepends=True)})
    if value is not None:
        file = io.BytesIO()
        value.save(file, "JPEG", quality=85)
        data = {"image/jpeg": base64.b64encode(file.getvalue()).decode(), "text/plain": [f"<{value.size} picture>"]}
        outputs.append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    return outputs


def page(notebook: Notebook) -> str:
    """Its cells in their order, with texts and pictures below them, as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append("```text\n" + "".join(output["text"]).rstrip() + "\n```")
            else:
                parts.append(f"![What the cell shows](data:image/jpeg;base64,{output['data']['image/jpeg']})")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        made = executed(json.loads(Path(name).read_text()))
        Path(name).write_text(json.dumps(made, indent=1) + "\n")
