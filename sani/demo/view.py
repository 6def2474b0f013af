"""The demo as widgets: a view on `sani.demo`, which does the work."""

import html
import time
from collections.abc import Mapping, Sequence

import ipywidgets as widgets

from .answer_html import as_html
from .live import EPOCHS, Demo


def panel(demos: Mapping[str, Demo], presets: Mapping[str, Sequence[str]]) -> widgets.VBox:
    """The demo: a family, a preset sentence or one's own, a comparison; terms to add, and sanitising with progress."""
    names = list(demos)
    family = widgets.ToggleButtons(options=names, description="Model")
    preset = widgets.Dropdown(options=presets[names[0]], description="Example", layout={"width": "98%"})
    text = widgets.Textarea(preset.value, description="Text", rows=3, layout={"width": "98%"})
    ask = widgets.Button(description="Compare", button_style="primary", tooltip="Ask every model")
    terms = widgets.Text(description="Terms", placeholder="more terms to forget, separated by commas")
    sanitise = widgets.Button(description="Add and sanitise", tooltip="Erase and repair the leaky model again")
    progress = widgets.IntProgress(max=EPOCHS, description="Epochs", layout={"visibility": "hidden", "width": "98%"})
    left = widgets.HTML()
    answer = widgets.HTML(layout={"width": "98%"})

    def compare(_=None):
        try:
            answer.value = as_html(demos[family.value].compare(text.value))
        except ValueError as error:
            answer.value = _alert(str(error))

    def add(_):
        demo, started = demos[family.value], time.monotonic()

        def heard(epoch):
            progress.value = epoch
            each = (time.monotonic() - started) / max(1, epoch)
            left.value = f"epoch {epoch} of {EPOCHS}, about {each * (EPOCHS - epoch):.0f} s left"

        progress.value, progress.layout.visibility = 0, "visible"
        left.value, sanitise.disabled = "listing and erasing …", True
        try:
            demo.sanitize([term.strip() for term in terms.value.split(",") if term.strip()], heard=heard)
        except (ValueError, ArithmeticError) as error:
            left.value = _alert(str(error))
            return
        finally:
            sanitise.disabled, progress.layout.visibility = False, "hidden"
        terms.value, took = "", time.monotonic() - started
        compare()
        left.value = f"sanitised in {took:.0f} s; {len(demo.blacklist):,} terms are listed now"

    def of_family(change):
        preset.options, left.value = presets[change["new"]], ""

    def of_preset(change):
        if change["new"] is not None:
            text.value = change["new"]
            compare()

    family.observe(of_family, "value")
    preset.observe(of_preset, "value")
    ask.on_click(compare)
    sanitise.on_click(add)
    compare()
    adding = widgets.HBox([terms, sanitise])
    return widgets.VBox([family, preset, text, ask, answer, adding, progress, left])


def _alert(message: str) -> str:
    return f'<div role="alert"><b>{html.escape(message)}</b></div>'
