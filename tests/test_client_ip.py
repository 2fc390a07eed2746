"""The client's address behind proxies, and how a decision uses it."""

import pytest
from psycopg.types.json import Jsonb

PROXY = "10.0.0.1"
TRUSTED = "{10.0.0.0/8,fd00::/16}"
CLIENT = "192.0.2.1"


@pytest.fixture
def client(db):
    """Calls client_ip; null is None."""
    def ask(headers, peer=PROXY, trusted=TRUSTED):
        headers = None if headers is None else Jsonb(headers)
        return db.value("SELECT host(keysmith.client_ip(%s, %s, %s))", headers, peer, trusted)
    return ask


def test_headers_of_an_untrusted_peer_mean_nothing(client):
    for headers in ({}, {"x-forwarded-for": "203.0.113.9"}, {"forwarded": "for=203.0.113.9"},
                    {"x-forwarded-for": "garbage", "forwarded": [1, {}]}, None, [], "x", 5):
        assert client(headers, "198.51.100.7") == "198.51.100.7"
        assert client(headers, "198.51.100.7", "{}") == "198.51.100.7"
        assert client(headers, PROXY, "{}") == PROXY
        assert client(headers, PROXY, None) == PROXY
        assert client(headers, "::ffff:198.51.100.7") == "198.51.100.7"


def test_nobody_is_trusted_unless_named(db):
    headers = Jsonb({"x-forwarded-for": CLIENT})
    assert db.value("SELECT host(keysmith.client_ip(%s, %s))", headers, PROXY) == PROXY


def test_no_peer_is_no_client(client):
    for headers in ({}, {"x-forwarded-for": CLIENT}, {"forwarded": f"for={CLIENT}"}, None):
        assert client(headers, None) is None
        assert client(headers, None, "{0.0.0.0/0,::/0}") is None


def test_a_proxy_that_says_nothing_is_the_client(client):
    for headers in ({}, None, {"accept": "*/*"}, {"x-forwarded-for": ""}, {"forwarded": " \t"},
                    {"x-forwarded-for": None}, {"x-forwarded-for": []},
                    {"x-forwarded-for": ["", " "]}):
        assert client(headers) == PROXY, headers


def test_the_first_untrusted_address_from_the_right(client):
    for value, expected in [
        (CLIENT, CLIENT),
        (f"{CLIENT}, 10.0.0.2", CLIENT),
        (f"{CLIENT},10.0.0.3,10.0.0.2", CLIENT),
        (f"203.0.113.9, {CLIENT}", CLIENT),
        (f"10.0.0.9, {CLIENT}, 10.0.0.2", CLIENT),
        (f"203.0.113.9, {CLIENT}, fd00::5, 10.0.0.2", CLIENT),
        # The client's own part may be anything.
        (f"unknown, {CLIENT}", CLIENT),
        (f"\"[,,;=é, {CLIENT}, 10.0.0.2", CLIENT),
        (f",{CLIENT}", CLIENT),
    ]:
        assert client({"x-forwarded-for": value}) == expected, value


def test_where_all_are_trusted_the_leftmost_is_the_client(client):
    assert client({"x-forwarded-for": "10.0.0.3"}) == "10.0.0.3"
    assert client({"x-forwarded-for": "10.0.0.4, 10.0.0.3, 10.0.0.2"}) == "10.0.0.4"
    assert client({"x-forwarded-for": "fd00::2, ::ffff:10.0.0.3"}) == "fd00::2"
    assert client({"forwarded": "for=10.0.0.4, for=\"[fd00::1]\""}) == "10.0.0.4"
    assert client({"x-forwarded-for": f"203.0.113.9, {CLIENT}"}, PROXY, "{0.0.0.0/0}") \
        == "203.0.113.9"


def test_several_values_are_one_list(client):
    for values, expected in [
        ([CLIENT], CLIENT), (["203.0.113.9", CLIENT], CLIENT), ([CLIENT, "10.0.0.3"], CLIENT),
        (["203.0.113.9", f"{CLIENT}, 10.0.0.3", "10.0.0.2"], CLIENT),
        ([CLIENT, None, "10.0.0.2"], CLIENT),
        ([CLIENT, 5], None), ([CLIENT, ["10.0.0.2"]], None), ([CLIENT, "", "10.0.0.2"], None),
    ]:
        assert client({"x-forwarded-for": values}) == expected, values


def test_headers_are_found_in_any_case(client):
    for name in ("x-forwarded-for", "X-Forwarded-For", "X-FORWARDED-FOR", "x-Forwarded-fOR"):
        assert client({name: CLIENT, "accept": [1, {"x-forwarded-for": "x"}]}) == CLIENT
    for name in ("forwarded", "Forwarded", "FORWARDED"):
        assert client({name: f"for={CLIENT}"}) == CLIENT
    for name in ("x_forwarded_for", "x-forwarded-for ", "x-real-ip", "forwarded-for", ""):
        assert client({name: CLIENT}) == PROXY


def test_forms_of_addresses(client):
    for value, expected in [
        ("192.0.2.1:5678", CLIENT), (" \t192.0.2.1\t ", CLIENT), ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"), ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"), ("::ffff:192.0.2.1", CLIENT),
        ("[::ffff:192.0.2.1]:80", CLIENT), ("::ffff:c000:201", CLIENT),
    ]:
        assert client({"x-forwarded-for": value}) == expected, value


def test_forms_of_forwarded(client):
    for value, expected in [
        (f"for={CLIENT}", CLIENT), (f"For=\"{CLIENT}\"", CLIENT),
        (f"FOR=\"{CLIENT}:4711\"", CLIENT),
        ("for=\"[2001:db8::1]\"", "2001:db8::1"), ("for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
        (f"for={CLIENT};proto=http;by=203.0.113.43", CLIENT),
        (f"proto=http; by=203.0.113.43 ; for={CLIENT}", CLIENT),
        (f"for={CLIENT}, for=10.0.0.2", CLIENT),
        (f"for=203.0.113.9, for={CLIENT};host=\"a, b\", for=10.0.0.2", CLIENT),
        # A quotation mark that the client leaves open must not hide the proxy's entry.
        (f"for=\"203.0.113.9, for={CLIENT}", CLIENT),
        ("for=\"[::ffff:192.0.2.1]\"", CLIENT),
        ("192.0.2.1", None), ("for=2001:db8::1", None), ("for=[2001:db8::1]", None),
        ("for=unknown", None), ("for=_hidden", None), ("proto=http", None), ("for=", None),
        (f"for={CLIENT};for=203.0.113.9", None), (f"for={CLIENT}, for=unknown, for=10.0.0.2", None),
        (f"for=\"{CLIENT}", None), (f"for = {CLIENT}", None),
    ]:
        assert client({"forwarded": value}) == expected, value


def test_two_headers_must_agree(client):
    for x_forwarded_for, forwarded, expected in [
        (CLIENT, f"for={CLIENT}", CLIENT),
        (f"203.0.113.9, {CLIENT}", f"for=\"{CLIENT}:80\", for=10.0.0.2", CLIENT),
        (f"::ffff:{CLIENT}", f"for={CLIENT}", CLIENT),
        (CLIENT, "", CLIENT), ("", f"for={CLIENT}", CLIENT),
        (CLIENT, "for=203.0.113.9", None), (CLIENT, "for=10.0.0.2", None),
        (CLIENT, "for=unknown", None), ("unknown", f"for={CLIENT}", None), (CLIENT, ",", None),
    ]:
        headers = {"X-Forwarded-For": x_forwarded_for, "Forwarded": forwarded}
        assert client(headers) == expected, headers


def test_garbage_is_no_client(client):
    for value in ["unknown", "_hidden", "localhost", "é", ":", ",", ";", "[", "[]", "[::1", "::1]",
                  "192.0.2", "192.0.2.256", "192.0.2.01", "0xc0000201", "3221225985",
                  "192.0.2.1/32", "192.0.2.1:", "192.0.2.1:http", "192.0.2.1:123456",
                  "192.0.2.1 80", "192.0.2.1\n",
                  "[192.0.2.1]", "[::1]80", "fe80::1%eth0", "1:2:3:4:5:6:7:8:9", "\"192.0.2.1\"",
                  "for=192.0.2.1", f"{CLIENT},", f"{CLIENT}, , 10.0.0.2", f"{CLIENT}, unknown",
                  f"{CLIENT}, 10.0.0.2;"]:
        assert client({"x-forwarded-for": value}) is None, value
    for value in (5, True, {"x": CLIENT}, {}, [5], [[CLIENT]], [{"x": 1}]):
        assert client({"x-forwarded-for": value}) is None, value
        assert client({"forwarded": value}) is None, value


def test_mapped_addresses_are_their_ipv4_selves(client):
    headers = {"x-forwarded-for": CLIENT}
    assert client(headers, "::ffff:10.0.0.1") == CLIENT
    assert client(headers, PROXY, "{::ffff:10.0.0.0/104}") == CLIENT
    assert client({"x-forwarded-for": f"{CLIENT}, ::ffff:10.0.0.2"}) == CLIENT
    assert client({}, "::ffff:192.0.2.1", "{}") == CLIENT


def test_a_peer_with_a_netmask_is_its_address(db, client):
    assert client({"x-forwarded-for": CLIENT}, "10.0.0.1/8") == CLIENT
    assert client({}, "198.51.100.7/24") == "198.51.100.7"
    for peer, length in (("198.51.100.7/24", 32), ("2001:db8::1/32", 128), (PROXY, 32)):
        assert db.value("SELECT masklen(keysmith.client_ip('{}', %s, %s))", peer, TRUSTED) == length


def test_headers_of_a_megabyte(client):
    for unit in ("a", ",", " ", "\"", "\\", "\",", "[", "10.0.0.2,", "for=10.0.0.2,", "a=\"\\\"\";",
                 "for=\"", "é"):
        big = unit * (1_000_000 // len(unit))
        for name in ("x-forwarded-for", "forwarded"):
            assert client({name: big}) == (PROXY if unit == " " else None), (name, unit)
            right = CLIENT if name == "x-forwarded-for" else f"for={CLIENT}"
            assert client({name: f"{big}, {right}"}) == CLIENT, (name, unit)
            assert client({name: [big, right]}) == CLIENT, (name, unit)
    assert client({"x-forwarded-for": ["10.0.0.2"] * 100_000}) is None
    assert client({f"x-{number}": CLIENT for number in range(20_000)}) == PROXY


def test_a_decision_takes_the_client_for_the_address(db):
    db.tenant()
    key = db.row("SELECT * FROM keysmith.mint('acme', allowlist => '{192.0.2.0/24}')").api_key
    statement = """SELECT v.* FROM keysmith.authenticate(%(headers)s, 'GET', '/',
                       ip => keysmith.client_ip(%(headers)s, %(peer)s, %(trusted)s)) v"""

    def decide(peer=PROXY, trusted=TRUSTED, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        parameters = {"headers": Jsonb({"x-api-key": key} | headers), "peer": peer,
                      "trusted": trusted}
        verdict = db.session.execute(statement, parameters).fetchone()
        return verdict.reason, verdict.status

    assert decide(x_forwarded_for=CLIENT) == ("ok", 200)
    assert decide(forwarded=f"for={CLIENT}") == ("ok", 200)
    assert decide(x_forwarded_for=f"203.0.113.9, ::ffff:{CLIENT}") == ("ok", 200)
    assert decide(peer=CLIENT) == ("ok", 200)
    assert decide(x_forwarded_for=f"{CLIENT}, 203.0.113.9") == ("ip_not_allowed", 403)
    assert decide() == ("ip_not_allowed", 403)
    # A client that writes the header is not a trusted proxy.
    assert decide(peer="203.0.113.9", x_forwarded_for=CLIENT) == ("ip_not_allowed", 403)
    for unknown in ({"peer": None}, {"peer": None, "x_forwarded_for": CLIENT},
                    {"x_forwarded_for": f"{CLIENT},"}, {"x_forwarded_for": "unknown"},
                    {"x_forwarded_for": 5}, {"forwarded": "for=_hidden"},
                    {"x_forwarded_for": CLIENT, "forwarded": "for=203.0.113.9"}):
        assert decide(**unknown) == ("ip_unknown", 403), unknown
