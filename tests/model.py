"""What a decision must be, worked out the slow and obvious way.

This is written from the rules, and not from the code that is tested: no tables, no caches,
every route is tried on every path. `decide` takes

- a keyspace: `name`, and optionally `schemes`, `unlisted_routes`, `routes` (tuples of method,
  pattern, variant and expression), `roles`, `implied` (scope to scopes), `empty_scopes`,
  `default_scopes`, `codes` and `has_imports`;
- all keys there are, by their text: `keyspace`, `states` (any of revoked, expired, disabled,
  tenant_suspended and owner_gone), `kind`, `environment`, `scopes`, `role`, `owners_role` and
  `allowlist`;
- a request: `headers`, `method`, `path` and `variant`, or else `api_key`, `scopes`, `kind` and
  `environment`; and `ip` with either.
"""

import ipaddress
import re
import zlib

RULES = ["presented", "format", "found", "environment", "revocation", "expiry", "disablement",
         "tenant", "owner", "address", "kind", "scopes", "limits", "credits"]

# The canonical code of each reason, and the status of each code.
CODES = {
    "ok": "ok", "missing": "missing_authorization", "malformed_header": "invalid_authorization",
    "malformed_key": "invalid_api_key", "not_found": "invalid_api_key",
    "wrong_keyspace": "invalid_api_key", "wrong_environment": "invalid_api_key",
    "revoked": "invalid_api_key", "expired": "invalid_api_key", "disabled": "invalid_api_key",
    "tenant_suspended": "invalid_api_key", "owner_gone": "invalid_api_key",
    "ip_not_allowed": "ip_not_allowed", "ip_unknown": "ip_not_allowed",
    "kind_not_allowed": "insufficient_kind", "scopes_null": "insufficient_scope",
    "insufficient_scope": "insufficient_scope",
}
STATUSES = {
    "ok": 200, "missing_authorization": 401, "invalid_authorization": 401, "invalid_api_key": 401,
    "ip_not_allowed": 403, "insufficient_kind": 403, "insufficient_scope": 403,
}
REASONS = list(CODES)


def decide(keyspace, keys, request):
    """The reason, status and code of a decision."""
    reason = reason_of(keyspace, keys, request)
    code = CODES[reason]
    status = STATUSES[code]
    other = keyspace.get("codes", {}).get(code, {})
    if isinstance(other, str):
        other = {"code": other}
    return reason, other.get("status", status), other.get("code", code)


def reason_of(keyspace, keys, request):
    if "headers" in request:
        presented = in_headers(request["headers"], keyspace.get("schemes", SCHEMES))
    else:
        presented = "missing" if request["api_key"] is None else (request["api_key"],)
    if isinstance(presented, str):
        return presented
    (text,) = presented
    if len(text.encode()) > 1024:
        return "malformed_key"
    if not keyspace.get("has_imports") and not is_well_formed(text):
        return "malformed_key"
    if text not in keys:
        return "not_found"
    key = keys[text]
    if key["keyspace"] != keyspace["name"]:
        return "wrong_keyspace"
    if request.get("environment") is not None and request["environment"] != key["environment"]:
        return "wrong_environment"
    for state in ("revoked", "expired", "disabled", "tenant_suspended", "owner_gone"):
        if state in key["states"]:
            return state
    if key["allowlist"] is not None:
        if request.get("ip") is None:
            return "ip_unknown"
        if not any(lies_in(request["ip"], network) for network in key["allowlist"]):
            return "ip_not_allowed"
    if request.get("kind") is not None:
        enough = {"secret": ["secret"], "publishable": ["secret", "publishable"]}
        if key["kind"] not in enough.get(request["kind"], []):
            return "kind_not_allowed"
    if "headers" not in request and (request["scopes"] is None or None in request["scopes"]):
        return "scopes_null"
    if not may(keyspace, key, request):
        return "insufficient_scope"
    return "ok"


# Headers

SCHEMES = ["bearer", "key", "x_api_key"]
TOKEN = r"[ \t]*([!-+\--~]+)[ \t]*"


def in_headers(headers, schemes):
    """The key in the headers, in a tuple, or the reason why there is none."""
    if headers is None:
        return "missing"
    if not isinstance(headers, dict):
        return "malformed_header"
    keys = set()
    for name, value in headers.items():
        values = value if isinstance(value, list) else [value]
        for value in values:
            if value is None:
                continue
            if name.lower() == "authorization" and ("bearer" in schemes or "key" in schemes):
                accepted = "|".join(scheme for scheme in schemes if scheme != "x_api_key")
                form = rf"(?i:[ \t]*(?:{accepted})[ \t]){TOKEN}"
            elif name.lower() == "x-api-key" and "x_api_key" in schemes:
                form = TOKEN
            else:
                continue
            match = re.fullmatch(form, value) if isinstance(value, str) else None
            is_blank = name.lower() == "authorization" and isinstance(value, str) and not value.strip(" \t")
            keys.add(match[1] if match else "" if is_blank else None)
    if keys <= {""}:
        return "missing"
    if len(keys) > 1 or None in keys:
        return "malformed_header"
    return tuple(keys)


# Keys

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def is_well_formed(text):
    if not re.fullmatch(r"[a-z0-9_]{1,31}_[0-9A-Za-z]{49}", text, re.ASCII):
        return False
    return text == with_checksum(text[:-6])


def with_checksum(text):
    rest = zlib.crc32(text.encode())
    digits = ""
    for _ in range(6):
        digits = DIGITS[rest % 62] + digits
        rest //= 62
    return text + digits


def lies_in(address, network):
    address, network = ipaddress.ip_address(address), ipaddress.ip_network(network)
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped
    if network.version == 6 and network.prefixlen >= 96 and network[0].ipv4_mapped:
        network = ipaddress.ip_network(f"{network[0].ipv4_mapped}/{network.prefixlen - 96}")
    return address.version == network.version and address in network


# Scopes

class Malformed(Exception):
    """Scopes for which the extension raises an error."""


def may(keyspace, key, request):
    def has(scope):
        return holds(keyspace, key, scope)

    if "headers" not in request:
        return all([evaluate(element, has) for element in request["scopes"]])
    needed = expression_of(keyspace, request)
    if needed is None:
        return False
    return needed.strip() == "" or evaluate(needed, has)


def holds(keyspace, key, scope):
    """Its own scopes, its role and its owner's role must all allow the scope."""
    lists = [key["scopes"]]
    if not key["scopes"]:
        empty = {"all": ["*"], "none": [], "defaults": keyspace.get("default_scopes", [])}
        lists = [empty[keyspace.get("empty_scopes", "all")]]
    for role in (key["role"], key["owners_role"]):
        if role is not None:
            lists.append(keyspace["roles"][role])
    return all(covered(grants, scope, keyspace.get("implied", {})) for grants in lists)


def covered(grants, scope, implied):
    grants = list(grants)
    while True:
        more = [also
                for one, others in implied.items() if any(covers(grant, one) for grant in grants)
                for also in others if also not in grants]
        if not more:
            break
        grants += more
    return any(covers(grant, scope) for grant in grants)


def covers(grant, scope):
    if grant == "*":
        return scope != ""
    if grant.endswith(":*"):
        return scope.startswith(grant[:-1]) and scope != grant[:-1]
    return grant == scope


def evaluate(expression, has):
    if len(expression.encode()) > 4096:
        raise Malformed
    return value_of(expression, has, 0)


def value_of(text, has, depth):
    text = text.strip(" \t\r\n")
    for sign, together in (("|", any), ("&", all)):
        parts = split_outside(text, sign)
        if len(parts) > 1:
            return together([value_of(part, has, depth) for part in parts])
    if text.startswith("(") and text.endswith(")"):
        if depth == 32:
            raise Malformed
        return value_of(text[1:-1], has, depth + 1)
    if len(text) > 128 or not re.fullmatch(r"[\w./-]+(:[\w./-]+)*", text, re.ASCII):
        raise Malformed
    return has(text)


def split_outside(text, sign):
    """Splits at the sign outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            raise Malformed
        if character == sign and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth != 0:
        raise Malformed
    return parts


# Routes

def expression_of(keyspace, request):
    """The needs of the request; None if no key is accepted."""
    segments = segments_of(request.get("path"))
    if segments is None or not request.get("method"):
        return None
    fitting = [(method, pattern)
               for method, pattern, _, _ in keyspace.get("routes", [])
               if method in ("*", request["method"].upper()) and fits(pattern, segments)]
    if not fitting:
        return "" if keyspace.get("unlisted_routes", "any_key") == "any_key" else None
    best = min(fitting, key=lambda route: (rank(route[1]), route[0] == "*"))
    for method, pattern, variant, expression in keyspace["routes"]:
        if (method, pattern) == best and variant == (request.get("variant") or ""):
            return expression
    return None


def segments_of(path):
    """A path's segments, or None if servers may interpret them differently."""
    if path is None or len(path.encode()) > 8192:
        return None
    path = path.split("?")[0].encode()
    if not path.startswith(b"/"):
        return None
    if path == b"/":
        return []
    path = path[1:]
    if path.endswith(b"/"):
        path = path[:-1]
    segments = []
    for written in path.split(b"/"):
        if re.search(rb"%(?![0-9A-Fa-f]{2})", written):
            return None
        segment = re.sub(rb"%(..)", lambda match: bytes.fromhex(match[1].decode()), written)
        if segment in (b"", b".", b".."):
            return None
        if any(byte < 32 or byte == 127 or byte in b"/\\?" for byte in segment):
            return None
        segments.append(segment)
    return segments if len(segments) <= 64 else None


def fits(pattern, segments):
    wanted = [] if pattern == "/" else pattern[1:].split("/")
    if wanted and wanted[-1] == "*":
        wanted = wanted[:-1]
        if len(segments) <= len(wanted):
            return False
        segments = segments[:len(wanted)]
    return len(segments) == len(wanted) and all(
        one.startswith("{") or one.encode() == other for one, other in zip(wanted, segments))


def rank(pattern):
    """From the left: a literal before a parameter before a star."""
    return [{"{": 1, "*": 2}.get(segment[:1], 0) for segment in pattern[1:].split("/")]
