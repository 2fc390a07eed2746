"""Faults of a cluster under Patroni, and what each costs the clients that go on meanwhile."""

import argparse
import os
import signal
from contextlib import suppress

import psycopg

import patroni_cluster
from clients import Load
from ledger import GUARDED, compare, problems
from patroni_cluster import TTL, wait_until

TENANTS = ("acme", "globex")
KEYS = 100


def prepare(patroni):
    """Keys of two tenants, and a table that is isolated by tenant."""
    leader = patroni.leader()
    leader.execute("""
        CREATE TABLE document (tenant uuid, owner text);
        GRANT SELECT ON document TO app;
        SELECT keysmith.grant_access('app', 'verifier');
        SELECT keysmith.grant_access('app', 'auditor')""")
    for tenant in TENANTS:
        leader.execute("INSERT INTO document VALUES (keysmith.create_tenant(%s), %s)", tenant, tenant)
    leader.execute("SELECT keysmith.isolate('document', 'tenant')")
    return [(tenant, key) for tenant in TENANTS for key, in leader.execute(
        "SELECT (keysmith.mint(%s)).api_key FROM generate_series(1, %s)", tenant, KEYS // 2)]


# Faults. Each returns the nodes that lost their memory.


def switchover(patroni, load):
    """switchover"""
    old = patroni.leader()

    def is_switched():
        leader, candidate = patroni.leader(), patroni.synchronous()
        if leader is old and candidate:
            old.request("/switchover", {"leader": old.name, "candidate": candidate.name})
        return leader not in (old, None)

    wait_until(is_switched)
    return []


def kill_machine(patroni, load):
    """leader killed with its agent"""
    return lose_leader(patroni, load)


def kill_server(patroni, load):
    """leader's server killed"""
    node = patroni.leader()
    pid = node.postmaster()
    with load.without_leader():
        node.kill_server()
        wait_until(lambda: node.postmaster() != pid)
    return [node]


def kill_replica(patroni, load):
    """replica's server killed"""
    node = spare(patroni)
    pid = node.postmaster()
    node.kill_server()
    wait_until(lambda: node.postmaster() != pid)
    return [node]


def spare(patroni):
    """A replica that no commit waits for."""
    return next(node for node in patroni.replicas() if node is not patroni.synchronous())


def cut_walsenders(patroni, load):
    """walsenders cut, then killed"""
    node = patroni.leader()
    node.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
    return lose_leader(patroni, load)


def freeze_walsenders(patroni, load):
    """walsenders frozen, then killed; rewound"""
    node = patroni.leader()
    rewinds = node.count_in_log("running pg_rewind")
    # Not those by which usage comes, which may hold locks.
    frozen = [pid for pid, in node.execute(
        "SELECT pid FROM pg_stat_replication WHERE application_name LIKE 'node%'")]
    with load.only_hasty():
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        # Clients go on, and the leader has WAL that no standby gets.
        node.execute("SET synchronous_commit = local; CREATE TABLE IF NOT EXISTS diverged ()")
        accepted = load.ledger.accepted()
        wait_until(lambda: load.ledger.accepted() > accepted + 500)
        lost = lose_leader(patroni, load, frozen)
    wait_until(lambda: node.count_in_log("running pg_rewind") > rewinds)
    return lost


def lose_leader(patroni, load, frozen=()):
    """Kills the leader with its agent; they come back when another leads."""
    node = patroni.leader()
    with load.without_leader():
        node.kill_agent()
        node.kill_server()
        for pid in frozen:
            os.kill(pid, signal.SIGKILL)
        # If Patroni knows of no synchronous standby at that moment, nobody else may lead.
        with suppress(TimeoutError):
            wait_until(patroni.leader, 4 * TTL)
        node.start_agent()
    return [node]


def freeze_etcd(patroni, load):
    """etcd frozen"""
    os.kill(patroni.etcd, signal.SIGSTOP)
    try:
        wait_until(lambda: all(node.execute("SELECT pg_is_in_recovery()") == [(True,)]
                               for node in patroni.nodes))
        with load.without_leader():
            accepted = load.ledger.without_leader
            wait_until(lambda: load.ledger.without_leader > accepted + 100)
            os.kill(patroni.etcd, signal.SIGCONT)
    finally:
        os.kill(patroni.etcd, signal.SIGCONT)
    return []


def copy_again(patroni, load):
    """replica wiped and copied"""
    node = spare(patroni)
    started = node.status()["since"]
    node.request("/reinitialize", {"force": True})
    wait_until(lambda: node.status()["since"] != started)
    return [node]


def cut_off(patroni, load):
    """replica cut off"""
    node = spare(patroni)
    ((receiver,),) = node.execute("SELECT pid FROM pg_stat_wal_receiver")
    downs = patroni.count_in_haproxy_log(f"decide/{node.name} is DOWN")
    os.kill(receiver, signal.SIGSTOP)
    try:
        refused = load.ledger.refused
        before = refused[node.name, GUARDED]
        wait_until(lambda: refused[node.name, GUARDED] > before)
        # HAProxy's check knows it too, and sends its clients elsewhere.
        if patroni.decides(node) or not patroni.decides(patroni.leader()):
            load.ledger.broken.append("check-decides does not tell who decides")
        wait_until(lambda: patroni.count_in_haproxy_log(f"decide/{node.name} is DOWN") > downs)
        for _ in range(10):
            with psycopg.connect(patroni.balanced("5001", "app"), autocommit=True) as session:
                ((address,),) = session.execute("SELECT host(inet_server_addr())").fetchall()
                if address == node.host:
                    load.ledger.broken.append(f"HAProxy leads to {node.name}, which is cut off")
    finally:
        os.kill(receiver, signal.SIGCONT)
    return []


FAULTS = [switchover, kill_machine, kill_server, kill_replica, cut_walsenders, freeze_walsenders,
          freeze_etcd, copy_again, cut_off]


def play(patroni, fault, keys, seconds):
    """Injects a fault under load, and returns the books."""
    patroni.wait_until_whole()
    stops = {node: node.sudden_ends() for node in patroni.nodes}
    before = losses(patroni.leader())
    with Load(patroni, keys) as load:
        load.go_on(seconds)
        lost = {node.name for node in fault(patroni, load)}
        patroni.wait_until_whole()
        load.go_on(seconds)
    lost = lost | {node.name for node, times in stops.items() if node.sudden_ends() > times}
    patroni.wait_until_whole()
    for node in [*patroni.replicas(), patroni.leader()]:
        node.execute("SELECT keysmith.flush_usage('60 seconds')")
    return balance(patroni, load.ledger, before, lost)


def losses(server):
    return dict(server.execute(
        "SELECT incarnation, lost_at_most FROM keysmith_private.usage_incarnation"
        " WHERE lost_at_most IS NOT NULL"))


def balance(patroni, ledger, before, lost):
    leader = patroni.leader()
    running = {node.status()["incarnation"] for node in patroni.nodes}
    ended = {incarnation: name for incarnation, name in ledger.servers.items() if incarnation not in running}
    reported = {incarnation: most for incarnation, most in losses(leader).items() if incarnation not in before}
    books = compare(
        ledger,
        stored=[request_id for request_id, in leader.execute(
            "SELECT request_id FROM keysmith_private.usage_event")],
        reported=reported,
        ended_suddenly={incarnation for incarnation, name in ended.items() if name in lost},
        verdicts={node.name: verdicts(node, ledger.minted) for node in patroni.nodes})
    books.dropped = sum(node.status()["dropped"] for node in patroni.nodes)
    books.not_logged = sum(node.status()["not_logged"] for node in patroni.nodes)
    (books.totals,) = leader.execute(
        "SELECT (SELECT sum(requests)::bigint FROM keysmith.usage_daily),"
        " (SELECT count(*) FROM keysmith_private.usage_event)")
    books.audit = leader.execute("SELECT bool_and(ok) FROM keysmith.audit_verify()") == [(True,)]
    return books


def verdicts(node, minted):
    with psycopg.connect(node.dsn(), autocommit=True) as session:
        return {key_id: session.execute("SELECT reason FROM keysmith.verify(%s)", [key]).fetchone()[0]
                for key_id, key in minted.items()}


COLUMNS = [
    ("accepted", lambda books: books.sum("let_in")),
    ("no leader", lambda books: books.without_leader),
    ("stored", lambda books: books.sum("stored_once")),
    ("not stored", lambda books: books.sum("missing")),
    ("reported", lambda books: books.sum("reported")),
    ("minted", lambda books: books.minted),
    ("gone", lambda books: max(books.unknown.values())),
    ("revoked", lambda books: books.revoked),
    ("undone", lambda books: max(books.revived.values())),
    ("refused", lambda books: sum(books.refused.values())),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="before and after each fault")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=[fault.__name__ for fault in FAULTS])
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = 0
    with patroni_cluster.running() as patroni:
        keys = prepare(patroni)
        print(f"{'':38}" + "".join(f"{name:>{len(name) + 2}}" for name, _ in COLUMNS), flush=True)
        for _ in range(arguments.rounds):
            for fault in FAULTS:
                if arguments.only and fault.__name__ not in arguments.only:
                    continue
                books = play(patroni, fault, keys, arguments.seconds)
                print(f"{fault.__doc__:38}" + "".join(
                    f"{of(books):{len(name) + 2},}" for name, of in COLUMNS), flush=True)
                for problem in problems(books):
                    found += 1
                    print(f"    {problem}", flush=True)
    print(f"{found} problems" if found else "every key, revocation and request is accounted for")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
