"""Draws the pictures of the portal in docs/images. Run it with PG_CONFIG in the environment."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import browser as browsers  # noqa: E402
import cluster as clusters  # noqa: E402
from browser import ENTER  # noqa: E402
from portal_site import demo, serving  # noqa: E402

IMAGES = Path(__file__).resolve().parents[2] / "docs/images"


def draw(browser, url):
    def look(width, height, scheme):
        browser.size(width, height)
        browser.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")

    def save(name):
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / f"portal-{name}.png").write_bytes(browser.picture())

    look(1000, 1290, "light")
    browser.open(url)
    browser.find("image")
    browser.click("button", "Manage Production")
    save("light")
    look(1000, 760, "dark")
    browser.click("button", "Rotate Production")
    browser.find("dialog")
    save("dark")
    browser.keys(ENTER)
    browser.find("button", "Copy")
    look(360, 760, "light")
    save("narrow")


if __name__ == "__main__":
    with clusters.running("portal") as cluster, serving(demo.server(demo.prepare(cluster.dsn()))) as server:
        with browsers.running() as opened:
            draw(opened, f"http://127.0.0.1:{server.server_port}/")
