"""Fastify: the adapter's promises by real HTTP, and what its hooks and replies can do."""

import json

from conftest import wait_until
from node_contract import Contract, recorded


class TestFastify(Contract):
    program = "fastify.mjs"

    def test_an_endpoint_beside_a_route_of_the_same_path(self, http):
        """Fastify reads the body of its own route, and refuses one that is no JSON by itself."""
        assert http.post("/v1/keys/", {"label": "x"}).status == 201
        assert http.post("/photos", "{", headers=["Content-Type: application/json"]).status == 400
        assert http.post("/photos", "<a/>", headers=["Content-Type: application/xml"]).status == 415

    def test_bodies_where_there_is_no_route(self, http):
        for body, *headers in [("x" * 300_000, "Content-Type: text/plain"), ("", "Content-Type: application/json"),
                               ("0\r\n\r\n", "Content-Type: application/json", "Transfer-Encoding: chunked"), ("{", "Content-Type: application/json")]:
            assert http.post("/nowhere", body, headers=headers).status in (400, 404, 413, 415), headers

    def test_errors_that_the_application_answers_itself(self, another):
        with another(ERRORS="own") as http:
            answer = http.get("/do/raise/KS403")
            assert (answer.status, answer.body) == (418, {"own": "KS403"})

    def test_routes_of_other_contexts_and_earlier_ones(self, http):
        for path in ("/nested/photos", "/early"):
            assert http.get(path, key=None).status == 401
            assert http.get(path).status == 200
        assert http.get("/early/never").status == 503

    def test_a_web_response(self, http, admin):
        key = admin.mint(scopes=["*"])
        assert http.get("/web/418", key=key.api_key).status == 418
        assert http.get("/web/201", key=key.api_key).status == 201
        assert http.names() == ["web 201"]
        assert [row.status for row in recorded(admin, key)] == [418, 201]

    def test_a_second_answer_is_not_sent(self, http):
        for what in ("throws", "returns", "sends"):
            answer = http.get(f"/second/{what}")
            assert (answer.status, answer.body) == (200, {"answer": 1}), what
        assert http.names() == ["returns", "sends", "throws"]

    def test_a_hook_behind_changes_the_answer_before_the_commit(self, http, admin):
        key = admin.mint(scopes=["*"])
        for what in ("throws", "status"):
            assert http.get(f"/hooked/{what}", key=key.api_key).status == 500, what
        assert http.names() == []
        wait_until(lambda: [row.status for row in recorded(admin, key)] == [500, 500])
        assert "/hooked/throws passed by the hooks" not in http.logged()

    def test_what_can_not_be_sent_is_refused_in_time(self, http):
        for what in ("header", "object", "message"):
            assert http.get(f"/bad/{what}").status == 500, what
        assert http.names() == []

    def test_an_answer_that_passes_by_the_hooks_is_rolled_back_and_reported(self, http):
        assert http.get("/hijack").content == b"raw"
        wait_until(lambda: "passed by the hooks" in http.logged())
        assert http.names() == []

    def test_before_the_decision_there_is_no_caller(self, another):
        with another(EARLY="1") as http:
            assert http.get("/photos").status == 500
            wait_until(lambda: "before preValidation" in http.logged())

    def test_other_spellings_by_options_of_the_router(self, another, admin):
        lenient = {"caseSensitive": False, "ignoreTrailingSlash": True, "ignoreDuplicateSlashes": True, "useSemicolonDelimiter": True}
        key = admin.mint(scopes=["other"]).api_key
        with another(FASTIFY=json.dumps({"routerOptions": lenient})) as http:
            http.post("/photos", {"name": "secret"})
            for path in ("/PHOTOS", "/photos/", "//photos", "/%70hotos", "/Photos;x"):
                answer = http.get(path, key=key)
                assert answer.status == 403 or path == "/Photos;x", path
        with another(FASTIFY=json.dumps({"routerOptions": lenient}), PATHS="/photos") as http:
            for path in ("/PHOTOS", "/photos/", "//photos", "/%70hotos", "/photos;x", "/PHOTOS;x"):
                assert http.get(path, key=None).status >= 400, path
