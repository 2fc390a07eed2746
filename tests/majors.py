"""Differences between PostgreSQL's major versions, for the tests. No other test depends on the
version."""

import pytest

from cluster import pg_config

MAJOR = int(pg_config("version").split()[1].split(".")[0])

# The setting that has a worker run each query that it may. 16 renamed it.
FORCE_PARALLEL = "debug_parallel_query" if MAJOR >= 16 else "force_parallel_mode"
# From 18 on, GRANT and REVOKE lock what they name.
GRANT_LOCKS = MAJOR >= 18
# A test may need modules of PostgreSQL that some builds lack. Those of one major have all, so that
# no test is skipped everywhere.
HAS_EVERY_MODULE = MAJOR == 15


def since(major):
    return pytest.mark.skipif(MAJOR < major, reason=f"came with PostgreSQL {major}")
