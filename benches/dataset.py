"""The data of every benchmark: valid keys of many tenants, the same at each run."""

import hashlib
import json
import random
import string
import sys
import uuid
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import cluster as clusters

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
PREFIX = "ks_live_"
SECRET_LENGTH = 43
CHECKSUM_LENGTH = 6
DOMAIN = b"keysmith.key.v1\0"

SCOPES = ["images:read", "images:write"]
ROUTES = 200
ROLES = 50
KEYS_PER_TENANT = 100
UNREACHED_LIMIT = "100000000/1 hour/100000000/hourly"
THREE_LIMITS = f"{UNREACHED_LIMIT}\n200000000/1 day/200000000/daily\n1000000000 tokens/1 hour/1000000000/tokens"


def make_keys(count, seed=1):
    """Keys in the form of mint; another seed gives entirely different keys."""
    random_source = random.Random(seed)
    return [_make_key(random_source) for _ in range(count)]


def _make_key(random_source):
    covered = PREFIX + "".join(random_source.choices(ALPHABET, k=SECRET_LENGTH))
    return covered + _checksum(covered)


def _checksum(covered):
    rest = zlib.crc32(covered.encode())
    digits = []
    for _ in range(CHECKSUM_LENGTH):
        rest, digit = divmod(rest, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def numbered_key(n):
    """A valid key computed from a number, so that ten million needn't be kept."""
    covered = PREFIX + hashlib.sha256(str(n).encode()).hexdigest()[:SECRET_LENGTH]
    return covered + _checksum(covered)


def misspell(key):
    """The key with its last character changed, so that its checksum is wrong."""
    return key[:-1] + ("0" if key[-1] != "0" else "1")


def headers(key):
    """A request's headers, as a framework passes them."""
    return json.dumps({
        "host": "api.example", "accept": "*/*", "user-agent": "curl/8.0",
        "content-type": "application/json", "authorization": f"Bearer {key}"})


def key_digest(key):
    return hashlib.sha256(key.encode()).digest()


def fill(connection, keys):
    """Creates the extension and stores the keys, much faster than minting each would."""
    connection.execute("CREATE EXTENSION keysmith")
    for scope in SCOPES:
        connection.execute("SELECT keysmith.define_scope('default', %s)", [scope])
    connection.execute(
        "SELECT keysmith.define_route('default', 'GET', '/v1/r' || n || '/{id}/items', %s::text)"
        " FROM generate_series(1, %s) n", [SCOPES[0], ROUTES])
    connection.execute(
        "SELECT keysmith.define_role('default', 'role' || n, %s) FROM generate_series(1, %s) n",
        [SCOPES, ROLES])
    add_keys(connection, keys)


def add_keys(connection, keys, keyspace="default", tenant="tenant", limits=None, scopes=SCOPES,
             allowlist=None, keys_per_tenant=KEYS_PER_TENANT):
    """Keys of new tenants, which are named after `tenant`. `limits` has its stored form."""
    random_source = random.Random(keys[0])
    tenants = [_make_uuid(random_source) for _ in range(-(-len(keys) // keys_per_tenant))]
    copy(connection, "keysmith_private.tenant", ["tenant_id", "keyspace", "name"],
         ((tenant_id, keyspace, f"{tenant}-{n}") for n, tenant_id in enumerate(tenants)))
    copy(connection, "keysmith_private.key", _KEY_COLUMNS,
         (_key_row(_make_uuid(random_source), tenants[n % len(tenants)], key, keyspace, limits)
          + (scopes, allowlist) for n, key in enumerate(keys)))


def add_quiet_keys(connection, keys):
    """Keys of a keyspace that logs nothing."""
    connection.execute("SELECT keysmith.create_keyspace('quiet', usage_log => 'nothing')")
    for scope in SCOPES:
        connection.execute("SELECT keysmith.define_scope('quiet', %s)", [scope])
    add_keys(connection, keys, keyspace="quiet")


def add_limited_keys(connection, keys):
    """Keys with a limit that no benchmark reaches."""
    add_keys(connection, keys, tenant="limited", limits=UNREACHED_LIMIT)


def add_metered_keys(connection, keys):
    """Keys with three such limits, in two units."""
    add_keys(connection, keys, tenant="metered", limits=THREE_LIMITS)


def add_fenced_keys(connection, keys):
    """Keys with such a limit, and an allowlist of one network."""
    add_keys(connection, keys, tenant="fenced", limits=UNREACHED_LIMIT, allowlist=["192.0.2.0/24"])


def settle(connection):
    """Leaves nothing for the first readers to do, nor for a background process.

    No ANALYZE: it samples at random, and no plan here needs it.
    """
    connection.execute("VACUUM (FREEZE)")
    connection.execute("CHECKPOINT")


_KEY_COLUMNS = ["key_id", "tenant_id", "generation", "digest", "keyspace", "environment", "kind",
                "limits", "label", "key_prefix", "key_snippet", "created_by", "scopes", "allowlist"]


def _key_row(key_id, tenant_id, key, keyspace, limits):
    digest = hashlib.sha256(DOMAIN + key_digest(key)).digest()
    shown = key[:len(PREFIX) + 5], f"{PREFIX}...{key[-4:]}"
    return (key_id, tenant_id, 0, digest, keyspace, "live", "secret", limits, "benchmark", *shown,
            "postgres")


def _make_uuid(random_source):
    return uuid.UUID(int=random_source.getrandbits(128), version=4)


def copy(connection, table, columns, rows):
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
