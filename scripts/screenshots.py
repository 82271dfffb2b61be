"""Pictures of the audit pages for the documents: `python scripts/screenshots.py WORKSPACE` of a finished run.

Each page as a person sees it first, 1,000 pixels wide and light, as docs/images/audit-NAME.png. The workspace
is copied before it is opened, so nothing is written there. Needs Chromium and the dev dependencies.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from factory.audit.server import AuditServer
from factory.store.database import FILE
from factory.store.queries import read

FOLDER = Path(__file__).parents[1] / "docs/images"
WIDTH, HEIGHT = 1000, 900
MAX_BYTES = 150_000
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A name, an address, and a question whose first value stands for {} in it, where there is one.
REWRITTEN = "SELECT sample_id FROM decisions WHERE refiner = 'edit' AND action = 'rewrite' ORDER BY 1 LIMIT 1"
PAGES = (
    ("overview", "/", ""),
    ("samples", "/samples?fate=kept", ""),
    ("sample", "/samples/{}", REWRITTEN),
    ("sql", "/sql?query=FROM+funnel", ""),
    ("review", "/review?sample={}", REWRITTEN),
    ("compare", "/compare?change=better", ""),
    ("compare-datasets", "/compare/datasets", ""),
)


def main(workspace: Path) -> None:
    """Takes every picture; raises SystemExit where one is too large."""
    browser_path = next((path for name in NAMES if (path := shutil.which(name))), None)
    if browser_path is None:
        raise SystemExit("there is no chromium; scripts/chromium.sh installs it")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        copy = Path(folder) / workspace.name
        copy.mkdir()
        shutil.copyfile(workspace / FILE, copy / FILE)
        server = AuditServer(copy)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(color_scheme="light", viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(server.url)
        origin = f"http://127.0.0.1:{server.port}"
        page.goto(f"{origin}/review")
        page.get_by_label("Your name").fill("Ada")
        page.get_by_role("button", name="Begin").click()
        for name, address, question in PAGES:
            value = read(copy, question).rows[0][0] if question else ""
            page.goto(origin + address.format(value))
            path = FOLDER / f"audit-{name}.png"
            page.screenshot(path=path)
            size = path.stat().st_size
            print(f"{path.name}: {size:,} bytes")  # noqa: T201
            if size > MAX_BYTES:
                raise SystemExit(f"{path.name} has more than {MAX_BYTES:,} bytes")
        browser.close()
        server.stop()
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
