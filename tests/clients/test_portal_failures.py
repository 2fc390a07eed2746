"""What the portal shows when the server refuses, fails or is gone."""

import json
from email.utils import formatdate

import pytest

from browser import ENTER
from portal_site import browser, site  # noqa: F401

JSON = {"Content-Type": "application/json"}


def refusing(method, *answer):
    return lambda request: answer if request.command == method else None


def problem(browser):
    browser.find("alert")
    return browser.script("return [...shadow.querySelectorAll('[role=alert]:not([hidden]) span')].map((node) => node.textContent)")


@pytest.mark.parametrize("body, shown", [
    ({"code": "x", "message": "Plain words."}, "Plain words."),
    ({"type": "about:blank", "title": "Too bad", "detail": "Words of a problem."}, "Words of a problem."),
    ({"title": "Too bad", "status": 422}, "Too bad"),
    ({"error": {"code": "X", "message": "A template."}}, "Unprocessable Entity"),
    ({"message": {"not": "a text"}}, "Unprocessable Entity"), ([], "Unprocessable Entity"), (b"<h1>no JSON</h1>", "Unprocessable Entity"),
])
def test_errors_as_the_server_words_them(site, body, shown):
    site.server.instead = refusing("POST", 422, JSON, body)
    browser = site.show()
    browser.click("button", "Create key")
    browser.keys("CI", ENTER)
    assert problem(browser) == [shown]
    assert browser.find("dialog") and browser.script("return shadow.querySelector('[name=label]').value") == "CI"
    site.server.instead = lambda request: None
    browser.click("button", "Create key")
    browser.find("button", "Done")
    assert site.key("CI")


@pytest.mark.parametrize("form", ["plain", "problem"])
def test_errors_of_the_keyspace(site, form):
    site.db.call("alter_keyspace", "default", json.dumps({"error_body": form}))
    browser = site.show()
    browser.click("button", "Create key")
    browser.keys("x" * 101, ENTER)
    assert problem(browser) == ["label must have at most 100 characters, not 101"]
    assert browser.focused() == ("textbox", "Name")


@pytest.mark.parametrize("answer", [(401, JSON, {"code": "missing_authorization", "message": "No API key was given."}),
                                    (302, {"Location": "/login"}, None)])
def test_signed_out(site, answer):
    site.server.instead = lambda request: answer
    script = "window.heard = 0; document.addEventListener('keysmith-signed-out', () => { heard += 1 });"
    browser = site.show(script=script)
    assert problem(browser) == ["You are signed out. Sign in again to manage your keys."]
    assert browser.script("return heard") == 1
    assert not browser.nodes("region", "Usage")
    browser.click("button", "Try again")
    browser.wait(lambda: len(site.asked("GET")) == 2)
    browser.wait(lambda: not browser.script("return shadow.querySelector('[aria-busy]')"))
    assert browser.script("return heard") == 1, "once for each time that somebody is signed out"
    # The page has a new session.
    site.server.instead = lambda request: None
    browser.click("button", "Try again")
    browser.wait(lambda: "No keys yet" in browser.text())
    assert browser.focused() == ("heading", "API keys")
    site.server.instead = lambda request: answer
    browser.click("button", "Create key")
    browser.keys("CI", ENTER)
    assert problem(browser) == ["You are signed out. Sign in again to manage your keys."]
    assert browser.script("return heard") == 2


def test_new_headers_of_a_page_that_was_signed_out(site):
    manager = site.db.mint(label="Manager")
    site.db.call("grant_access", "portal_test", "issuer")
    site.server.instead = lambda request: None if "X-API-Key" in request.headers else (401, JSON, None)
    browser = site.show()
    assert problem(browser)
    browser.script("portal.headers = { 'X-API-Key': arguments[0] }", manager.api_key)
    assert browser.find("button", "Manage Manager") and browser.nodes("alert") == []


@pytest.mark.parametrize("wait, shown", [("120", "in 2 minutes"), ("date", "in"), ("soon", ""), ("-1", "")])
def test_too_many_requests(site, wait, shown):
    wait = formatdate(4102444800, usegmt=True) if wait == "date" else wait
    site.server.instead = lambda request: (429, JSON | {"Retry-After": wait}, {"code": "rate_limited", "message": "Slow down."})
    browser = site.show()
    text, = set(problem(browser))
    assert text.startswith("Slow down.") and ("Try again" in text) == bool(shown) and shown in text


def test_a_server_that_is_gone(site):
    site.db.mint(label="Production")
    browser = site.show()
    browser.click("button", "Manage Production")

    def gone(request):
        raise ConnectionError("this ends the connection without an answer")

    site.server.instead = gone
    browser.click("button", "Disable Production")
    told = "The server did not answer. Look at the list before you try again: it may have happened."
    assert problem(browser) == [told]
    assert browser.focused() == ("button", "Disable Production")
    browser.click("button", "Create key")
    browser.keys("CI", ENTER)
    browser.wait(lambda: problem(browser)[-1] == told)
    browser.click("button", "Cancel")
    browser.click("button", "Try again")
    browser.wait(lambda: "The server can’t be reached. Check your connection." in problem(browser))
    site.server.instead = lambda request: None
    browser.click("button", "Try again")
    browser.gone("alert")
    assert browser.find("button", "Manage Production")


def test_a_database_that_is_gone(site, cluster, dbname):
    site.db.mint(label="Production")
    cluster.execute("ALTER ROLE portal_test NOLOGIN")
    browser = site.show()
    assert set(problem(browser)) == {"The service is unavailable."}
    cluster.execute("ALTER ROLE portal_test LOGIN")
    browser.click("button", "Try again")
    assert browser.find("button", "Manage Production") and browser.nodes("alert") == []


@pytest.mark.parametrize("status", [404, 405])
def test_a_service_without_usage(site, status):
    site.db.mint(label="Production")
    for path in ("/v1/usage", "/v1/logs"):
        site.db.call("remove_endpoint", "default", "GET", path)
    if status == 405:
        for path in ("/v1/usage", "/v1/logs"):
            site.db.call("define_endpoint", "default", "POST", path, "enable")
    else:
        site.server.instead = lambda request: None if request.path.startswith("/v1/keys") else (404, JSON, {"message": "no"})
    browser = site.show()
    assert browser.find("button", "Manage Production")
    arrived = "return performance.getEntriesByType('resource').filter((entry) => entry.name.includes('/v1/')).length"
    browser.wait(lambda: browser.script(arrived) == 3)
    assert not browser.nodes("region", "Usage") and browser.nodes("alert") == []


@pytest.mark.parametrize("which", ["usage", "logs"])
def test_one_part_of_the_usage_fails(site, which):
    site.server.instead = lambda request: (500, JSON, {"message": "Broken."}) if request.path.startswith(f"/v1/{which}") else None
    browser = site.show()
    assert problem(browser) == ["Broken."]
    browser.wait(lambda: len(site.asked("GET")) == 3)
    browser.wait(lambda: len(browser.nodes("image")) == (which == "logs"))
    site.server.instead = lambda request: None
    browser.script("portal.reload()")
    browser.gone("alert")
    assert browser.find("image") and browser.find("DisclosureTriangle", "Recent requests")


def test_pages_name_other_endpoints(site):
    site.db.mint(label="Production")
    site.show('usage="" logs=""')
    assert {path.partition("?")[0] for path, _ in site.asked("GET")} == {"/v1/keys"}
    site.show('base="/v1/keys/" usage="/v1/usage" logs="/v1/logs"').find("region", "Usage")


def test_an_answer_of_another_form(site):
    site.db.call("define_endpoint", "default", "GET", "/v1/keys", "list_keys", response='{"data": ["{label}"]}')
    browser = site.show()
    assert problem(browser) == ["The server sent something else than expected."]


def test_what_the_person_may_not_do(site):
    site.db.call("define_role", "default", "viewer", ["images:read"])
    site.db.call("set_member", "acme", "ann@acme.example", "viewer")
    site.db.call("define_route", "default", "POST", "/v1/keys", "keys:write")
    browser = site.show()
    browser.click("button", "Create key")
    browser.keys("CI", ENTER)
    assert problem(browser) == ["A scope that this request needs is missing."]
    assert site.db.value("SELECT count(*) FROM keysmith.keys") == 0


def test_a_key_that_someone_else_revoked(site):
    for number in range(19):
        site.db.mint(label=f"Key {number}")
    key = site.db.mint(label="Production")
    browser = site.show()
    browser.click("button", "Manage Production")
    site.db.call("revoke", key.key_id)
    browser.click("button", "Disable Production")
    assert problem(browser) == [f"key {key.key_id} does not exist or is revoked"]
    box = browser.script("const box = shadow.querySelector('[role=alert]').getBoundingClientRect(); return [box.top, box.bottom]")
    assert 0 <= box[0] and box[1] <= 900, "it is in sight, though the key is at the end of a long list"
    assert browser.focused() == ("button", "Disable Production")
    browser.click("button", "Try again")
    browser.wait(lambda: len(browser.names("rowheader")) == 19)


def test_the_last_page_when_its_keys_are_gone(site):
    keys = [site.db.mint(label=f"Key {number}") for number in range(21)]
    browser = site.show()
    browser.click("button", "Next")
    browser.wait(lambda: "21–21 of 21" in browser.text())
    site.db.call("revoke", keys[0].key_id)
    browser.script("portal.reload()")
    browser.wait(lambda: len(browser.names("rowheader")) == 20)
