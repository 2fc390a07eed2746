"""The threats to a ledger: who does what, and what a check then says. The tests do each of them.
`python3 tests/threats.py` prints the table of the documents.
"""

from dataclasses import dataclass

DIFFERENCE, BLOCK, RANGE = (f"keysmith_private.ledger_{name}" for name in ("difference", "block", "range"))
# All that is stored of ledgers.
STORED = ["keysmith_private.ledger", DIFFERENCE, BLOCK, RANGE]

# Who attacks. Each of them gets past the triggers, by what it may do.
WRITER = "a writer with triggers off"
OWNER = "the table's owner"
SUPERUSER = "a superuser"
DISK = "who holds the disk"
RESTORER = "who restores a backup"
ROWS = (WRITER, OWNER, SUPERUSER)
# These attackers reach the stored ledger, by SQL or on the disk. In the tests, a superuser stands for both.
STORAGE = (SUPERUSER, DISK)

# The problems that a check reports. The tests replace the numbers of transactions.
CHANGED = "rows were changed or replaced"
ALTERED = "the difference of transaction N was altered"
TWICE = "the difference of transaction N is there twice"
REPLAYED = "the difference of transaction N was put back: it is part of a block already"
FOREIGN = "the difference of transaction N was made in a copy of the database"
RANGE_ALTERED = "the stored sum of the range was altered"
RANGE_WRONG = "the stored sum of the range was removed or put back; the rows are right"
AHEAD = "the stored sum of the range is of block 3, which is not there"
HEAD_MISSING = "block 3, whose head was kept, is not there: the table is older than the head, or blocks were removed"
TABLE_CHANGED = "rows of the table were changed or replaced"


def more(rows):
    return f"the table has {rows} {'row' if rows == 1 else 'rows'} more than the ledger"


def fewer(rows):
    return f"the table has {rows} {'row' if rows == 1 else 'rows'} fewer than the ledger"


def differ(block):
    return f"the stored sums do not add up to block {block}: some were altered, removed or put back"


@dataclass
class Threat:
    act: str
    by: tuple
    # What `verify_ledger` finds, without a kept head; and with one, if that is more.
    found: list
    with_head: list | None = None
    # The statements. The tests have those that need more than statements.
    script: str | None = None
    # The answer of `ledger_head`.
    head: str = "closes a block"
    # Without a pepper, if that differs.
    unpeppered: list | None = None
    why: str = ""

    def finds(self, has_pepper=True, has_head=False):
        found = self.unpeppered if self.unpeppered is not None and not has_pepper else self.found
        return self.with_head if has_head and self.with_head is not None else found


# The first of two open differences, that of the inserted row 21; and the first range, which has most rows.
FIRST = f"difference = (SELECT difference FROM {DIFFERENCE} ORDER BY difference LIMIT 1)"
SECOND = f"difference = (SELECT difference FROM {DIFFERENCE} ORDER BY difference DESC LIMIT 1)"
LOW = f"range = (SELECT min(range) FROM {RANGE})"
FAILS = "fails"


def flip(column, at):
    return f"{column} = set_byte({column}, {at}, get_byte({column}, {at}) # 1)"


def put_back(*tables):
    return "; ".join(f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM attic.{table.split('.')[-1]}" for table in tables)


OLDER = "Only a head that was kept later shows it"
THREATS = {
    "change": Threat("a row is changed", ROWS, [CHANGED], script="UPDATE t SET balance = 1000000 WHERE id = 7"),
    "insert": Threat("a row is inserted", ROWS, [more(1)], script="INSERT INTO t VALUES (31, 'eve', 1)"),
    "delete": Threat("a row is deleted", ROWS, [fewer(1)], script="DELETE FROM t WHERE id = 7"),
    "truncate": Threat("the table is emptied", ROWS, [fewer(11), fewer(10)], script="TRUNCATE t"),
    "deleted row back": Threat("a row that was deleted before the last block is put back", ROWS, [more(1)],
                               script="INSERT INTO t SELECT * FROM attic.t WHERE id = 11"),
    "old row back": Threat("a row is put back as it was before the last block", ROWS, [CHANGED],
                           script="UPDATE t SET balance = a.balance FROM attic.t a WHERE t.id = 5 AND a.id = 5"),
    "one for another": Threat("a row is deleted, and another is put in its place", ROWS, [CHANGED],
                              script="DELETE FROM t WHERE id = 7; INSERT INTO t VALUES (31, 'eve', 1)"),
    "undone": Threat("a row is put back as it was, since a transaction that is in no block", ROWS, [CHANGED],
                     script="UPDATE t SET balance = a.balance FROM attic.t a WHERE t.id = 6 AND a.id = 6"),
    "table back": Threat("all rows are put back as they were before the last block", (*ROWS, RESTORER), [CHANGED, CHANGED],
                         script=put_back("t")),
    "through the triggers": Threat("a row is changed as usual, by the triggers", ROWS, [],
                                   why="This is what the ledger records",
                                   script="UPDATE t SET balance = 1000000 WHERE id = 7"),
    "begun again": Threat("the ledger is ended, rows are changed, and a new one begins", (OWNER, SUPERUSER), [], [HEAD_MISSING],
                          script="SELECT keysmith.unledger('t'); DELETE FROM t WHERE id = 7; SELECT keysmith.ledger('t')",
                          why="A new ledger knows nothing of the old one, but has other heads"),

    "difference altered": Threat("an open difference is altered", STORAGE, [ALTERED, more(1)],
                                 script=f"UPDATE {DIFFERENCE} SET {flip('difference', 60)} WHERE {FIRST}"),
    "difference cut": Threat("an open difference is replaced by other bytes", STORAGE, ["a difference was altered", more(1)],
                             script=f"UPDATE {DIFFERENCE} SET difference = '\\x0102' WHERE {FIRST}"),
    "difference removed": Threat("an open difference is removed", STORAGE, [more(1)],
                                 script=f"DELETE FROM {DIFFERENCE} WHERE {FIRST}"),
    "difference and row": Threat("a row is removed together with its open difference", STORAGE, [],
                                 script=f"DELETE FROM {DIFFERENCE} WHERE {FIRST}; DELETE FROM t WHERE id = 21",
                                 why="It is as if the transaction had never been. A kept head of a block that has the difference shows it"),
    "change undone": Threat("a changed row is put back together with its open difference", STORAGE, [],
                            script=f"DELETE FROM {DIFFERENCE} WHERE {SECOND}; UPDATE t SET balance = a.balance FROM attic.t a "
                                   "WHERE t.id = 6 AND a.id = 6", why="It is as if the change had never been"),
    "difference replayed": Threat("a deleted row is put back together with the difference that once inserted it", STORAGE,
                                  [REPLAYED, more(1)],
                                  script=f"INSERT INTO {DIFFERENCE} SELECT * FROM attic.closed; "
                                         f"INSERT INTO t SELECT * FROM attic.t WHERE id = 11"),
    "difference twice": Threat("an open difference is put in place twice", STORAGE, [TWICE],
                               script=f"INSERT INTO {DIFFERENCE} SELECT * FROM {DIFFERENCE} WHERE {SECOND}"),
    "difference of another table": Threat(
        "an open difference of another table is put in place", STORAGE, [ALTERED],
        script=f"INSERT INTO {DIFFERENCE} SELECT l.ledger_id, o.difference FROM keysmith_private.ledger l, attic.of_another o "
               "WHERE l.relation = 't'::regclass"),
    "difference of a copy": Threat("a row is inserted with a difference that a restored dump made for it", STORAGE,
                                   [FOREIGN, more(1)]),
    "difference of a rollback": Threat("a transaction that was rolled back is done after all, with its difference from the disk",
                                       STORAGE, [],
                                       why="The server made the difference. Vacuum removes it"),
    "difference of the original": Threat(
        "in a restored dump, a row is inserted with a difference that its original made later", STORAGE, [],
        why="Until the restored database closes its first block"),
    "difference forged": Threat("a row is changed with a difference that is made with the stored secret", STORAGE,
                                [ALTERED, CHANGED],
                                unpeppered=[], why="Without a pepper the secret is in the database"),

    "block altered": Threat("a block is altered", STORAGE, ["block 2 was altered"],
                            script=f"UPDATE {BLOCK} SET {flip('block', 60)} WHERE number = 2"),
    "last block altered": Threat(
        "the last block is altered", STORAGE, ["block 3 was altered", AHEAD, AHEAD, differ(2), fewer(1)],
        head=FAILS, script=f"UPDATE {BLOCK} SET {flip('block', 60)} WHERE number = 3"),
    "block removed": Threat("a block is removed", STORAGE, ["block 2 is missing"], script=f"DELETE FROM {BLOCK} WHERE number = 2"),
    "first block removed": Threat("the first block is removed", STORAGE, ["block 1 is missing"],
                                  script=f"DELETE FROM {BLOCK} WHERE number = 1"),
    "blocks cut off": Threat("the last block is cut off", STORAGE, [AHEAD, AHEAD, differ(2), fewer(1)],
                             [HEAD_MISSING, AHEAD, AHEAD, differ(2), fewer(1)],
                             script=f"DELETE FROM {BLOCK} WHERE number = 3"),
    "no blocks": Threat("all blocks are removed", STORAGE, ["the ledger has no blocks"], [HEAD_MISSING, "the ledger has no blocks"],
                        head=FAILS, script=f"DELETE FROM {BLOCK}"),
    "block replayed": Threat("an earlier block is put in the place of the last", STORAGE,
                             ["block 3 was altered", "block 2 is there twice", AHEAD, AHEAD, differ(2), fewer(1)],
                             ["block 3 was altered", "block 2 is there twice", HEAD_MISSING, AHEAD, AHEAD, differ(2), fewer(1)],
                             head=FAILS,
                             script=f"UPDATE {BLOCK} b SET block = o.block FROM {BLOCK} o WHERE b.number = 3 AND o.number = 2 "
                                    "AND o.ledger_id = b.ledger_id"),

    "range altered": Threat("the stored sum of a range is altered", STORAGE, [RANGE_ALTERED, differ(3), RANGE_WRONG], head=FAILS,
                            script=f"UPDATE {RANGE} SET {flip('stored', 50)} WHERE {LOW}"),
    "range removed": Threat("the stored sum of a range is removed", STORAGE, [differ(3), RANGE_WRONG],
                            script=f"DELETE FROM {RANGE} WHERE {LOW}"),
    "range back": Threat("the stored sum of a range is put back", STORAGE, [differ(3), RANGE_WRONG],
                         script=f"UPDATE {RANGE} r SET stored = a.stored FROM attic.ledger_range a WHERE a.ledger_id = r.ledger_id "
                                f"AND a.range = r.range AND r.{LOW}"),
    "range and rows": Threat("a range is removed together with its rows", STORAGE, [differ(3), fewer(10)],
                             script=f"DELETE FROM {RANGE} WHERE NOT {LOW}; DELETE FROM t WHERE id > 5000"),
    "range and rows back": Threat("a range is put back together with its rows", STORAGE, [differ(3), TABLE_CHANGED],
                                  script=f"UPDATE {RANGE} r SET stored = a.stored FROM attic.ledger_range a WHERE a.ledger_id = "
                                         f"r.ledger_id "
                                         f"AND a.range = r.range AND NOT r.{LOW}; DELETE FROM t WHERE id > 5000; "
                                         "INSERT INTO t SELECT * FROM attic.t WHERE id > 5000"),

    "ledger back": Threat("all of keysmith_private is put back as it was before the last block", (SUPERUSER, RESTORER),
                          [CHANGED, CHANGED],
                          [HEAD_MISSING, CHANGED, CHANGED], script=put_back(*STORED)),
    "all back": Threat("the table and all of keysmith_private are put back", (SUPERUSER, RESTORER), [], [HEAD_MISSING],
                       script=put_back("t", *STORED), why=OLDER),
    "altered row": Threat("bytes of a row are changed in the table's file", (DISK,), [CHANGED]),
    "removed row": Threat("a row is removed from the table's file", (DISK,), [fewer(1)]),
    "file back": Threat("the table's file is put back as it was before the last block", (DISK,), [CHANGED, CHANGED]),
    "altered block": Threat("bytes of the last block are changed in its file", (DISK,),
                           ["block 3 was altered", AHEAD, AHEAD, differ(2), fewer(1)], head=FAILS),
    "server back": Threat("the whole data directory is put back", (DISK, RESTORER), [], [HEAD_MISSING], why=OLDER),
}


def shown(found):
    """The first two problems, in short."""
    texts = list(dict.fromkeys(text.partition(":")[0] for text in found))
    return ", ".join(f"`{text}`" for text in texts[:2]) + (", …" if texts[2:] else "") if texts else "**nothing**"


def markdown():
    lines = ["| what is done past the triggers | by | `verify_ledger` says | with a kept head | `ledger_head` |",
             "|---|---|---|---|---|"]
    for threat in THREATS.values():
        found = shown(threat.found)
        if threat.unpeppered is not None:
            found = f"with a pepper {found}, without **nothing**"
        found += f". {threat.why}" if threat.why else ""
        kept = "the same" if threat.with_head is None else shown(threat.with_head)
        lines.append(f"| {threat.act} | {', '.join(threat.by)} | {found} | {kept} | {threat.head} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
