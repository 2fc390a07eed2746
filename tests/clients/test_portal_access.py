"""The portal by keyboard alone, and as a screen reader hears it; in light and dark, wide and narrow."""

import os

import pytest

from browser import CONTROL, DOWN, ENTER, ESCAPE, RIGHT, SPACE, TAB
from portal_site import browser, site  # noqa: F401

# `make test-browser` tries all of them.
IS_FULL = os.environ.get("KEYSMITH_BROWSER") == "full"
SCHEMES = ["light", "dark"] if IS_FULL else ["dark"]
WIDTHS = [320, 360, 768, 1400] if IS_FULL else [360]


def test_keys_alone_do_everything(site):
    browser = site.show('scopes="images:read images:write"')
    browser.tab_to("button", "Create key")
    browser.keys(ENTER)
    browser.find("dialog", "Create key")
    assert browser.focused() == ("textbox", "Name")
    browser.keys("CI", TAB, "t", TAB, TAB)
    browser.tab_to("checkbox", "images:write")
    browser.keys(SPACE)
    browser.tab_to("textbox", "Networks")
    browser.keys("203.0.113.0/24")
    browser.tab_to("button", "Create key")
    browser.keys(ENTER)
    browser.wait(lambda: browser.focused() == ("button", "Copy"))
    browser.keys(ESCAPE)
    browser.gone("dialog")
    browser.find("button", "Manage CI")
    assert browser.focused() == ("button", "Create key")
    key = site.key("CI")
    assert (key.environment, key.scopes, list(map(str, key.allowlist))) == ("test", ["images:write"], ["203.0.113.0/24"])

    browser.tab_to("button", "Manage CI")
    browser.keys(SPACE)
    browser.tab_to("button", "Edit CI")
    browser.keys(ENTER)
    browser.find("dialog", "Edit CI")
    browser.keys([(CONTROL, "a")], "Nightly", ENTER)
    browser.find("button", "Edit Nightly")
    assert browser.focused() == ("button", "Edit Nightly")

    browser.tab_to("button", "Rotate Nightly")
    browser.keys(ENTER)
    browser.wait(lambda: browser.focused() == ("radio", "1 day"))
    browser.keys(DOWN, ENTER)
    browser.wait(lambda: browser.focused() == ("button", "Copy"))
    browser.keys(ESCAPE)
    browser.wait(lambda: len(browser.names("rowheader")) == 2)
    # It can't be rotated again, so the focus is beside it.
    assert browser.focused() == ("button", "Manage Nightly")
    assert site.db.value("SELECT count(*) FROM keysmith.keys WHERE expires_at > now() + interval '6 days'") == 1

    browser.tab_to("button", "Disable Nightly")
    browser.keys(ENTER)
    browser.find("button", "Enable Nightly")
    assert browser.focused() == ("button", "Enable Nightly")
    browser.tab_to("button", "Revoke Nightly")
    browser.keys(ENTER)
    browser.find("dialog", "Revoke Nightly?")
    assert browser.focused() == ("button", "Keep it"), "the harmless button comes first"
    browser.keys(ESCAPE)
    browser.gone("dialog")
    assert browser.focused() == ("button", "Revoke Nightly")
    browser.keys(ENTER)
    browser.find("dialog")
    browser.tab_to("button", "Revoke")
    browser.keys(ENTER)
    browser.wait(lambda: len(browser.names("rowheader")) == 1)
    # The key is not in the list any more: the focus is at its heading, not at the beginning of the page.
    assert browser.focused() == ("heading", "API keys")

    browser.tab_to("radio", "30 days")
    browser.keys(RIGHT)
    browser.wait(lambda: len(browser.script("return [...shadow.querySelectorAll('.plot g')]")) == 24)
    browser.tab_to("DisclosureTriangle", "Show as a table")
    browser.keys(ENTER)
    browser.find("table", "Usage")


def test_what_a_screen_reader_finds(site):
    site.db.mint(label="Production")
    site.db.mint(label="Production")
    browser = site.show('scopes="images:read"')
    for width in (1100, 360):
        browser.size(width, 900)
        table = browser.find("table", "API keys")
        assert browser.names("columnheader") == ["Name", "Access", "Last used", "Expires", "Status", "Manage"], width
        assert len(browser.names("rowheader")) == 2 and len(browser.nodes("cell")) == 10, width
    first, second = browser.nodes("button", "Manage Production")
    assert first.states["expanded"] is False and first.description != second.description, "the end of the key tells them apart"
    first.click()
    assert browser.nodes("button", "Manage Production")[0].states["expanded"] is True
    assert browser.find("region", "Usage") and browser.names("region") == ["API keys", "Usage"]
    assert browser.find("radiogroup", "Period") and browser.find("image", "0 requests, 0 of them refused")
    browser.click("button", "Create key")
    dialog = browser.find("dialog", "Create key")
    assert dialog.states["modal"] is True
    assert not browser.nodes("table"), "what is behind a modal dialog is not there"
    assert browser.find("textbox", "Networks").description.startswith("One in each line")
    assert browser.find("group", "Scopes")


def test_problems_are_told(site):
    site.db.mint(label="Production")
    browser = site.show()
    browser.click("button", "Manage Production")
    browser.click("button", "Edit Production")
    browser.find("textbox", "Networks").click()
    browser.keys("203.0.113.7/24")
    browser.click("button", "Save")
    browser.find("alert")
    assert "write 203.0.113.0/24" in browser.text()
    node = browser.find("textbox", "Networks")
    assert node.states["invalid"] == "true" and browser.focused() == ("textbox", "Networks")
    assert site.key("Production").allowlist is None


def test_what_happened_is_announced(site):
    site.db.mint(label="Production")
    browser = site.show()
    browser.click("button", "Manage Production")
    browser.click("button", "Disable Production")
    browser.wait(lambda: browser.script("return shadow.querySelector('[role=status]').textContent") == "The key is disabled.")


CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255] };
const over = ([r, g, b, a], under) => [r, g, b].map((part, at) => part * a + under[at] * (1 - a));
const light = (color) => color.map((part) => part / 255).map((part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [.2126, .7152, .0722][at], 0);
const behind = (node) => { const under = node ? behind(node.assignedSlot ?? node.parentElement ?? node.getRootNode().host) : [255, 255, 255];
    return node ? over(rgba(getComputedStyle(node).backgroundColor), under) : under };
const found = [];
for (const node of shadow.querySelectorAll('*')) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) || !node.checkVisibility() || node.closest('.hidden, svg, option')) continue;
    const under = behind(node), pair = [light(over(rgba(getComputedStyle(node).color), under)), light(under)].sort((a, b) => b - a);
    const ratio = (pair[0] + .05) / (pair[1] + .05);
    found.push([ratio, node.textContent.slice(0, 30)]);
}
return found.sort((a, b) => a[0] - b[0]);
"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_can_be_read(site, scheme):
    site.db.mint(label="Production")
    site.db.mint(label="Old", expires_at="2090-01-01Z")
    site.db.rows("UPDATE keysmith_private.key SET expires_at = now() WHERE label = 'Old'")
    browser = site.show()
    browser.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    background = browser.script("return getComputedStyle(document.documentElement).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 22, 26)"}[scheme]
    browser.click("button", "Manage Production")
    for opened in (None, "Create key", "Rotate Production", "Revoke Production"):
        if opened:
            browser.click("button", opened)
            browser.find("dialog")
        found = browser.script(CONTRAST)
        assert len(found) > 20 and found[0][0] >= 4.5, (opened, found[:3])
        if opened:
            browser.keys(ESCAPE)
            browser.gone("dialog")


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_page(site, width):
    for label in ("Production", "W" * 100, "ein sehr langes Wort " * 4):
        site.db.mint(label=label.strip(), scopes=[f"scope:number:{number}" for number in range(30)], allowlist=["2001:db8::/32"] * 1)
    browser = site.show()
    browser.size(width, 800)
    browser.click("button", "Manage Production")
    assert browser.script("return document.documentElement.scrollWidth") <= width
    browser.click("button", "Edit Production")
    browser.find("dialog")
    box = browser.script("const box = shadow.querySelector('dialog').getBoundingClientRect(); return [box.left, box.right, box.top, box.bottom]")
    assert box[0] >= 0 and box[1] <= width and box[2] >= 0 and box[3] <= 800, box
    assert browser.script("const dialog = shadow.querySelector('dialog'); return dialog.scrollWidth <= dialog.clientWidth")


def test_no_movement_for_those_who_ask_for_none(site):
    browser = site.show()
    browser.click("button", "Create key")
    browser.find("dialog")
    moving = "return getComputedStyle(shadow.querySelector('dialog')).animationName"
    assert browser.script(moving) == "none"
    browser.media(prefers_reduced_motion="no-preference")
    assert browser.script(moving) != "none"


def test_the_page_chooses_fonts_and_colours(site):
    site.db.mint(label="Production")
    browser = site.show()
    browser.script("document.body.style.fontFamily = 'serif'; document.body.style.color = 'rgb(1, 2, 3)';"
                   "portal.style.setProperty('--keysmith-accent', 'rgb(200, 0, 100)')")
    seen = browser.script("const look = (selector) => getComputedStyle(shadow.querySelector(selector));"
                          "return [look('.keys bdi').fontFamily, look('.keys bdi').color, look('button.primary').backgroundColor]")
    assert seen == ["serif", "rgb(1, 2, 3)", "rgb(200, 0, 100)"]
