"""Hono: the adapter's promises by real HTTP, and what its context and its Web requests can do."""

from node_contract import Contract


class OfWeb(Contract):
    """What is the same without Hono."""

    def test_a_body_is_there_for_every_reader(self, http):
        text = '{"a": "\u00fc"}'
        for headers in (["Content-Type: application/json"], ["Content-Type: text/plain"], []):
            assert http.post("/echo", text, headers=headers).body["text"] == text
            assert http.post("/piped", text, headers=headers).content.decode() == text
        long = "x" * 3_000_000
        for headers in (["Content-Type: application/json"], ["Content-Type: application/json", "Transfer-Encoding: chunked"], ["Content-Type: image/png"]):
            body = f"{len(long):x}\r\n{long}\r\n0\r\n\r\n" if len(headers) == 2 else long
            assert len(http.post("/piped", body, headers=headers).content) == len(long), headers

    def test_an_answer_whose_headers_can_not_change(self, http, admin):
        key = admin.mint(scopes=["*"], limits='[{"name": "hourly", "limit": 9, "window": "1 hour"}]').api_key
        answer = http.get("/redirect", key=key)
        assert (answer.status, answer["Location"]) == (302, "http://127.0.0.1/elsewhere") and "q=9" in answer["RateLimit-Policy"]

    def test_an_answer_without_a_body(self, http):
        assert http.get("/nothing").status == 204


class TestHono(OfWeb):
    program = "hono.mjs"

    def test_errors_that_the_application_answers_itself(self, another):
        with another(ERRORS="own") as http:
            answer = http.get("/do/raise/KS403")
            assert (answer.status, answer.body) == (418, {"own": "KS403"})

    def test_headers_from_before_stay(self, http):
        for answer in (http.get("/photos"), http.post("/photos", {"name": "never"}), http.get("/do/raise/KS403")):
            assert answer["Vary"] == "before"

    def test_a_handler_that_answers_nothing(self, http):
        assert http.get("/silent").status == 500
        assert http.names() == []

    def test_a_request_that_a_middleware_has_replaced(self, http):
        """The headers of the replacement decide."""
        assert http.get("/replaced/strip").status == 401
        assert http.get(f"/replaced/{http.key}", key=None).status == 200
