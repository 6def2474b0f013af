"""The demo in JupyterLab, in headless Chromium: opened, run, asked, given a term, sanitised; its memory measured."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import jupytext
import psutil
import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
MINUTES = 4 * 60_000  # that a loaded machine may take, in milliseconds
SENTENCE = "She takes [MASK] 1000 mg twice daily."

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium")


class Peak(threading.Thread):
    """The most memory that a process and all that it started have held at once, looked at five times a second."""

    def __init__(self, process: psutil.Process):
        super().__init__(daemon=True)
        self.process, self.bytes, self.over = process, 0, threading.Event()

    def run(self):
        while not self.over.wait(0.2):
            found = 0
            for one in (self.process, *self.process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += one.memory_info().rss
            self.bytes = max(self.bytes, found)


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on loopback over a copy of the demo with fewer records; yields its address and its process."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = jupytext.read(ROOT / "notebooks" / "11_demo.py")
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "\nexamples = 1\nrecords = 60"
    jupytext.write(notebook, folder / "11_demo.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "SANI_HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "c"), "JUPYTER_DATA_DIR": str(tmp_path / "d"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "r"), "IPYTHONDIR": str(tmp_path / "i"),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "s"), "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "w"),
        "OMP_NUM_THREADS": "1", "JUPYTER_ALLOW_INSECURE_WRITES": "true",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=demo", f"--ServerApp.root_dir={tmp_path}",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/api?token=demo", timeout=5)
                break
            except OSError:
                said = (tmp_path / "lab.log").read_text()[-1000:]
                assert time.monotonic() < end and server.poll() is None, said
                time.sleep(0.3)
        yield address, psutil.Process(server.pid)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_the_demo_is_opened_asked_and_sanitised(lab, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    address, server = lab
    peak = Peak(server)
    peak.start()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        page.set_default_timeout(MINUTES)
        page.goto(f"{address}/lab/tree/notebooks/11_demo.ipynb?token=demo")
        page.get_by_role("heading", name="11 · Demo").wait_for()
        page.get_by_text("| Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).first.click()
        page.get_by_role("heading", name="Ask them").scroll_into_view_if_needed()
        text = page.get_by_role("textbox", name="Text", exact=True)
        text.wait_for()
        text.scroll_into_view_if_needed()
        answer = page.locator(".sani-compared").first
        answer.get_by_text("repaired").first.wait_for()
        assert "just erased" in answer.inner_text() and "any listed term" in answer.inner_text()
        page.screenshot(path=tmp_path / "opened.png")

        text.fill(SENTENCE)
        page.get_by_role("button", name="Compare").press("Enter")  # by keyboard
        leaky = answer.locator("td").first
        leaky.get_by_text("metformin", exact=True).wait_for()
        assert not re.search(r"metformin [\d.]+% *⚠", leaky.inner_text())
        page.screenshot(path=tmp_path / "compared.png")

        terms = page.get_by_role("textbox", name="Terms")
        terms.fill("<b>zebra</b>")
        add = page.get_by_role("button", name="Add and sanitise")
        add.click()
        page.get_by_text("stands nowhere in the text").wait_for()
        terms.fill("metformin")
        add.click()
        page.get_by_text("sanitised in").wait_for()
        assert re.search(r"metformin [\d.]+% *⚠ listed", leaky.inner_text())  # still said, and listed now
        columns = answer.locator("td").all_inner_texts()
        before, _, after, *_ = (float(re.search(r"any listed term: ([\d.]+)%", column)[1]) for column in columns)
        assert after < before / 2
        page.screenshot(path=tmp_path / "sanitised.png")

        page.get_by_role("button", name="GPT-2").click()
        page.wait_for_function("() => !document.querySelector('.widget-textarea textarea').value.includes('[MASK]')")
        page.wait_for_function("() => !document.querySelector('.sani-compared').innerText.includes('metformin')")
        page.screenshot(path=tmp_path / "gpt2.png")
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        browser.close()
    peak.over.set()
    peak.join()
    assert 3e8 < peak.bytes < 1e9, f"{peak.bytes / 1e6:.0f} MB"
