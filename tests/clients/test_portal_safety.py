"""What a key, a hostile label and a foreign site can do on the portal's page: nothing."""

import http.client
import json

import pytest

from browser import ENTER, ESCAPE
from portal_site import browser, demo, site  # noqa: F401

HOSTILE = ["<img src=x onerror=alert(1)>", "</td></table><script>alert(1)</script>", "\u202egnp.exe", "مفتاح الإنتاج", "{label}", "a" * 100]


def new_key(browser):
    browser.click("button", "Create key")
    browser.keys("CI", ENTER)
    browser.find("button", "Copy")
    return browser.script("return shadow.querySelector('code').textContent")


def test_the_policy_is_kept(site):
    """The page's Content-Security-Policy allows only files of the site, and no text that becomes markup."""
    for directive in ("default-src 'self'", "style-src 'self'", "script-src 'self'", "require-trusted-types-for 'script'"):
        assert directive in demo.POLICY
    site.db.mint(label="Production")
    browser = site.show('scopes="images:read"')
    browser.click("button", "Manage Production")
    for opened in ("Create key", "Edit Production", "Rotate Production", "Revoke Production"):
        browser.click("button", opened)
        browser.find("dialog")
        browser.keys(ESCAPE)
        browser.gone("dialog")
    assert browser.console() == []
    look = "return getComputedStyle(shadow.querySelector('button.primary')).borderRadius"
    assert browser.script(look) == "8px", "the style sheet is applied"
    assert browser.script("return shadow.querySelectorAll('[style], script, style').length") == 0


def test_text_of_the_server_is_text(site):
    for label in HOSTILE:
        site.db.mint(label=label, owner="ann@acme.example")
    site.db.rows("UPDATE keysmith_private.key SET key_snippet = '<b>x</b>' WHERE label = '{label}'")
    browser = site.show()
    shown = browser.script("return [...shadow.querySelectorAll('th bdi')].map((node) => node.textContent)")
    assert shown == HOSTILE
    assert browser.script("return shadow.querySelectorAll('img, script, b').length") == 0
    assert "<b>x</b>" in browser.text()
    browser.click("button", f"Manage {HOSTILE[0]}")
    browser.click("button", f"Revoke {HOSTILE[0]}")
    assert browser.find("dialog", f"Revoke {HOSTILE[0]}?")
    browser.keys(ESCAPE)
    # A label that turns the direction of text does not turn the text around it.
    browser.click("button", f"Manage {HOSTILE[2]}")
    browser.click("button", f"Rotate {HOSTILE[2]}")
    browser.find("dialog")
    assert browser.script("return getComputedStyle(shadow.querySelector('dialog h2 bdi')).unicodeBidi") == "isolate"
    browser.keys(ESCAPE)
    assert browser.console() == []


def test_errors_of_the_server_are_text(site):
    site.server.instead = lambda request: (400, {"Content-Type": "application/json"}, {"message": "<img src=x onerror=alert(1)>" * 50})
    browser = site.show()
    assert "<img" in browser.text() and browser.script("return shadow.querySelectorAll('img').length") == 0
    assert browser.console()[0].endswith("400 (Bad Request)")


@pytest.mark.parametrize("way", ["Done", "Escape", "removed", "left"])
def test_a_key_is_nowhere_after_it_was_shown(site, way):
    browser = site.show()
    browser.script("window.kept = document.querySelector('keysmith-portal')")
    api_key = new_key(browser)
    assert api_key in browser.html()
    if way == "Done":
        browser.click("button", "Done")
    elif way == "Escape":
        browser.keys(ESCAPE)
    elif way == "removed":
        browser.script("portal.remove()")
    else:
        browser.script("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    browser.wait(lambda: browser.script("return !kept.shadowRoot.querySelector('dialog')"))
    assert api_key not in browser.html() + browser.script("return kept.shadowRoot.innerHTML")
    assert api_key not in json.dumps(browser.cdp("Page.getNavigationHistory"))
    assert api_key not in json.dumps(browser.console())
    stored = "return JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, history.state, [...performance.getEntries()].map(String)])"
    assert api_key not in browser.script(stored)
    assert site.db.verify(api_key).ok


def test_a_key_is_not_kept_by_the_browser(site):
    """Its answers are in no cache, and the page that is gone back to does not show it."""
    browser = site.show()
    api_key = new_key(browser)
    browser.open(site.url + "/page.css")
    browser.script("history.back()")
    browser.wait(lambda: browser.script("return location.pathname === '/page.html' && shadow && !shadow.querySelector('[aria-busy]')"))
    assert api_key not in browser.html() and browser.nodes("dialog") == []
    caches = {headers["Cache-Control"] for _, _, headers, _ in site.server.requests}
    assert caches == {"no-cache"}, "each request asks for a new answer"


def test_the_demo_answers_its_own_page_only(site):
    def ask(method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", site.port)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()

    key = site.db.mint(label="Production")
    here = {"Host": f"127.0.0.1:{site.port}"}
    assert ask("GET", "/v1/keys", **here)[0] == 200
    for host in ("evil.example", "evil.example:8017", "127.0.0.1.evil.example:80", ""):
        assert ask("GET", "/v1/keys", Host=host)[0] == 403
    for sender in ({"Sec_Fetch_Site": "cross-site"}, {"Origin": "https://evil.example"}):
        assert ask("POST", f"/v1/keys/{key.key_id}/disable", **here, **sender)[0] == 403
    assert site.db.status_of(key.key_id) == "active"
    assert ask("POST", f"/v1/keys/{key.key_id}/disable", **here, Sec_Fetch_Site="same-origin")[0] == 200
    for body, status in ((b"{", 400), (b"\xff", 400), (b'"\\u0000"', 400), (b"[" * 100_000, 400), (b" " * 131_073, 413), (b"{}", 201)):
        sent = {"Content_Type": "application/json", "Sec_Fetch_Site": "same-origin"}
        assert ask("POST", "/v1/keys", body, **here, **sent)[0] == status, body[:9]
    for path in ("/demo.py", "/demo.sql", "/../../README.md", "/../../examples/express/app.js", "//etc/passwd", "/%2e%2e/x.js", "/parts", "/package.json"):
        assert ask("GET", path, **here)[0] in (400, 404), path
