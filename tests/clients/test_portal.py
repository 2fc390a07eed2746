"""A customer manages keys on the portal's page, by clicks in a real Chromium."""

import json
import re
import threading

from browser import ENTER, ESCAPE
from portal_site import ADDRESS, browser, site  # noqa: F401

SCOPES = 'scopes="images:read images:write"'


def fill(browser, name, text):
    browser.find("textbox", name).click()
    browser.keys(text)


def copied_key(browser):
    """The key of the dialog that shows it, by its button and the clipboard."""
    browser.cdp("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.click("button", "Copy")
    browser.find("button", "Copied")
    return browser.cdp("Runtime.evaluate", expression="navigator.clipboard.readText()", awaitPromise=True)["result"]["value"]


def heard(browser, *names):
    """Records these events on the page, as an application hears them."""
    browser.script("window.heard = []; for (const name of arguments[0]) document.addEventListener(name, "
                   "(event) => window.heard.push([event.type, event.detail]))", [f"keysmith-{name}" for name in names])
    return lambda: browser.script("return window.heard")


def test_a_new_key(site):
    browser = site.show(SCOPES)
    assert browser.find("heading", "API keys") and "No keys yet" in browser.text()
    events = heard(browser, "created")
    browser.click("button", "Create key")
    fill(browser, "Name", "Build server")
    browser.click("checkbox", "images:read")
    browser.find("Date", "Expires").click()
    browser.keys("01312090")
    fill(browser, "Networks", "203.0.113.0/24\n2001:db8::/32")
    browser.click("button", "Create key")
    api_key = copied_key(browser)
    assert site.db.verify(api_key, ip=ADDRESS).ok
    key = site.key("Build server")
    assert (key.environment, key.kind, key.scopes) == ("live", "secret", ["images:read"])
    assert list(map(str, key.allowlist)) == ["203.0.113.0/24", "2001:db8::/32"]
    # The day ends in the browser's zone, which is five hours behind.
    assert key.expires_at.isoformat() == "2090-02-01T04:59:59+00:00"
    assert browser.find("dialog", "Your new key")
    browser.click("button", "Done")
    browser.gone("dialog")
    browser.find("button", "Manage Build server")
    browser.wait(lambda: "The key was created." in browser.text())
    (name, detail), = events()
    assert detail["key_id"] == str(key.key_id) and "api_key" not in detail and api_key not in json.dumps(detail)


def test_environment_kind_and_text_of_scopes(site):
    browser = site.show()
    browser.click("button", "Create key")
    browser.script("for (const [name, value] of [['environment', 'test'], ['kind', 'publishable']])"
                   "shadow.querySelector(`[name=${name}]`).value = value")
    fill(browser, "Scopes", "a:read  b:*")
    fill(browser, "Name", "Website")
    browser.keys(ENTER)
    browser.click("button", "Done")
    browser.find("button", "Manage Website")
    key = site.key("Website")
    assert (key.environment, key.kind, key.scopes, key.expires_at, key.allowlist) == ("test", "publishable", ["a:read", "b:*"], None, None)


def test_what_a_page_offers(site):
    browser = site.show('environments="live" kinds=""')
    browser.click("button", "Create key")
    assert not browser.nodes("combobox")
    fill(browser, "Name", "CI")
    browser.keys(ENTER)
    browser.find("button", "Done")
    assert [json.loads(body) for _, body in site.asked("POST")] == [{"label": "CI", "environment": "live"}]


def test_no_scope_is_given_by_forgetting_the_boxes(site):
    browser = site.show(SCOPES)
    browser.click("button", "Create key")
    browser.click("button", "Create key")
    assert browser.find("alert") and "Choose at least one scope." in browser.text()
    assert site.asked("POST") == []
    browser.click("checkbox", "images:write")
    browser.click("button", "Create key")
    browser.find("button", "Done")
    assert site.db.value("SELECT scopes FROM keysmith.keys") == ["images:write"]


def test_half_a_date_is_not_a_key_for_ever(site):
    browser = site.show()
    browser.click("button", "Create key")
    browser.find("Date", "Expires").click()
    browser.keys("0131")
    browser.click("button", "Create key")
    assert browser.find("alert") and browser.find("Date", "Expires").states["invalid"] == "true"
    browser.find("Date", "Expires").click()
    browser.keys("01312090")
    browser.click("button", "Create key")
    browser.find("button", "Done")
    assert site.asked("POST") and site.db.value("SELECT expires_at FROM keysmith.keys") is not None


def test_the_list(site):
    keys = [site.db.mint(label=f"Key {number}") for number in range(45)]
    site.db.call("revoke", keys[0].key_id, "lost")
    browser = site.show()
    first = browser.names("rowheader")
    assert len(first) == 20 and first[0].startswith("Key 1") and "1–20 of 44" in browser.text()
    browser.click("button", "Next")
    browser.wait(lambda: "21–40 of 44" in browser.text())
    browser.click("button", "Next")
    browser.wait(lambda: "41–44 of 44" in browser.text())
    assert len(browser.names("rowheader")) == 4
    browser.click("button", "Next")
    browser.click("checkbox", "Show revoked keys")
    browser.wait(lambda: "1–20 of 45" in browser.text())
    browser.click("button", "Manage Key 0")
    assert "lost" in browser.text() and browser.nodes("button", "Revoke Key 0") == []


def test_a_new_key_is_on_the_page_that_is_shown_next(site):
    for number in range(20):
        site.db.mint(label=f"Key {number}")
    browser = site.show()
    browser.click("button", "Create key")
    fill(browser, "Name", "The newest")
    browser.keys(ENTER)
    browser.click("button", "Done")
    assert browser.find("rowheader").name.startswith("The newest") and "21–21 of 21" in browser.text()


def test_rotate(site):
    old = site.db.mint(label="Production", owner="ann@acme.example")
    browser = site.show()
    events = heard(browser, "rotated")
    for choice, ends in (("1 hour", "01:00"), ("7 days", "7 days")):
        browser.click("button", "Manage Production", -1)
        browser.click("button", "Rotate Production")
        browser.click("radio", choice)
        browser.click("button", "Rotate")
        new = copied_key(browser)
        browser.click("button", "Done")
        browser.gone("dialog")
        assert site.db.verify(new).ok and site.db.verify(old.api_key).ok
        grace = site.db.value("SELECT expires_at - clock_timestamp() BETWEEN %s::interval - interval '10 min' AND %s "
                              "FROM keysmith.keys WHERE key_id = %s", ends, ends, old.key_id)
        assert grace
        browser.wait(lambda: browser.text().count("Replaced") == len(events()))
        assert events()[-1][1]["rotated_from"] == str(old.key_id)
        old = site.db.row("SELECT key_id, %s AS api_key FROM keysmith.keys WHERE key_id = "
                          "(SELECT rotated_to FROM keysmith.keys WHERE key_id = %s)", new, old.key_id)
    browser.click("button", "Manage Production", -1)
    browser.click("button", "Rotate Production")
    browser.click("radio", "It stops now")
    browser.click("button", "Rotate")
    browser.find("button", "Done")
    assert site.db.reason(old.api_key) == "revoked"


def test_disable_and_enable(site):
    key = site.db.mint(label="Production")
    browser = site.show()
    events = heard(browser, "disabled", "enabled")
    browser.click("button", "Manage Production")
    browser.click("button", "Disable Production")
    browser.find("button", "Enable Production")
    assert site.db.status_of(key.key_id) == "disabled"
    assert browser.focused() == ("button", "Enable Production")
    assert not browser.nodes("button", "Rotate Production"), "a disabled key can't be rotated"
    browser.click("button", "Enable Production")
    browser.find("button", "Disable Production")
    assert site.db.status_of(key.key_id) == "active"
    assert [name for name, _ in events()] == ["keysmith-disabled", "keysmith-enabled"]


def test_edit_sends_only_what_was_changed(site):
    key = site.db.mint(label="Prod", scopes=["images:read", "images:admin"], allowlist=["203.0.113.0/24"], expires_at="2090-05-06 12:34Z")
    browser = site.show(SCOPES)
    browser.click("button", "Manage Prod")
    browser.click("button", "Edit Prod")
    fill(browser, "Name", "uction")
    browser.click("button", "Save")
    browser.find("button", "Manage Production")
    browser.click("button", "Edit Production")
    # A scope that the page does not offer stays unless someone removes it.
    assert {node.name: node.states["checked"] for node in browser.nodes("checkbox") if ":" in node.name} == {
        "images:read": "true", "images:write": "false", "images:admin": "true"}
    browser.click("checkbox", "images:write")
    browser.click("checkbox", "images:admin")
    browser.click("button", "Save")
    browser.gone("dialog")
    browser.click("button", "Edit Production")
    browser.script("shadow.querySelector('[name=allowlist]').value = ''; shadow.querySelector('[name=expires_at]').value = ''")
    browser.click("button", "Save")
    browser.gone("dialog")
    browser.click("button", "Edit Production")
    browser.click("button", "Save")
    browser.gone("dialog")
    assert [json.loads(body) for _, body in site.asked("PATCH")] == [
        {"label": "Production"}, {"scopes": ["images:read", "images:write"]}, {"allowlist": [], "expires_at": None}]
    changed = site.key("Production")
    assert (changed.key_id, changed.scopes, changed.allowlist, changed.expires_at) == (key.key_id, ["images:read", "images:write"], None, None)


def test_revoke_asks_first(site):
    key = site.db.mint(label="Production")
    browser = site.show()
    events = heard(browser, "revoked")
    browser.click("button", "Manage Production")
    browser.click("button", "Revoke Production")
    assert browser.find("dialog", "Revoke Production?")
    browser.click("button", "Keep it")
    browser.gone("dialog")
    assert site.db.status_of(key.key_id) == "active" and events() == []
    browser.click("button", "Revoke Production")
    browser.click("button", "Revoke")
    browser.wait(lambda: "No keys yet" in browser.text())
    assert site.db.status_of(key.key_id) == "revoked"
    assert [(name, detail["status"]) for name, detail in events()] == [("keysmith-revoked", "revoked")]


def test_the_member_is_in_the_audit(site):
    browser = site.show()
    browser.click("button", "Create key")
    browser.keys("CI", ENTER)
    browser.find("button", "Done")
    assert site.db.value("SELECT acting_member FROM keysmith.audit WHERE action = 'mint'") == "ann@acme.example"


def test_usage(site):
    key, other = site.db.mint(label="Production", scopes=["images:read"]), site.db.mint(label="CI")
    site.db.call("define_route", "default", "GET", "/images", "images:read")
    site.db.call("define_route", "default", "POST", "/images", "images:write")
    site.show()
    for used, method in ((key, "GET"), (key, "GET"), (key, "POST"), (other, "GET")):
        site.db.one("authenticate", json.dumps({"X-API-Key": used.api_key}), method, "/images")
    site.db.call("flush_usage")
    browser = site.show()
    assert browser.find("image", "4 requests, 1 of them refused")
    browser.click("DisclosureTriangle", "Show as a table")
    day = site.db.value("SELECT to_char(now() AT TIME ZONE 'UTC', 'Mon FMDD, YYYY')")
    rows = browser.script("return [...shadow.querySelector('.usage table tbody').rows].map((row) => row.innerText.split(/\\s*\\t\\s*/))")
    assert (len(rows), rows[0], rows[1][1:]) == (30, [day, "4", "1"], ["0", "0"])
    browser.click("radio", "24 hours")
    browser.wait(lambda: len(browser.script("return [...shadow.querySelectorAll('.plot g')]")) == 24)
    assert browser.find("image", "4 requests, 1 of them refused")
    browser.click("DisclosureTriangle", "Recent requests")
    shown = browser.script("return [...shadow.querySelector('.usage > details tbody').rows].map((row) => row.innerText)")
    assert len(shown) == 4, "requests of the person are not among them"
    assert site.db.value("SELECT count(*) FROM keysmith.usage WHERE key_id IS NULL") >= 1
    assert re.search(r"CI\s+GET /images\s+200$", shown[0]) and re.search(r"Production\s+POST /images\s+403 insufficient_scope", shown[1])


def test_older_requests(site):
    key = site.db.mint(label="Production")

    def use(times):
        for _ in range(times):
            site.db.verify(key.api_key)
        site.db.call("flush_usage")

    rows = "return shadow.querySelectorAll('.usage > details tbody tr').length"
    use(120)
    browser = site.show()
    browser.click("DisclosureTriangle", "Recent requests")
    assert browser.script(rows) == 100
    # Meanwhile new ones come, so that the second page begins with some of the first.
    use(5)
    browser.tab_to("button", "Load older ones")
    browser.keys(ENTER)
    browser.wait(lambda: browser.script(rows) == 120)
    assert browser.focused() == ("DisclosureTriangle", "Recent requests"), "the button has gone"


def test_times_are_those_of_the_browser(site):
    key = site.db.mint(label="Production", expires_at="2090-01-01 03:30Z")
    site.db.verify(key.api_key)
    site.db.call("flush_usage")
    browser = site.show()
    browser.click("button", "Manage Production")
    times = browser.script("return [...shadow.querySelectorAll('time')].map((time) => [time.textContent, time.title])")
    assert ["Dec 31, 2089", "2090-01-01 03:30:00 UTC"] in times
    assert ["Dec 31, 2089, 10:30 PM", "2090-01-01 03:30:00 UTC"] in times
    assert any(re.search(r"second|minute|now", text) for text, _ in times), "the last use, as a distance"


def test_a_page_with_keys_of_its_own(site):
    """The key comes from the page's script, as for applications whose requests have a token."""
    site.db.call("grant_access", "portal_test", "issuer")
    manager = site.db.mint(label="Manager")
    script = f"""document.querySelector('keysmith-portal').headers = async ({{ method, url }}) => ({{ "X-API-Key": "{manager.api_key}" }});"""
    browser = site.show(script=script)
    browser.find("button", "Manage Manager")
    used = {headers.get("X-API-Key") for _, _, headers, _ in site.server.requests}
    assert used == {manager.api_key}


def test_properties_that_are_set_before_the_class_is_known(site):
    manager = site.db.mint(label="Manager")
    site.db.call("grant_access", "portal_test", "issuer")
    site.server.pages["/first.js"] = f"""Object.assign(document.querySelector('keysmith-portal'),
        {{ texts: {{ create: 'Neu' }}, headers: {{ "X-API-Key": "{manager.api_key}" }} }})"""
    browser = site.show(script="import './first.js';")
    assert browser.find("button", "Neu") and browser.find("button", "Manage Manager")
    assert {headers.get("X-API-Key") for _, _, headers, _ in site.server.requests} == {manager.api_key}


def test_a_key_is_shown_although_the_page_changes_meanwhile(site):
    browser = site.show()
    arrived, go_on = threading.Event(), threading.Event()

    def slow(request):
        if request.command == "POST":
            arrived.set()
            assert go_on.wait(60)

    site.server.instead = slow
    browser.click("button", "Create key")
    browser.keys("CI", ENTER)
    assert arrived.wait(60)
    browser.keys(ENTER, ENTER)
    browser.keys(ESCAPE)
    browser.gone("dialog")
    go_on.set()
    browser.find("dialog", "Your new key")
    browser.script("portal.lang = 'de'; portal.texts = { create: 'Neu' }")
    assert site.db.verify(copied_key(browser)).ok
    browser.click("button", "Done")
    assert browser.find("button", "Neu") and browser.find("button", "Manage CI")
    assert len(site.asked("POST")) == 1, "one more Enter is not one more key"


def test_words_of_the_page(site):
    site.db.mint(label="Production", expires_at="2090-01-31 12:00Z")
    script = "document.querySelector('keysmith-portal').texts = { create: 'Créer une clé', lastUsed: 'Dernière utilisation', names: { live: 'Production' } };"
    browser = site.show('lang="fr"', script=script)
    assert browser.find("button", "Créer une clé") and "31 janv. 2090" in browser.text()
    assert browser.find("columnheader", "Dernière utilisation") and browser.find("columnheader", "Status")
    assert "Production · Secret" in browser.text()
    browser.script("portal.texts = {}; portal.lang = 'de'; const title = document.createElement('span');"
                   "title.slot = 'title'; title.textContent = 'Zugänge'; portal.append(title)")
    browser.find("button", "Create key")
    assert browser.find("heading", "Zugänge")
    browser.wait(lambda: "31.01.2090" in browser.text())
