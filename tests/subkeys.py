"""The values that the library derives from peppers, computed independently."""

import hmac


def mac(pepper, use, content):
    """HMAC-SHA-256 under the pepper's key for a use: key, value, row or chain."""
    extracted = hmac.digest(bytes(32), pepper, "sha256")
    subkey = hmac.digest(extracted, f"keysmith/{use}/1".encode() + b"\1", "sha256")
    return hmac.digest(subkey, content, "sha256")
