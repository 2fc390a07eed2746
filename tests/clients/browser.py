"""A real Chromium, driven as people do: elements are found by role and name, and clicked at their place."""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-color-profile=srgb", "--hide-scrollbars", "--lang=en-US"]
TAB, ENTER, ESCAPE, SPACE, SHIFT, CONTROL = "\ue004", "\ue007", "\ue00c", " ", "\ue008", "\ue009"
DOWN, RIGHT = "\ue015", "\ue014"
SECONDS = 60


@contextmanager
def running(timezone="America/New_York"):
    """A browser with a new profile. The test is skipped where there is none."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("Debian's packages chromium and chromium-driver are not installed")
    with tempfile.TemporaryDirectory(prefix="keysmith-chromium-", ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  env=os.environ | {"TMPDIR": profile})
        browser = None
        try:
            port = next(found[1] for line in driver.stdout if (found := re.search(r"on port ([1-9]\d*)", line)))
            browser = Browser(f"http://127.0.0.1:{port}", profile)
            browser.cdp("Emulation.setTimezoneOverride", timezoneId=timezone)
            yield browser
        finally:
            if browser:
                browser.call("DELETE", "")
            driver.terminate()
            driver.wait()
            driver.stdout.close()


class Browser:
    def __init__(self, address, profile):
        self.address = address
        options = {"binary": CHROMIUM, "args": [*OPTIONS, f"--user-data-dir={profile}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self.call("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        self.address += f"/session/{made['sessionId']}"

    def call(self, method, path, body=None):
        address = f"{self.address}/session" if "/session/" not in self.address else self.address + path
        request = urllib.request.Request(address, method=method, data=None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=SECONDS * 2) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def cdp(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def script(self, body, *arguments):
        """Runs the body of a function. `portal` and `shadow` are the element and its inside."""
        head = "const portal = document.querySelector('keysmith-portal'), shadow = portal?.shadowRoot;"
        return self.call("POST", "/execute/sync", {"script": head + body, "args": arguments})

    def wait(self, condition):
        """The first result of the condition that is true. A failed assertion of the condition is not yet true."""
        end = time.monotonic() + SECONDS
        while True:
            try:
                if found := condition():
                    return found
                problem = "it stays false"
            except AssertionError as error:
                problem = error
            if time.monotonic() > end:
                raise AssertionError(f"{problem}\n{self.text()}")
            time.sleep(0.03)

    # What assistive technology sees

    def nodes(self, role, name=None):
        """The nodes of the accessibility tree. Those behind a modal dialog are not in it."""
        root = self.cdp("DOM.getDocument", depth=0)["root"]["nodeId"]
        named = {} if name is None else {"accessibleName": name}
        found = self.cdp("Accessibility.queryAXTree", nodeId=root, role=role, **named)["nodes"]
        return [Node(self, node) for node in found if not node["ignored"]]

    def names(self, role):
        return [node.name for node in self.nodes(role)]

    def find(self, role, name=None):
        """The only node of this role and name, which may come a moment later."""
        def only():
            found = self.nodes(role, name)
            assert len(found) == 1, f"{len(found)} of {role} {name!r}; there are {self.names(role)}"
            return found[0]
        return self.wait(only)

    def gone(self, role, name=None):
        return self.wait(lambda: not self.nodes(role, name))

    def click(self, role, name=None, which=0):
        """Clicks an element when the portal has read what it reads. `which` chooses among equal ones."""
        def clicked():
            assert not self.script("return !shadow?.querySelector('dialog') && shadow?.querySelector('[aria-busy]')"), "the portal is reading"
            found = self.nodes(role, name)
            assert len(found) == 1 or which and found, f"{len(found)} of {role} {name!r}; there are {self.names(role)}"
            found[which].click()
            return True
        self.wait(clicked)

    def focused(self):
        """Role and name of the element that has the focus."""
        held = self.cdp("Runtime.evaluate", expression="(() => { let at = document.activeElement;"
                        "while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement; return at })()")["result"]
        node = self.cdp("Accessibility.getPartialAXTree", objectId=held["objectId"], fetchRelatives=False)["nodes"][0]
        return node["role"]["value"], node.get("name", {}).get("value", "")

    # Input

    def keys(self, *keys):
        """Presses keys one after the other. A tuple is pressed together."""
        actions = []
        for key in (part for given in keys for part in ([given] if isinstance(given, tuple) else given)):
            together = key if isinstance(key, tuple) else (key,)
            actions += [{"type": "keyDown", "value": part} for part in together]
            actions += [{"type": "keyUp", "value": part} for part in reversed(together)]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def tab_to(self, role, name, back=False):
        """Reaches an element by the Tab key alone."""
        for _ in range(120):
            if self.focused() == (role, name):
                return
            self.keys((SHIFT, TAB) if back else TAB)
        raise AssertionError(f"Tab does not reach {role} {name!r}")

    # The page

    def text(self):
        return self.script("return shadow?.textContent ?? document.body?.innerText")

    def html(self):
        """All that is in the page, inside of the portal too, with the values of fields."""
        return self.script("return document.documentElement.outerHTML + (shadow?.innerHTML ?? '') +"
                           "[...shadow?.querySelectorAll('input,textarea') ?? []].map((field) => field.value)")

    def console(self):
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def size(self, width, height, scale=1):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def media(self, **features):
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": name.replace("_", "-"), "value": value}
                                                         for name, value in features.items()])

    def picture(self, whole=False):
        return base64.b64decode(self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])


class Node:
    def __init__(self, browser, node):
        self.browser, self.id = browser, node["backendDOMNodeId"]
        self.role, self.name = node["role"]["value"], node.get("name", {}).get("value", "")
        self.states = {state["name"]: state["value"].get("value") for state in node.get("properties", ())}
        self.description = node.get("description", {}).get("value", "")

    def click(self):
        self.browser.cdp("DOM.scrollIntoViewIfNeeded", backendNodeId=self.id)
        quad = self.browser.cdp("DOM.getContentQuads", backendNodeId=self.id)["quads"][0]
        x, y = sum(quad[0::2]) / 4, sum(quad[1::2]) / 4
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.browser.cdp("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
