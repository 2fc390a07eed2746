"""Express 4 and 5: the adapter's promises by real HTTP, and what an answer of Node's can do."""

import json

import pytest

import node_server
from conftest import wait_until
from node_contract import Contract

PROGRAM = (__file__.rpartition("/")[0]) + "/node_apps/express.mjs"
JSON = ["Content-Type: application/json"]


class OfExpress(Contract):
    program = "express.mjs"

    # The answers of Node's http module

    @pytest.mark.parametrize("path", ["/file", "/filestream"])
    def test_files_and_streams(self, http, path):
        with open(PROGRAM, "rb") as source:
            content = source.read()
        assert http.get(path).content == content
        head = http.send("HEAD", path)
        assert (head.status, head.content) == (200, b"")

    def test_a_file_in_parts(self, http):
        part = http.get("/file", headers=["Range: bytes=3-9"])
        assert (part.status, part.content) == (206, open(PROGRAM, "rb").read()[3:10])
        same = http.get("/file", headers=[f"If-None-Match: {http.get('/file')['ETag']}"])
        assert (same.status, same.content) == (304, b"")

    def test_callbacks_of_write_and_end(self, http):
        assert http.get("/end").content == b"abcd"
        wait_until(lambda: "end called back" in http.logged())

    def test_answers_without_a_body(self, http):
        assert (http.get("/nothing").status, http.get("/nothing").content) == (204, b"")
        assert http.get("/notmodified").status == 304
        head = http.send("HEAD", "/photos")
        assert head.status == 200 and int(head["Content-Length"]) == len(http.get("/photos").content)

    def test_headers_that_are_sent_early(self, http):
        answer = http.get("/flush")
        assert (answer.status, answer.content) == (200, b"true")

    def test_a_second_answer_fails(self, http):
        """As without the package: the first one stays, or the connection is cut. It is never a mixture."""
        try:
            assert http.get("/twice").content == b'{"answer":1}'
        except AssertionError as error:
            assert "without an answer" in str(error)
        late = http.get("/twicelate")
        assert (late.status, late.content) == (200, b"one")

    def test_what_can_not_be_sent_is_refused_in_time(self, http, admin):
        """What Node refuses must fail before the commit, and must not end the process."""
        for what in ("header", "message", "chunk", "number", "status", "array"):
            assert http.get(f"/bad/{what}").status == 500, what
        assert http.names() == []

    def test_mounted_applications(self, http, admin):
        """Express gives a response another prototype there."""
        assert http.get("/mounted/never").status == 503
        assert http.get("/mounted/kept").body == {"mounted": "kept"}
        assert http.names() == ["kept"]
        assert http.get("/mounted/kept").status == 500

    def test_the_middleware_in_a_mounted_application(self, another):
        with another(PATHS="/photos") as http:
            assert http.get("/inside/never").status == 503
            assert http.get("/inside/kept").body == {"inside": True}
            assert http.names() == ["kept"]

    def test_other_middlewares_that_take_over_the_response(self, http):
        for path in ("/wrapped/never", "/wrapping/never"):
            assert http.get(path).status == 503, path
        answer = http.get("/wrapping/kept")
        assert answer.content == b"<kept>" and answer["X-Wrapped"] == "yes"
        assert http.get("/wrapped/other").content == b"<other>"
        assert http.names() == ["kept", "other"]

    def test_headers_from_before_stay_with_a_failed_commit(self, http):
        assert http.post("/photos", {"name": "never"})["Vary"] == "before"
        assert http.get("/photos", key=None)["Vary"] == "before"

    def test_without_the_errors_handler_the_status_is_right(self, another):
        with another(ERRORS="off") as http:
            assert [http.get(f"/do/raise/{state}").status for state in ("KS403", "KS404", "KS409", "22012")] == [403, 404, 409, 500]
            assert b"a detail" not in http.get("/do/raise/KS403").content

    # Bodies

    def test_other_parsers_read_the_body_too(self, http):
        text = json.dumps({"a": "ü" * 100})
        for headers in (JSON, ["Content-Type: text/plain"], []):
            assert http.post("/echo", text, headers=headers).body == {"length": len(text), "text": text[:100]}
            assert http.post("/piped", text, headers=headers).content.decode() == text
        chunked = "5\r\n{\"a\":\r\n3\r\n12}\r\n0\r\n\r\n"
        for headers in (JSON, ["Content-Type: text/plain"]):
            assert http.post("/echo", chunked, headers=[*headers, "Transfer-Encoding: chunked"]).body["text"] == '{"a":12}'
            assert http.post("/piped", chunked, headers=[*headers, "Transfer-Encoding: chunked"]).content == b'{"a":12}'

    def test_the_end_of_an_empty_body_is_still_to_come(self, http):
        for headers in (JSON, ["Content-Type: text/plain"]):
            assert http.post("/ended", "0\r\n\r\n", headers=[*headers, "Transfer-Encoding: chunked"]).body == {"ended": True}
            assert http.post("/ended", "", headers=[*headers, "Content-Length: 00"]).body == {"ended": True}
        with http.connect() as connection:
            head, _, end = http.head("POST", "/ended", "0\r\n\r\n", headers=[*JSON, "Transfer-Encoding: chunked"]).rpartition(b"0\r\n")
            connection.sendall(head)
            http.notices()
            connection.sendall(b"0\r\n" + end)
            assert node_server.read(connection).body == {"ended": True}

    def test_two_middlewares_for_different_paths(self, another):
        with another(PATHS="/photos", SECOND="/v1") as http:
            assert http.get("/photos").status == http.get("/v1/me").status == 200
            assert http.get("/photos", key=None).status == http.get("/v1/me", key=None).status == 401
            assert http.get("/internal").status == 500
        with another(PATHS="/photos", SECOND="/photos") as http:
            assert http.get("/photos").status == 500

    def test_a_long_body_reaches_the_application(self, http):
        text = json.dumps({"a": "x" * 3_000_000})
        for headers in (JSON, ["Content-Type: image/png"], ["Transfer-Encoding: chunked", *JSON]):
            body = f"{len(text):x}\r\n{text}\r\n0\r\n\r\n" if "Transfer-Encoding: chunked" in headers else text
            assert len(http.post("/piped", body, headers=headers).content) == len(text), headers

    @pytest.mark.parametrize("where", ["before", "after"])
    def test_beside_express_json(self, another, where):
        with another(PARSER=where) as http:
            assert http.post("/parsed", {"a": 1}).body == {"body": {"a": 1}}
            assert http.post("/photos", {"name": "x"}).status == 201
            made = http.post("/v1/keys", {"label": "CI"})
            assert (made.status, made.body["label"]) == (201, "CI")
            assert http.post("/v1/keys", '{"label"', headers=JSON).status == 400
            assert http.post("/v1/keys", "", headers=JSON).status == 201
            assert http.post("/parsed", "0\r\n\r\n", headers=[*JSON, "Transfer-Encoding: chunked"]).status == 200
            assert http.post("/v1/keys", '{"label": "form"}', headers=["Content-Type: application/x-www-form-urlencoded"]).status == 201
            assert http.post("/echo", "text", headers=["Content-Type: text/plain"]).body["text"] == "text"

    def test_connections_stay_open_behind_a_body_that_nobody_reads(self, http):
        with http.connect() as connection:
            stream = connection.makefile("rb")
            for size in (10, 100_000, 1_000_000):
                for headers in (JSON, ["Content-Type: text/plain"]):
                    connection.sendall(http.head("POST", "/do/facts/x", "x" * size, headers=headers, close=False))
                    assert node_server.read_from(stream).status == 404
                    connection.sendall(http.head("GET", "/photos", close=False))
                    assert node_server.read_from(stream).status == 200


class TestExpress5(OfExpress):
    settings = {"EXPRESS": "express"}


class TestExpress4(OfExpress):
    settings = {"EXPRESS": "express4"}
