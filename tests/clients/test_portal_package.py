"""The portal as people get it: by its README, from its npm package, and with `make portal`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

import cluster as clusters
import examples
import test_docs
from browser import ENTER
from portal_site import FOLDER, browser, serving, site  # noqa: F401

README = (FOLDER / "README.md").read_text()


def block(kind):
    """The first block of this kind."""
    return next(fence.text for fence in test_docs.fences(README) if fence.info == kind)


@pytest.fixture
def followed(cluster, dbname, monkeypatch, tmp_path):
    """The application of the README, in a folder with the files that it tells to copy."""
    pytest.importorskip("flask", reason="the README's server is Flask's")
    pytest.importorskip("psycopg_pool", reason="the README's server has a pool")
    monkeypatch.syspath_prepend(str(FOLDER.parent / "python/src"))
    roles = {name for name, in cluster.execute("SELECT rolname FROM pg_roles")}
    sql = [fence for fence, _ in test_docs.examples(README)]
    assert "ERROR" not in "".join(test_docs.run_blocks(cluster, dbname, sql[:2]))
    static = tmp_path / "static"
    shutil.copytree(FOLDER / "parts", static / "parts")
    shutil.copy(FOLDER / "keysmith-portal.js", static)
    (static / "keys.html").write_text(block("html"))
    monkeypatch.chdir(tmp_path)
    for name, value in {"PGHOST": cluster.dir, "PGPORT": cluster.port, "PGDATABASE": dbname, "SESSION_SECRET": "x"}.items():
        monkeypatch.setenv(name, str(value))
    module = {"__name__": "followed"}
    exec(compile(block("python"), "README.md", "exec"), module)
    yield module["app"]
    module["pool"].close()
    cluster.execute("DROP OWNED BY dashboard", dbname)
    for name, in cluster.execute("SELECT rolname FROM pg_roles"):
        if name not in roles:
            cluster.execute(f'DROP ROLE "{name}"')


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def test_the_readme(followed, browser, db):
    with serving(make_server("127.0.0.1", 0, followed, Server, Quiet)) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        browser.open(url + "/account/keys")
        browser.find("alert")
        assert "You are signed out." in browser.text()
        cookie = followed.session_interface.get_signing_serializer(followed).dumps({"person": ("acme", "ann@acme.example")})
        browser.cdp("Network.setCookie", name="session", value=cookie, url=url, sameSite="Lax", httpOnly=True)
        browser.click("button", "Try again")
        browser.wait(lambda: "No keys yet" in browser.text())
        browser.click("button", "Create key")
        browser.click("checkbox", "images:read")
        browser.find("textbox", "Name").click()
        browser.keys("CI", ENTER)
        browser.click("button", "Done")
        browser.find("button", "Manage CI")
        assert db.value("SELECT owner FROM keysmith.keys WHERE label = 'CI'") == "ann@acme.example"
        # The README uses the element's properties.
        browser.script("{" + block("js").replace('document.querySelector("meta[name=csrf]").content', "'token'") + "}")
        assert browser.find("button", "Créer une clé")
        # Another site's request has the cookie, and changes nothing.
        key_id = db.value("SELECT key_id FROM keysmith.keys")
        status = browser.script("return fetch(arguments[0], { method: 'POST', mode: 'no-cors', credentials: 'include' }).then(() => 'sent', String)",
                                f"http://localhost:{server.server_port}/v1/keys/{key_id}/disable")
        assert status == "TypeError: Failed to fetch", "the page's own policy stops it"
        browser.cdp("Page.setBypassCSP", enabled=True)
        browser.open(url.replace("127.0.0.1", "localhost") + "/static/keysmith-portal.js")
        browser.script("return fetch(arguments[0], { method: 'POST', mode: 'no-cors', credentials: 'include' }).then(() => 'sent')",
                       f"{url}/v1/keys/{key_id}/disable")
        browser.cdp("Page.setBypassCSP", enabled=False)
        assert db.status_of(key_id) == "active"
        browser.open("about:blank")


def test_lists_of_the_readme_are_complete():
    source = "".join(file.read_text() for file in [FOLDER / "keysmith-portal.js", *(FOLDER / "parts").glob("*.js")])
    style = (FOLDER / "parts/style.js").read_text()
    assert set(re.findall(r"--keysmith-[a-z-]+", README)) == set(re.findall(r"--keysmith-[a-z-]+", style))
    parts = {part for text in re.findall(r'part: "([a-z ]+)"', source) for part in text.split()}
    named = set(re.findall(r"`([a-z]+)`", README[README.index("`::part()`"):README.index("The slots")]))
    assert named == parts | {"button", "primary", "danger"}
    events = set(re.findall(r"keysmith-[a-z-]+", (FOLDER / "keysmith-portal.d.ts").read_text())) - {"keysmith-portal"}
    assert events == set(re.findall(r"`(keysmith-[a-z-]+)`", README)) - {"keysmith-portal"}
    assert all(f"`{name}`" in README for name in ("base", "scopes", "environments", "kinds", "usage", "logs", "lang"))


def test_every_text_is_used():
    words = (FOLDER / "parts/words.js").read_text()
    texts = set(re.findall(r"\b(\w+): \"", words[words.index("TEXTS"):words.index("export const NAMES")]))
    source = "".join(file.read_text() for file in [FOLDER / "keysmith-portal.js", *(FOLDER / "parts").glob("*.js")]
                     if file.name != "words.js") + words[words.index("export class"):]
    unused = {text for text in texts if not text.startswith("was") and not re.search(rf"\b{text}\b", source)}
    assert not unused


TYPED = """
import type { Key, KeysmithPortal } from "%s/keysmith-portal.js";
const portal: KeysmithPortal = document.querySelector("keysmith-portal")!;
portal.headers = async ({ method, url }) => ({ [method]: url });
portal.texts = { title: "Keys", names: { live: "Live" } };
portal.addEventListener("keysmith-created", (event) => console.log(event.detail.label));
document.addEventListener("keysmith-rotated", (event) => { const key: Key = event.detail, from: string = event.detail.rotated_from; });
document.addEventListener("keysmith-signed-out", () => portal.reload());
// @ts-expect-error
portal.texts = 3;
"""


def test_types(tmp_path):
    compiler = examples.require("clients-node") / "node_modules/.bin/tsc"
    if not compiler.exists():
        pytest.skip("there is no TypeScript")
    (tmp_path / "page.ts").write_text(TYPED % FOLDER)
    done = subprocess.run([compiler, "--noEmit", "--strict", "--module", "nodenext", "--moduleResolution", "nodenext", "--target", "es2022",
                           "--lib", "es2022,dom", "--types", "", "page.ts"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_package(site, tmp_path):
    npm = shutil.which("npm") or pytest.skip("there is no npm")
    environment = os.environ | {"npm_config_cache": str(tmp_path / "cache"), "npm_config_update_notifier": "false"}

    def run(*arguments, **options):
        return subprocess.run([npm, *arguments], check=True, env=environment, capture_output=True, text=True, **options).stdout

    made, = json.loads(run("pack", "--json", "--pack-destination", str(tmp_path), str(FOLDER)))
    archive = tmp_path / made["filename"]
    with tarfile.open(archive) as packed:
        files = {name.removeprefix("package/") for name in packed.getnames()}
    assert files == {"README.md", "package.json", "keysmith-portal.js", "keysmith-portal.d.ts",
                     *(f"parts/{file.name}" for file in (FOLDER / "parts").iterdir())}
    (tmp_path / "app").mkdir()
    (tmp_path / "app/package.json").write_text('{"private": true}')
    run("install", "--offline", "--no-audit", "--no-fund", str(archive), cwd=tmp_path / "app")
    installed = tmp_path / "app/node_modules/keysmith-portal"
    exports = json.loads((installed / "package.json").read_text())["exports"]["."]
    assert all((installed / file).is_file() for file in exports.values())
    site.db.mint(label="Production")
    for file in installed.rglob("*.js"):
        site.server.pages[f"/{file.relative_to(installed)}"] = file.read_text()
    assert site.show().find("button", "Manage Production")


def test_make_portal(cluster, browser):
    """What the target runs: it makes the database, prints the address, and ends on Ctrl-C."""
    program = subprocess.Popen([sys.executable, FOLDER / "demo.py", "--dsn", cluster.dsn(), "--port", "0"],
                               env=clusters.environment(), stdout=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        url = re.match(r"http://127\.0\.0\.1:\d+/", program.stdout.readline())[0]
        browser.open(url)
        browser.click("button", "Manage Production")
        assert browser.find("status") and browser.nodes("alert") == []
        assert {"Active", "Replaced", "Disabled", "Expired"} <= set(browser.script(
            "return [...shadow.querySelectorAll('.status')].map((node) => node.textContent)"))
        browser.find("image")
        requests = browser.script("return shadow.querySelector('.sums dd').textContent")
        assert len(requests) >= len("10,000"), requests
        browser.click("button", "Rotate Production")
        browser.keys(ENTER)
        browser.find("button", "Copy")
    finally:
        browser.open("about:blank")
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 0
        program.stdout.close()
        cluster.execute("DROP DATABASE portal WITH (FORCE)")
        cluster.execute("DROP ROLE portal_web")
