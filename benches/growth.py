"""Whether decisions get slower with more keys, and how much memory and disk the keys take.
A database for each number of keys, all in one cluster, so that they are measured in turns.
"""

import hashlib
import random
import uuid

import dataset
import pgbench
import plot
import ratios
import report
from dataset import clusters
from scene import ADDRESS, ROOMY, SETTINGS, timed

KEYS_PER_TENANT = 100
BASE, BEYOND = 100_000, 10_000_000
STEPS = 10

READS = """SELECT sum(heap_blks_hit + idx_blks_hit), sum(heap_blks_read + idx_blks_read)
           FROM pg_statio_all_tables WHERE schemaname = 'keysmith'"""

VERIFY = f"keysmith.verify(api_key, '{{images:write}}', ip => '{ADDRESS}')"
SIGN_IN = f"keysmith.verify(api_key, '{{images:write}}', ip => '{ADDRESS}', sign_in => true)"


def loop(call):
    return (f"SELECT count(v) FROM (SELECT {call} AS v FROM generate_series(1, %s) AS again, sample"
            " OFFSET 0) AS called")


def database(size):
    return f"keys_{size}"


def fill(connection, size, calls):
    """Numbered keys of a keyspace that logs nothing, and a random sample of `count` of them. If
    there are fewer keys, the sample repeats them."""
    connection.execute("CREATE EXTENSION keysmith")
    for scope in dataset.SCOPES:
        connection.execute("SELECT keysmith.define_scope('default', %s)", [scope])
    connection.execute("SELECT keysmith.alter_keyspace('default', '{\"usage_log\": \"nothing\"}')")
    # References are valid, and needn't be checked ten million times.
    connection.execute("SET session_replication_role = replica")
    dataset.copy(connection, "keysmith_private.tenant", ["tenant_id", "keyspace", "name"],
                 ((_uuid(f"tenant {n}"), "default", f"tenant-{n}")
                  for n in range(-(-size // KEYS_PER_TENANT))))
    with connection.cursor() as cursor:
        with cursor.copy("COPY keysmith_private.key (key_id, tenant_id, generation, digest, keyspace, environment, kind,"
                         " scopes, label, key_prefix, key_snippet, created_by) FROM STDIN") as copy:
            for first in range(0, size, 1000):
                copy.write("".join(map(_line, range(first, min(first + 1000, size)))))
    connection.execute("RESET session_replication_role")
    connection.execute("CREATE TABLE sample (n integer, api_key text)")
    asked = random.Random(size).sample(range(size), min(size, calls))
    dataset.copy(connection, "sample", ["n", "api_key"],
                 ((n, dataset.numbered_key(number)) for n, number in enumerate(asked)))
    dataset.settle(connection)


def _line(n):
    """The key's row in the form of COPY: much faster than single values."""
    key = dataset.numbered_key(n)
    digest = hashlib.sha256(dataset.DOMAIN + dataset.key_digest(key)).hexdigest()
    return (f"{_uuid(f'key {n}')}\t{_uuid(f'tenant {n // KEYS_PER_TENANT}')}\t0\t\\\\x{digest}\tdefault\tlive"
            f"\tsecret\t{{{','.join(dataset.SCOPES)}}}\tbenchmark\t{key[:13]}\t{key[:8]}...{key[-4:]}\tpostgres\n")


def _uuid(name):
    return uuid.UUID(bytes=hashlib.md5(name.encode()).digest(), version=4)


def measure(mode, _, say):
    settings = SETTINGS | ROOMY | {"shared_buffers": mode.growth_buffers, "fsync": "off",
                                   "full_page_writes": "off",
                                   "keysmith__directory_size": mode.growth_directory,
                                   "max_parallel_workers_per_gather": 0, "jit": "off"}
    with clusters.running("growth", **settings) as cluster:
        sizes = {}
        for size in mode.sizes:
            say(f"filling in {size:,} keys")
            cluster.execute(f"CREATE DATABASE {database(size)}")
            with cluster.connect(database(size)) as connection:
                fill(connection, size, mode.growth_calls)
                sizes[size] = _sizes(connection)
        costs = _costs(cluster, mode, say)
        say("memory")
        memory = {name: _memory(cluster, max(mode.sizes), call)
                  for name, call in (("verify", VERIFY), ("verify, sign in", SIGN_IN))}
    return {"sizes": sizes, "costs": costs, "memory": memory, "calls": mode.growth_calls,
            "asked": min(max(mode.sizes), mode.growth_calls), "buffers": mode.growth_buffers,
            "directory": mode.growth_directory}


def _sizes(connection):
    return dict(connection.execute(
        "SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relname IN"
        " ('key', 'key_digest_keyspace_key', 'key_pkey', 'tenant_pkey')"
        " AND relnamespace = 'keysmith_private'::regnamespace").fetchall())


def _costs(cluster, mode, say):
    """For each number of keys, by round: processor time of a call, and the pages it reads."""
    found = {size: [] for size in mode.sizes}
    connections = {size: cluster.connect(database(size)) for size in mode.sizes}
    repeats = {size: max(mode.growth_calls // min(size, mode.growth_calls), 1) for size in mode.sizes}
    for size, connection in connections.items():
        connection.execute(loop(VERIFY), [repeats[size]])
    for number in range(mode.rounds):
        say(f"round {number + 1} of {mode.rounds}")
        for size in pgbench.shuffled(mode.sizes):
            connection = connections[size]
            calls = repeats[size] * min(size, mode.growth_calls)
            _, nothing = timed(connection, loop("octet_length(api_key)"), [repeats[size]])
            before = _pages(connection)
            _, used = timed(connection, loop(VERIFY), [repeats[size]])
            hit, read = (now - was for now, was in zip(_pages(connection), before))
            found[size].append({"cost": (used - nothing) / calls, "hit": hit / calls, "read": read / calls})
    for connection in connections.values():
        connection.close()
    return found


def _pages(connection):
    connection.execute("SELECT pg_stat_force_next_flush()")
    return [int(pages) for pages in connection.execute(READS).fetchone()]


def _memory(cluster, size, call):
    """A session's private memory, and that of its contexts, after each part of a transaction that
    verifies every key of the sample once."""
    series = []
    with cluster.connect(database(size), autocommit=False) as connection:
        pid = connection.info.backend_pid
        for step in range(STEPS):
            connection.execute(f"SELECT count({call}) FROM sample WHERE n % {STEPS} = {step}")
            contexts, = connection.execute("SELECT sum(total_bytes) FROM pg_backend_memory_contexts").fetchone()
            series.append({"own": _own_memory(pid), "contexts": int(contexts)})
        connection.rollback()
    return series


def _own_memory(pid):
    """Bytes that the process does not share."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def costs(data, size):
    return [found["cost"] * 1e6 for found in data["costs"][str(size)]]


def sizes(data):
    return sorted(map(int, data["sizes"]))


def page(data):
    rows = []
    base = BASE if str(BASE) in data["costs"] else sizes(data)[-1]
    for size in sizes(data):
        found = data["costs"][str(size)]
        bytes_of = data["sizes"][str(size)]
        rows.append([f"{size:,}", ratios.number(ratios.quartiles(costs(data, size))[1]),
                     ratios.spread(costs(data, size)),
                     f"{ratios.median_ratio(costs(data, size), costs(data, base)):.1%}",
                     *(f"{ratios.quartiles([one[of] for one in found])[1]:.2f}" for of in ("hit", "read")),
                     *(_megabytes(bytes_of[of]) for of in ("key", "key_digest_keyspace_key"))])
    table = report.markdown_table(
        ["keys", "µs a call", "p25..p75", f"of {base:,}", "pages a call", "of them not in memory",
         "table", "index by digest"], rows)
    memory = report.markdown_table(
        ["after", *(f"{name}, {of}" for name in data["memory"] for of in ("own", "contexts"))],
        [[f"{data['asked'] * (step + 1) // STEPS:,} keys",
          *(_megabytes(data["memory"][name][step][of]) for name in data["memory"] for of in ("own", "contexts"))]
         for step in range(STEPS)])
    return f"""# Growth

{report.surroundings(data)} Processor time of one session that
verifies keys in random order, nothing logged, {data["buffers"]} of shared buffers, places of
{data["directory"]:,} keys in the directory; {max(data["calls"], 1):,} calls in one statement, minus an empty loop.

![Processor time of a call by number of keys](growth.svg)

{table}

PostgreSQL counts the pages of the extension's tables and indexes; pages that are not in shared
buffers may still be in the operating system's memory.

## Memory of a session

In one transaction, {data["asked"]:,} different keys out of {sizes(data)[-1]:,}, each once. Own is the
private memory of the process; contexts are the memory contexts that PostgreSQL counts in it.

![Memory of a session](memory.svg)

{memory}
"""


def _megabytes(count):
    return f"{count / 2**20:,.1f} MB" if count < 2**30 else f"{count / 2**30:,.2f} GB"


def plots(data):
    curve = [(size, ratios.quartiles(costs(data, size))[1]) for size in sizes(data)]
    memory = [(f"{name}, {label}", [(data["asked"] * (step + 1) // STEPS, found[of] / 2**20)
                                    for step, found in enumerate(data["memory"][name])])
              for name in data["memory"] for of, label in (("own", "own"), ("contexts", "contexts"))]
    return {
        "growth": plot.lines("A call by number of keys", "µs of processor time", [("verify", curve)], "keys",
                             logarithmic=True),
        "memory": plot.lines("Memory of a session", "MB", memory, "keys verified in one transaction"),
    }


def grown(data, name):
    """The memory of a session's contexts at the end, by their memory after a tenth."""
    series = data["memory"][name]
    return series[-1]["contexts"] / series[0]["contexts"]


def targets(data):
    found = [(f"memory of a session after {data['asked']:,} keys by that after a tenth, {name}: 1.01", grown(data, name), 1.01,
              "at most") for name in data["memory"]]
    if {str(BASE), str(BEYOND)} <= set(data["costs"]):
        found.append((f"a call among {BEYOND:,} keys: 1.5 × one among {BASE:,}",
                      ratios.median_ratio(costs(data, BEYOND), costs(data, BASE)), 1.5, "at most"))
    return found
