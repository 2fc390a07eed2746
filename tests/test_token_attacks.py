"""Forged, altered and misused tokens: each one is refused, with the right reason."""

import base64
import hashlib
import hmac
import json
import uuid
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from conftest import session
from tokens import Signer, compact, encoded, seconds

OURS, OTHERS = Signer(), Signer("other")
# The order of the group of Ed25519.
ORDER = 2**252 + 27742317777372353535851937790883648493


def decoded(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def with_header(header):
    """A good payload under another header, signed with the right key."""
    return lambda key: OURS.signed(compact(OURS.claims(key)), header.replace("KID", OURS.kid))


def with_claims(**claims):
    return lambda key: OURS.token(key, **claims)


def with_payload(change):
    """A payload in another form, signed with the right key."""
    return lambda key: OURS.signed(change(compact(OURS.claims(key))))


def with_parts(change):
    """A good token with other parts."""
    return lambda key: ".".join(change(*OURS.token(key).split(".")))


def with_signature(change):
    return with_parts(lambda header, payload, signature: (
        header, payload, encoded(change(decoded(signature)))))


def in_hmac(key):
    """Signed with the public key, for a reader who lets the header choose the algorithm."""
    header = OURS.header.replace("EdDSA", "HS256").encode()
    content = f"{encoded(header)}.{encoded(compact(OURS.claims(key)))}"
    return f"{content}.{encoded(hmac.digest(OURS.public, content.encode(), 'sha256'))}"


def by_another_key(key):
    forger = Signer()
    forger.key = Ed25519PrivateKey.generate()
    return forger.token(key)


def with_another_kid(key):
    forger = Signer()
    forger.header = forger.header.replace(forger.kid, encoded(hashlib.sha256(b"x").digest()))
    return forger.token(key)


def tampered(header, payload, signature):
    claims = json.loads(decoded(payload)) | {"scope": "admin"}
    return header, encoded(compact(claims)), signature


def plus_order(signature):
    """The same signature for a reader who does not reduce S."""
    s = int.from_bytes(signature[32:], "little") + ORDER
    return signature[:32] + s.to_bytes(32, "little")


def other_trailing_bits(header, payload, signature):
    """64 bytes leave four bits of the last character unused."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet[alphabet.index(signature[-1]) ^ 1]
    return header, payload, signature[:-1] + last


def of_length(length):
    """A token of this many bytes, whose payload may have been padded in the claims."""
    def token(key):
        claims = OURS.claims(key, note="")
        for note in range(length):
            claims["note"] = "x" * (length * 3 // 4 - 500 + note)
            if len(made := OURS.signed(compact(claims))) >= length:
                return made
    return token


def in_other_form(name, value):
    """A claim whose value is written in another form."""
    def change(payload):
        claims = json.loads(payload)
        return payload.replace(compact({name: claims[name]})[1:-1], f'"{name}":{value}'.encode())
    return with_payload(change)


FOREVER = 4_102_444_800

ATTACKS = {
    # The header.
    "alg none": (with_header('{"alg":"none","typ":"at+jwt","kid":"KID"}'), "token_invalid"),
    "alg None": (with_header('{"alg":"None","typ":"at+jwt","kid":"KID"}'), "token_invalid"),
    "alg HS256": (in_hmac, "token_invalid"),
    "alg RS256": (with_header('{"alg":"RS256","typ":"at+jwt","kid":"KID"}'), "token_invalid"),
    "alg Ed25519": (with_header('{"alg":"Ed25519","typ":"at+jwt","kid":"KID"}'), "token_invalid"),
    "no alg": (with_header('{"typ":"at+jwt","kid":"KID"}'), "token_invalid"),
    "two algs": (with_header('{"alg":"EdDSA","alg":"none","typ":"at+jwt","kid":"KID"}'), "token_invalid"),
    "two kids": (with_header('{"alg":"EdDSA","typ":"at+jwt","kid":"KID","kid":"KID"}'), "token_invalid"),
    "jku": (with_header('{"alg":"EdDSA","typ":"at+jwt","kid":"KID","jku":"https://evil.example/"}'), "token_invalid"),
    "jwk": (with_header('{"alg":"EdDSA","typ":"at+jwt","kid":"KID","jwk":{"kty":"OKP"}}'), "token_invalid"),
    "x5u": (with_header('{"alg":"EdDSA","typ":"at+jwt","kid":"KID","x5u":"https://evil.example/"}'), "token_invalid"),
    "crit": (with_header('{"alg":"EdDSA","typ":"at+jwt","kid":"KID","crit":["exp"]}'), "token_invalid"),
    "b64": (with_header('{"alg":"EdDSA","typ":"at+jwt","kid":"KID","b64":false,"crit":["b64"]}'), "token_invalid"),
    "other order": (with_header('{"kid":"KID","alg":"EdDSA","typ":"at+jwt"}'), "token_invalid"),
    "white space": (with_header('{"alg": "EdDSA", "typ": "at+jwt", "kid": "KID"}'), "token_invalid"),
    "long typ": (with_header('{"alg":"EdDSA","typ":"application/at+jwt","kid":"KID"}'), "token_invalid"),
    # Without our typ or a known kid it is no token.
    "other typ": (with_header('{"alg":"EdDSA","typ":"JWT","kid":"KID"}'), "malformed_key"),
    "no typ": (with_header('{"alg":"EdDSA","kid":"KID"}'), "malformed_key"),
    "no kid": (with_header('{"alg":"EdDSA","typ":"at+jwt"}'), "malformed_key"),
    "unknown kid": (with_another_kid, "malformed_key"),
    "of another keyspace": (OTHERS.token, "malformed_key"),
    "of another keyspace, for this one": (lambda key: OTHERS.token(key, iss="default", aud="default"), "malformed_key"),
    # The signature.
    "other key": (by_another_key, "token_invalid"),
    "unsigned": (with_signature(lambda _: b""), "token_invalid"),
    "two parts": (with_parts(lambda header, payload, _: (header, payload)), "token_invalid"),
    "four parts": (with_parts(lambda *parts: (*parts, "x")), "token_invalid"),
    "empty payload": (with_parts(lambda header, _, signature: (header, "", signature)), "token_invalid"),
    "tampered": (with_parts(tampered), "token_invalid"),
    "truncated signature": (with_signature(lambda signature: signature[:-1]), "token_invalid"),
    "longer signature": (with_signature(lambda signature: signature + b"\0"), "token_invalid"),
    "zero signature": (with_signature(lambda _: bytes(64)), "token_invalid"),
    "S + L": (with_signature(plus_order), "token_invalid"),
    "trailing bits": (with_parts(other_trailing_bits), "token_invalid"),
    "padded signature": (with_parts(lambda h, p, s: (h, p, s + "==")), "token_invalid"),
    "padded payload": (with_parts(lambda h, p, s: (h, p + "=", s)), "token_invalid"),
    "other alphabet": (with_parts(lambda h, p, s: (h, p, "+/" + s[2:])), "token_invalid"),
    "line end": (lambda key: OURS.token(key) + "\n", "token_invalid"),
    "space before": (lambda key: " " + OURS.token(key), "malformed_key"),
    "scheme before": (lambda key: "Bearer " + OURS.token(key), "malformed_key"),
    # The length.
    "8 kB and 1": (of_length(8193), "malformed_key"),
    "1 MB": (of_length(1_000_000), "malformed_key"),
    "1 MB of nothing": (lambda key: "e" * 1_000_000, "malformed_key"),
    "8 kB of nothing": (lambda key: "e" * 8192, "malformed_key"),
    "1 kB of nothing": (lambda key: "e" * 1024, "malformed_key"),
    "a header only": (lambda key: OURS.token(key).split(".")[0] + ".", "token_invalid"),
    # Who and when.
    "other issuer": (with_claims(iss="https://evil.example"), "token_invalid"),
    "other audience": (with_claims(aud="https://files.example"), "token_invalid"),
    "other audiences": (with_claims(aud=["a", "b"]), "token_invalid"),
    "no audience": (with_claims(aud=[]), "token_invalid"),
    "part of the issuer": (with_claims(aud="defaul"), "token_invalid"),
    "made ahead": (with_claims(iat=FOREVER - 60, exp=FOREVER), "token_invalid"),
    "expired": (with_claims(iat=1, exp=2), "token_expired"),
    "expired now": (lambda key: OURS.token(key, exp=seconds()), "token_expired"),
    # Claims in other forms.
    "exp as text": (with_claims(exp=str(FOREVER)), "token_invalid"),
    "exp with a fraction": (with_claims(exp=FOREVER + 0.5), "token_invalid"),
    "exp as a float": (in_other_form("exp", "4102444800.0"), "token_invalid"),
    "exp with an exponent": (in_other_form("exp", "41024448e2"), "token_invalid"),
    "exp with a zero": (in_other_form("exp", "04102444800"), "token_invalid"),
    "exp beyond all years": (with_claims(exp=2**62), "token_invalid"),
    "exp beyond all numbers": (in_other_form("exp", "1" + "0" * 400), "token_invalid"),
    "exp below zero": (with_claims(exp=-1), "token_invalid"),
    "exp as true": (with_claims(exp=True), "token_invalid"),
    "no exp": (with_claims(exp=None), "token_invalid"),
    "exp of null": (in_other_form("exp", "null"), "token_invalid"),
    "no iat": (with_claims(iat=None), "token_invalid"),
    "scope as a list": (with_claims(scope=["a"]), "token_invalid"),
    "scope with two spaces": (with_claims(scope="a  b"), "token_invalid"),
    "scope as an expression": (with_claims(scope="a | b"), "token_invalid"),
    "no scope": (with_claims(scope=None), "token_invalid"),
    "networks as text": (with_claims(allowlist="192.0.2.0/24"), "token_invalid"),
    "networks of null": (lambda key: OURS.signed(compact(OURS.claims(key) | {"allowlist": None})), "token_invalid"),
    "no network": (with_claims(allowlist=["a"]), "token_invalid"),
    "sub is another": (with_claims(sub=str(uuid.uuid4())), "token_invalid"),
    "no sub": (with_claims(sub=None), "token_invalid"),
    "no client": (with_claims(client_id=None), "token_invalid"),
    "no id": (with_claims(jti=None), "token_invalid"),
    "an id of another form": (with_claims(jti="1"), "token_invalid"),
    "two exps": (with_payload(lambda payload: b'{"exp":' + str(FOREVER).encode() + b"," + payload[1:]), "token_invalid"),
    "two scopes": (with_payload(lambda payload: payload[:-1] + b',"scope":"*"}'), "token_invalid"),
    "escapes": (with_payload(lambda payload: payload.replace(b'"scope"', b'"sc\\u006fpe"')), "token_invalid"),
    "space in the payload": (with_payload(lambda payload: payload + b" "), "token_invalid"),
    "other order of claims": (with_payload(lambda payload: json.dumps(
        dict(reversed(json.loads(payload).items())), separators=(",", ":")).encode()), "token_invalid"),
    "no object": (with_payload(lambda _: b"[]"), "token_invalid"),
    "no JSON": (with_payload(lambda _: b"exp"), "token_invalid"),
    "no UTF-8": (with_payload(lambda payload: payload.replace(b"acme", b"\xff\xfe")), "token_invalid"),
    "nested": (with_payload(lambda payload: b'{"a":' + b"[" * 4000 + b"]" * 4000 + b"," + payload[1:]), "malformed_key"),
    "nested, within 8 kB": (with_payload(lambda payload: b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"," + payload[1:]), "token_invalid"),
    # Keys that are not there.
    "of no key": (lambda _: OURS.token(SimpleNamespace(key_id=uuid.uuid4())), "token_invalid"),
}


@pytest.fixture
def key(db):
    db.call("create_keyspace", "default")
    db.call("create_keyspace", "other", prefixes='{"secret": {"live": "ot_"}}')
    db.tenant()
    return db.mint(scopes=["a", "b"])


def test_the_attacks_leave_only_good_tokens(db, key):
    """The makers of the attacks make good tokens, too: nothing else is wrong with those."""
    good = [with_header(OURS.header), with_claims(), with_payload(bytes), with_parts(lambda *parts: parts),
            with_signature(bytes), in_other_form("exp", str(FOREVER)), of_length(8192)]
    for make in good:
        assert db.reason(make(key)) == "ok"
    assert len(of_length(8192)(key)) == 8192
    assert db.verify(of_length(8192)(key)).ok


@pytest.fixture(scope="module")
def attacked(cluster):
    """A database for all attacks, and a key."""
    cluster.execute("CREATE DATABASE attacked TEMPLATE with_keysmith")
    db = session(cluster, "attacked")
    db.call("create_keyspace", "default")
    db.tenant()
    yield db, db.mint(scopes=["a", "b"])
    db.session.close()
    cluster.execute("DROP DATABASE attacked")


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_is_refused(attacked, attack):
    (db, key), (make, reason) = attacked, ATTACKS[attack]
    token = make(key)
    with db.session.transaction():
        verdict = db.verify(token, sign_in=True)
        assert (verdict.ok, verdict.status, verdict.reason) == (False, 401, reason)
        assert db.value("SELECT keysmith.current_key()") is None
    # Of a token that is not good nothing is known, not even whose it claims to be.
    assert (verdict.key_id == key.key_id) == (reason == "token_expired")
    assert verdict.code == (reason if reason.startswith("token") else "invalid_api_key")
    assert [v.reason for v in db.call("verify_many", [token, key.api_key, token])] == [reason, "ok", reason]
    steps = db.call("explain_verify", token)
    assert [step.reason for step in steps if step.outcome == "refuse"] == [reason]
    assert all(token not in str(step) for step in steps)
    if token.strip() == token and "Bearer" not in token:
        for headers in ({"Authorization": f"Bearer {token}"}, {"X-API-Key": token}):
            assert db.one("authenticate", json.dumps(headers), "GET", "/").reason == reason


def test_a_key_of_another_keyspace(db, key):
    """The right key signs a token for a key that is not the keyspace's."""
    db.tenant("globex", keyspace="other")
    other = db.mint("globex", keyspace="other")
    verdict = db.verify(OURS.token(other))
    assert (verdict.reason, verdict.key_id, verdict.tenant) == ("token_invalid", None, None)
    assert db.verify(OTHERS.token(other, iss="other", aud="other"), keyspace="other").ok
    # Nor is it one of a keyspace that does not exist.
    assert db.reason(OURS.token(key), keyspace="nowhere") == "malformed_key"


def test_a_token_is_no_digest(db, key):
    token = OURS.token(key)
    for digest in (token.encode(), hashlib.sha256(token.encode()).digest(), hashlib.sha256(key.api_key.encode()).digest() + b"e"):
        assert db.one("verify_digest", digest).reason in ("malformed_key", "not_found")


def test_a_token_is_no_key_to_revoke_or_to_derive_from(db, key):
    token = OURS.token(key)
    db.refused("KS404", "report_leak", token, source="a page")
    db.refused("KS403", "derive_token", token)
    assert db.verify(token).ok


def test_other_services_tokens_are_keys_where_keys_are_imported(db, key):
    jwt = OURS.signed(b'{"sub":"x"}', '{"alg":"EdDSA","typ":"JWT"}')
    db.call("import_key", "acme", hashlib.sha256(jwt.encode()).digest())
    assert db.verify(jwt).ok
    assert db.reason(with_another_kid(key)) == "not_found"
    assert db.verify(OURS.token(key)).ok
    # Their length has the bound of keys.
    long = OURS.signed(compact({"sub": "x" * 1024}), '{"alg":"EdDSA","typ":"JWT"}')
    db.call("import_key", "acme", hashlib.sha256(long.encode()).digest())
    assert db.reason(long) == "malformed_key"


def test_keys_may_begin_as_tokens_do(db):
    db.call("create_keyspace", "default", prefixes='{"secret": {"live": "ey_"}}')
    db.tenant()
    key = db.mint()
    assert key.api_key.startswith("ey_") and db.verify(key.api_key).ok
    assert db.reason(key.api_key + "x") == "malformed_key"


def test_nothing_is_logged(cluster, db, key):
    before = cluster.log.stat().st_size
    made = [make(key) for make, _ in ATTACKS.values()] + [OURS.token(key)]
    for token in made:
        db.verify(token)
        db.call("explain_verify", token)
    db.refused("KS400", "verify", made[-1], weight=-1)
    with open(cluster.log) as log:
        log.seek(before)
        text = log.read()
    assert "weight" in text
    assert not any(token[-40:] in text for token in made if len(token) > 100)
