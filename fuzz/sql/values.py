"""Values of each argument's type, as SQL: extreme, malformed and existing ones."""

import json

TEXTS = [
    "''", "' '", "''''", "'\"'", "E'\\\\'", "'null'", "'NULL'", "'{}'", "'{'", "'[]'", "'%s%n'", "'$1'", "'--'", "'*'",
    "'a,b'", "'a b'", "'a AND b'", "'(a'", "'!'", "'a:b'", "'a:*'", "'*:*'", "'..'", "'/'", "'/a/{b}'", "'/a/{b}/*'",
    "'/a//b'", "'/%2e%2e/'", "'/a?b=c'", "'/%00'", "'GET'", "'get'", "'POST'", "'secret'", "'publishable'", "'live'",
    "'test'", "'sha256'", "'hmac'", "'bcrypt'", "'acme'", "'default'", "'everything'", "'all'", "'none'", "'error'",
    "'replace'", "'verifier'", "'host'", "'issuer'", "'auditor'", "'admin'", "'hour'", "'day'", "'x=sha256'", "'1'", "'-1'", "'1e9'",
    "E'\\x01'", "E'a\\nb'", "E'a\\tb'", "E'\\x7f'", "E'a\\r\\nb: c'", "repeat('x', 63)", "repeat('x', 64)", "repeat('x', 100)",
    "repeat('x', 101)", "repeat('x', 1024)", "repeat('x', 1025)", "repeat('a:', 300)", "repeat('/a', 65)",
    "repeat('x', 8191)", "repeat('x', 100000)", "repeat('a', 1048576)", "repeat('(', 10000)", "repeat('a or ', 2000)",
    "(SELECT v FROM fuzz.texts WHERE n = 1)", "(SELECT v FROM fuzz.texts WHERE n = 2)",
    "(SELECT v FROM fuzz.texts WHERE n = 3)", "(SELECT v FROM fuzz.texts WHERE n = 4)",
]
UNICODE = ["'ünïcödé'", "'🔑'", "repeat('🔑', 20)", "repeat('é', 63)", "U&'\\202e\\200b'", "U&'e\\0301'", "U&'\\fffd'", "U&'\\feff'"]
BYTES_AS_TEXT = ["E'\\377'", "E'\\303'", "E'a\\200b'", "E'\\355\\240\\200'", "repeat(E'\\376', 63)"]
BYTEA = ["''", "decode('00', 'hex')", "decode('ff', 'hex')", "sha256('x')", "sha256('')", "substr(sha256('x'), 1, 31)", "sha256('x') || decode('00', 'hex')",
         "decode(repeat('ff', 1000), 'hex')", "decode(repeat('00', 1048576), 'hex')", "convert_to(repeat('x', 57), 'SQL_ASCII')",
         "(SELECT v::bytea FROM fuzz.texts WHERE n = 2)", "decode(repeat('01000000000000004f', 100), 'hex')"]
INTEGERS = [0, 1, -1, 2, 3, 7, 24, 80, 100, 200, 404, 599, 1000, 65535, 65536, 2**31 - 1, -2**31, 2**31 - 2]
BIGINTS = [*INTEGERS, 2**31, 2**53, 2**62, 2**63 - 1, -2**63, -2**63 + 1, 10**18]
INETS = ["0.0.0.0", "255.255.255.255", "::", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "10.0.0.0/8", "192.0.2.1/0",
         "::ffff:192.0.2.1", "2001:db8::1/0", "203.0.113.9", "127.0.0.1", "fe80::1/128"]
CIDRS = ["0.0.0.0/0", "::/0", "10.0.0.0/8", "203.0.113.0/24", "203.0.113.9/32", "2001:db8::/32", "::1/128"]
INTERVALS = ["0", "1 us", "-1 us", "1 ms", "100 ms", "1 second", "1 day", "1 day -24 hours", "1 mon -30 days", "178000000 years",
             "-178000000 years", "2147483647 months", "2147483647 days", "2147483647 months 2147483647 days",
             "2562047788:00:54.775807", "-2562047788:00:54.775807", "-2147483648 months -2147483648 days"]
TIMES = ["infinity", "-infinity", "epoch", "4714-11-24 00:00:00+00 BC", "0044-03-15 BC", "0001-01-01 00:00:00+00",
         "294276-12-31 23:59:59.999999+00", "2000-01-01", "2038-01-19 03:14:08+00", "9999-12-31 23:59:59.999999+00",
         "now", "tomorrow", "yesterday"]
UUIDS = ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
         "01a21636-5476-7574-a3df-d5f7313677fe", "00000000-0000-7000-8000-000000000000"]
WORDS = """prefixes secret publishable live test default_scopes empty_scopes max_active_keys at_max label_length schemes
    unlisted_routes display codes plan_features wildcards limits charges managed_by usage_log usage_details usage_tags error_body expiring_notice event_channel
    name limit window burst balance refill every anchor low week hour label scopes role owner allowlist expires_at metadata credits plan status
    code message id prefix snippet scope keyspace entry hash at action tenant key_id reason changes authorization x-api-key
    x-forwarded-for forwarded content-type ok revoked insufficient_scope rate_limited bearer key x_api_key day month""".split()
ARRAYS = ["'{}'", "NULL", "'{a}'", "'{a,b,a}'", "'{NULL}'", "'{a,NULL}'", "'{\"\"}'", "'{{a,b},{c,d}}'", "'[5:6]={a,b}'",
          "'[0:1][2:3]={{a,b},{c,d}}'", "'[-2:0]={x,y,z}'", "'{a:*}'", "'{*}'", "'{\" \"}'", "'{x,\"x y\"}'"]

# Functions that need a table which another function has changed before.
PREPARED = {"release", "untrack", "unprotect", "unseal_rows", "verify_rows", "protect_existing", "unledger", "ledger_head",
            "verify_ledger"}


def literal(text):
    text = str(text).replace("'", "''")
    return "E'" + text.replace("\\", "\\\\") + "'" if "\\" in text else f"'{text}'"


class Values:
    """The state from which one session draws."""

    def __init__(self, draw, known, encoding="UTF8"):
        self.draw, self.known = draw, known
        # The role that calls, and how often an argument has an accepted value.
        self.role, self.care = "postgres", 0.65
        self.texts = TEXTS + (UNICODE if encoding == "UTF8" else BYTES_AS_TEXT)

    def of(self, type_name, name="", function=""):
        """An expression of this type, for an argument of this name and function."""
        draw = self.draw.random()
        known = self.known_of(type_name, name, function)
        if known and draw < self.care:
            return f"({self.draw.choice(known)})::{type_name}"
        if draw > 0.94 and type_name != "record":
            return f"NULL::{type_name}"
        maker = getattr(self, "a_" + type_name.removeprefix("keysmith.").replace("[]", "_array").replace(" ", "_"))
        return f"({maker(name)})::{type_name}" if type_name != "record" else maker(name)

    def known_of(self, type_name, name, function):
        if type_name == "regrole":
            return self.known["role_oid"]
        names = [f"{function}.{name} {type_name}", f"{function}.{name}", name]
        if type_name == "regclass" and self.draw.random() < 0.7:
            names.insert(0, f"relation of {self.role}")
            if function in PREPARED and self.draw.random() < 0.7:
                names.insert(0, f"prepared relation of {self.role}")
        return next((self.known[name] for name in names if name in self.known), None)

    def a_text(self, name):
        draw = self.draw.random()
        if draw < 0.0008:
            return "repeat('a', 100000000)"
        # A key may not be in another argument: PostgreSQL itself would report it, for example as
        # a bad uuid.
        if draw < 0.35 and name in ("api_key", "api_keys", "value", "stored"):
            return self._mutant(self.draw.choice(self.known["api_key"]))
        if draw < 0.5:
            return self.draw.choice(self.known[self.draw.choice([name for name in sorted(self.known) if name not in ("api_key", "headers")])])
        return self.draw.choice(self.texts)

    def _mutant(self, text):
        place = self.draw.randrange(1, 60)
        return self.draw.choice([
            text, f"{text} || 'x'", f"left({text}, {-place % 7 - 7})", f"upper({text})", f"overlay({text} placing 'Z' from {place})",
            f"' ' || {text}", f"{text} || E'\\n'", f"'Bearer ' || {text}", f"replace({text}, '_', '-')", f"reverse({text})",
            f"repeat({text}, 100)"])

    def a_bytea(self, name):
        return self.draw.choice(BYTEA)

    def a_bigint(self, name):
        return str(self.draw.choice(BIGINTS + [self.draw.randrange(100)]))

    def a_integer(self, name):
        return str(self.draw.choice(INTEGERS + [self.draw.randrange(100)]))

    def a_smallint(self, name):
        return str(self.draw.choice([0, 1, -1, 32767, -32768]))

    def a_boolean(self, name):
        return self.draw.choice(["true", "false"])

    def a_inet(self, name):
        return literal(self.draw.choice(INETS))

    def a_cidr_array(self, name):
        if self.draw.random() < 0.05:
            return "array_fill('10.0.0.0/8'::cidr, ARRAY[20000])"
        some = ", ".join(self.draw.choice([*map(literal, CIDRS), "NULL"]) for _ in range(self.draw.randrange(4)))
        return self.draw.choice([f"ARRAY[{some}]::cidr[]", "'[3:4]={10.0.0.0/8,::/0}'", "'{{10.0.0.0/8},{::/0}}'"])

    def a_interval(self, name):
        return literal(self.draw.choice(INTERVALS))

    def a_timestamp_with_time_zone(self, name):
        return literal(self.draw.choice(TIMES))

    def a_date(self, name):
        return self.draw.choice(["'infinity'", "'4714-11-24 BC'", "'5874897-12-31'", "current_date", "'2000-02-29'"])

    def a_uuid(self, name):
        return literal(self.draw.choice(UUIDS)) if self.draw.random() < 0.8 else "gen_random_uuid()"

    def a_oid(self, name):
        return self.draw.choice(self.known["relation"] + self.known["trigger_id"] + ["0", "4294967295"])

    def a_regclass(self, name):
        return literal(self.draw.choice(self.known["relation"]).strip("'"))

    def a_regrole(self, name):
        return self.draw.choice(self.known["role_oid"])

    def a_text_array(self, name):
        draw = self.draw.random()
        if draw < 0.02:
            return self.draw.choice(["array_fill('x'::text, ARRAY[100000])", "array_fill(NULL::text, ARRAY[1000])",
                                     "array_fill('a:b'::text, ARRAY[10, 10, 10])",
                                     "ARRAY(SELECT 'c' || n FROM generate_series(1, 5000) n)"])
        if draw < 0.4:
            return self.draw.choice(ARRAYS)
        singular = {"api_keys": "api_key", "columns": "column_name", "more_columns": "column_name"}.get(name, "scopes_each")
        some = ", ".join(f"({self.draw.choice(self.known[singular]) if self.draw.random() < 0.8 else self.a_text(name)})::text"
                         for _ in range(self.draw.randrange(5)))
        return f"ARRAY[{some}]::text[]"

    def a_record(self, name):
        return self.draw.choice([f"ROW({', '.join(self.of(t) for t in self.draw.choices(['text', 'bigint', 'jsonb'], k=3))})",
                                 "ROW()", "ROW(NULL)", "(SELECT t FROM fuzz.texts t WHERE n = 2)", "NULL::fuzz.texts",
                                 "(SELECT t FROM fuzz.postgres_plain t LIMIT 1)", "(SELECT t FROM fuzz.verifier_plain t LIMIT 1)"])

    def a_verdict(self, name):
        types = ["boolean", "integer", "text", "text", "text", "uuid", "text", "uuid", *["text"] * 5, "text[]", "jsonb", "timestamp with time zone",
                 "text", "bigint", "interval", "bigint", "uuid", "text", "text", "text", "bigint", "interval", "interval", "text"]
        columns = ", ".join("NULL" if self.draw.random() < 0.3 else self.of(kind) for kind in types)
        return self.draw.choice([f"ROW({columns})", f"ROW({columns})", f"ROW({', '.join(['NULL'] * 28)})"])

    def a_jsonb(self, name):
        draw = self.draw.random()
        if draw < 0.02:
            return self.draw.choice([
                "(repeat('[', 1000) || repeat(']', 1000))::jsonb", "(repeat('{\"a\":', 500) || '1' || repeat('}', 500))::jsonb",
                "jsonb_build_object('label', repeat('x', 1000000))", "(SELECT jsonb_agg(n) FROM generate_series(1, 20000) n)",
                "(SELECT jsonb_object_agg('k' || n, n) FROM generate_series(1, 5000) n)"])
        if draw < 0.3 and name == "headers" and self.known["api_key"]:
            key = self.draw.choice(self.known["api_key"])
            return self.draw.choice([f"jsonb_build_object('authorization', 'Bearer ' || {key})",
                                     f"jsonb_build_object('x-api-key', {key})", f"jsonb_build_object('X-API-Key', jsonb_build_array({key}))",
                                     f"jsonb_build_object('authorization', 'Bearer ' || {key}, 'x-api-key', {key})"])
        return literal(json.dumps(self._json(0)))

    def _json(self, depth):
        draw = self.draw.random()
        if depth > 3 or draw < 0.3:
            return self.draw.choice([None, True, False, 0, -1, 1, 10, 2**31, 2**63, -2**64, 1.5, 1e300, -0.0, "", "x", "secret", "a:b",
                                     "1 day", "1 hour", "day", "infinity", "2999-01-01", "all", "k_", "10.0.0.0/8", "\u0001", "é" * 50])
        if draw < 0.5:
            return [self._json(depth + 1) for _ in range(self.draw.randrange(4))]
        return {self.draw.choice(WORDS): self._json(depth + 1) for _ in range(self.draw.randrange(5))}
