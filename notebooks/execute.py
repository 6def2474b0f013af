"""Execute notebooks and put the cleaned .ipynb beside its .py: `python notebooks/execute.py [name …]`.

The notebook is run to a temporary file and moved into place only when it ran to its end. It carries the git blob hash
of the .py it was run from, so that a test can tell stale outputs.
"""

import base64
import copy
import hashlib
import io
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jupytext
import nbformat
import papermill
import PIL.Image

HERE = Path(__file__).resolve().parent
MOST = 300_000  # bytes of an executed notebook
COLOURS = (256, 128, 64, 32, 16)  # of its pictures: as many as fit


def blob_hash(path: Path) -> str:
    """The hash git gives to a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def small(outputs: list, colours: int) -> list:
    """Outputs with their pictures in fewer colours, as long as the notebook is to be read over the web."""
    for output in outputs:
        if (picture := output.get("data", {}).get("image/png")) is not None:
            into = io.BytesIO()
            with PIL.Image.open(io.BytesIO(base64.b64decode(picture))) as image:
                image.thumbnail((820, 4000))
                image.convert("RGB").quantize(colours, dither=PIL.Image.Dither.NONE).save(into, "PNG", optimize=True)
            output["data"]["image/png"] = base64.b64encode(into.getvalue()).decode()
    return outputs


def clean(notebook: nbformat.NotebookNode, source: Path) -> nbformat.NotebookNode:
    """Without progress bars, timings, widget state and empty tags; with the hash of its source, and fit for the web."""
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode({"tags": tags} if (tags := cell.metadata.get("tags")) else {})
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and "widget" not in str(o.get("data"))]
    notebook.metadata = nbformat.NotebookNode(
        kernelspec=notebook.metadata.kernelspec,
        language_info={"name": "python"},
        sani={"source_blob": blob_hash(source)},
    )
    for colours in COLOURS:
        found = copy.deepcopy(notebook)
        for cell in found.cells:
            if cell.cell_type == "code":
                cell.outputs = small(cell.outputs, colours)
        if len(nbformat.writes(found)) <= MOST:
            break
    return found


def execute(source: Path) -> None:
    """Run one notebook from its .py and replace its .ipynb, and its figures in the root's figures/."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".run-") as folder:
        start, end = Path(folder) / "start.ipynb", Path(folder) / "end.ipynb"
        nbformat.write(notebook, start)
        with mock.patch.dict(os.environ, SANI_FIGURES=str(HERE.parent / "figures")):
            papermill.execute_notebook(start, end, kernel_name="python3", cwd=HERE.parent, progress_bar=True)
        done = nbformat.read(end, as_version=4)
        nbformat.write(clean(done, source), end)
        os.replace(end, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(p.stem for p in HERE.glob("[0-9]*.py")):
        execute(HERE / f"{name.removesuffix('.py')}.py")
