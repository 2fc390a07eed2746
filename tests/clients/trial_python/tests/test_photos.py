import pytest

pytestmark = pytest.mark.keysmith(scopes=["photos:read", "photos:write"])


def test_a_photo_s_life(send):
    made = send("POST", "/v1/photos", {"name": "sunset"})
    assert made.status_code == 201
    path = f"/v1/photos/{made.json()['id']}"
    assert send("PATCH", path, {"name": "dawn"}).json() == {"id": made.json()["id"], "name": "dawn"}
    assert send("GET", "/v1/photos").json() == [send("GET", path).json()] == [{"id": made.json()["id"], "name": "dawn"}]
    assert send("DELETE", path).status_code == 204
    assert send("GET", path).status_code == 404


def test_each_tenant_has_its_own(send, keysmith_mint):
    other = keysmith_mint(scopes=["photos:*"])
    path = f"/v1/photos/{send('POST', '/v1/photos', {'name': 'mine'}).json()['id']}"
    assert send("GET", "/v1/photos", key=other).json() == []
    assert [send(method, path, {"name": "x"}, key=other).status_code for method in ("GET", "PATCH", "DELETE")] == [404] * 3
    assert send("GET", path).json()["name"] == "mine"


@pytest.mark.keysmith(scopes=["photos:read"])
def test_scopes(client, send):
    assert client.get("/v1/photos").status_code == 401
    assert send("POST", "/v1/photos", {"name": "x"}).json()["code"] == "insufficient_scope"
    assert send("GET", "/docs").status_code == 403


def test_customers_manage_their_keys(send):
    made = send("POST", "/v1/keys", {"label": "CI", "scopes": ["photos:read"]}).json()
    assert send("GET", "/v1/photos", key=made["api_key"]).status_code == 200
    assert {key["label"] for key in send("GET", "/v1/keys").json()["keys"]} == {None, "CI"}
    assert send("DELETE", f"/v1/keys/{made['key_id']}").status_code == 200
    assert send("GET", "/v1/photos", key=made["api_key"]).status_code == 401


@pytest.mark.keysmith(limits=[{"name": "hourly", "limit": 2, "window": "1 hour"}])
def test_rate_limits(send):
    answers = [send("GET", "/v1/photos") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["RateLimit"] and answers[2].headers["Retry-After"]


def test_what_was_answered_is_on_record(send, keysmith_connection, keysmith_tenant):
    for path in ("/v1/photos", "/v1/photos/0"):
        send("GET", path)
    keysmith_connection.execute("SELECT keysmith.flush_usage()")
    seen = keysmith_connection.execute("SELECT endpoint, status FROM keysmith.usage WHERE tenant = %s ORDER BY at",
                                       [keysmith_tenant])
    assert seen.fetchall() == [("/v1/photos", 200), ("/v1/photos/0", 404)]
