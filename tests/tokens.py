"""Tokens that are made without the library, and a cluster whose signing secrets may change."""

import base64
import hashlib
import hmac
import json
import uuid
from datetime import datetime, timezone

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cluster import Cluster

SECRETS = {1: "11" * 32, 2: "22" * 32}


def write_secrets(cluster, *generations):
    return cluster.write_secrets("signing", "".join(f"{n}:{SECRETS[n]}\n" for n in generations))


@pytest.fixture(scope="module")
def cluster():
    """A private cluster for the file."""
    running = Cluster("tokens")
    try:
        running.init(keysmith__signing_key_file=write_secrets(running, 1))
        running.start()
        running.execute("CREATE DATABASE with_keysmith")
        running.execute("CREATE EXTENSION keysmith", dbname="with_keysmith")
        yield running
    finally:
        running.remove()


def seconds():
    """The present time as claims have it."""
    return int(datetime.now(timezone.utc).timestamp())


def encoded(content):
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def compact(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Signer:
    """The key of a keyspace, derived independently."""

    def __init__(self, keyspace="default", generation=1):
        extracted = hmac.digest(bytes(32), bytes.fromhex(SECRETS[generation]), "sha256")
        info = b"keysmith/token/1\0" + keyspace.encode() + b"\1"
        self.key = Ed25519PrivateKey.from_private_bytes(hmac.digest(extracted, info, "sha256"))
        self.public = self.key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        thumbprint = {"crv": "Ed25519", "kty": "OKP", "x": encoded(self.public)}
        self.kid = encoded(hashlib.sha256(compact(thumbprint)).digest())
        self.header = f'{{"alg":"EdDSA","typ":"at+jwt","kid":"{self.kid}"}}'

    def claims(self, key, **claims):
        """The claims of a token of a key, for five minutes. A claim that is None is left out."""
        now, key_id = seconds(), str(key.key_id)
        usual = {"iss": "default", "aud": "default", "sub": key_id, "client_id": key_id,
                 "jti": str(uuid.uuid4()), "iat": now, "exp": now + 300, "scope": "*",
                 "tenant": "acme", "environment": "live"}
        return {name: value for name, value in (usual | claims).items() if value is not None}

    def signed(self, payload, header=None):
        header = (header or self.header).encode()
        content = f"{encoded(header)}.{encoded(payload)}"
        return f"{content}.{encoded(self.key.sign(content.encode()))}"

    def token(self, key, **claims):
        return self.signed(compact(self.claims(key, **claims)))
