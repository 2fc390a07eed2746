"""A version that does not exist, with an object of each kind that a version can bring, so that the
road from one version to the next is tested before there are two."""

import re
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "sql"
CURRENT = re.search(r"default_version = '(.*)'", (SCRIPTS.parent / "keysmith.control").read_text())[1]
VERSION = "99.0"

# What the next statements need.
_NEEDED = """
CREATE SCHEMA keysmith_made_up;
CREATE TYPE keysmith_made_up.mood AS ENUM ('fine', 'tired');
CREATE DOMAIN keysmith_made_up.small AS integer DEFAULT 1 NOT NULL;
CREATE TYPE keysmith_made_up.pair AS (one integer, other text COLLATE "C");
CREATE SEQUENCE keysmith_made_up.number AS integer START 7 INCREMENT 3 MAXVALUE 100 CACHE 2 CYCLE;
CREATE TABLE keysmith_made_up.thing (
    id bigint GENERATED ALWAYS AS IDENTITY (START 10) PRIMARY KEY,
    n bigint NOT NULL DEFAULT nextval('keysmith_made_up.number'),
    twice bigint GENERATED ALWAYS AS (n * 2) STORED,
    name text COLLATE "C" UNIQUE,
    size keysmith_made_up.small,
    mood keysmith_made_up.mood DEFAULT 'fine',
    pair keysmith_made_up.pair,
    parent bigint REFERENCES keysmith_made_up.thing ON DELETE CASCADE) WITH (fillfactor = 70);
CREATE TABLE keysmith_made_up.past (at timestamptz NOT NULL, name text) PARTITION BY RANGE (at);
CREATE VIEW keysmith_made_up.things WITH (security_barrier) AS SELECT id, name FROM keysmith_made_up.thing;
CREATE FUNCTION keysmith_made_up.by_sql(small integer) RETURNS text STABLE LANGUAGE sql AS 'SELECT $1::text';
CREATE FUNCTION keysmith_made_up.by_plpgsql() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION keysmith_made_up.by_event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION keysmith_made_up.text_of(keysmith_made_up.pair) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT ($1).other';
CREATE FUNCTION keysmith_made_up.less(keysmith_made_up.pair, keysmith_made_up.pair) RETURNS boolean
    IMMUTABLE STRICT PARALLEL SAFE LANGUAGE sql AS 'SELECT ($1).one < ($2).one';
"""

# Each of these can be forgotten, and nothing else fails: with the object that then differs.
FORGETTABLE = [
    ("ALTER DOMAIN keysmith_made_up.small ADD CONSTRAINT below CHECK (VALUE < 10)", "type keysmith_made_up.small constraint below"),
    ("ALTER TYPE keysmith_made_up.mood ADD VALUE 'bored' BEFORE 'tired'", "type keysmith_made_up.mood"),
    ("REVOKE USAGE ON TYPE keysmith_made_up.mood FROM PUBLIC", "type keysmith_made_up.mood"),
    ("ALTER TABLE keysmith_made_up.thing ADD CHECK (name <> '')", "table keysmith_made_up.thing constraint thing_name_check"),
    ("ALTER TABLE keysmith_made_up.thing ALTER name SET STORAGE EXTERNAL", "column name"),
    ("ALTER TABLE keysmith_made_up.thing ALTER name SET STATISTICS 50", "column name"),
    ("ALTER TABLE keysmith_made_up.thing REPLICA IDENTITY FULL", "table keysmith_made_up.thing"),
    ("ALTER TABLE keysmith_made_up.thing ENABLE ROW LEVEL SECURITY", "table keysmith_made_up.thing"),
    ("CREATE POLICY own ON keysmith_made_up.thing TO PUBLIC USING (n > 0) WITH CHECK (n > 1)", "policy own"),
    ("CREATE INDEX thing_name ON keysmith_made_up.thing (lower(name)) WHERE mood = 'fine'", "index keysmith_made_up.thing_name"),
    ("CREATE STATISTICS keysmith_made_up.of_thing (dependencies) ON n, name FROM keysmith_made_up.thing", "table keysmith_made_up.thing"),
    ("CREATE TRIGGER before BEFORE INSERT ON keysmith_made_up.thing FOR EACH ROW EXECUTE FUNCTION keysmith_made_up.by_plpgsql()",
     "trigger before"),
    ("CREATE RULE none AS ON DELETE TO keysmith_made_up.thing WHERE old.n = 7 DO INSTEAD NOTHING", "rule none"),
    ("CREATE TABLE keysmith_made_up.past_old PARTITION OF keysmith_made_up.past FOR VALUES FROM (MINVALUE) TO ('2020-01-01')",
     "table keysmith_made_up.past_old"),
    ("CREATE MATERIALIZED VIEW keysmith_made_up.counted AS SELECT count(*) FROM keysmith_made_up.thing",
     "materialized view keysmith_made_up.counted"),
    ("CREATE FUNCTION keysmith_made_up.by_c() RETURNS text STABLE PARALLEL RESTRICTED LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_current_tenant'",
     "function keysmith_made_up.by_c"),
    ("CREATE PROCEDURE keysmith_made_up.proceed(INOUT n integer) LANGUAGE plpgsql AS 'BEGIN n := n + 1; END'",
     "procedure keysmith_made_up.proceed"),
    ("CREATE AGGREGATE keysmith_made_up.total(integer) (SFUNC = int4_sum, STYPE = bigint, PARALLEL = safe)", "aggregate keysmith_made_up.total"),
    ("CREATE OPERATOR keysmith_made_up.< (FUNCTION = keysmith_made_up.less, LEFTARG = keysmith_made_up.pair, RIGHTARG = keysmith_made_up.pair, RESTRICT = scalarltsel)",
     "operator keysmith_made_up.<"),
    ("CREATE CAST (keysmith_made_up.pair AS text) WITH FUNCTION keysmith_made_up.text_of(keysmith_made_up.pair)", "cast"),
    ("CREATE EVENT TRIGGER keysmith_made_up ON sql_drop WHEN TAG IN ('DROP SERVER') EXECUTE FUNCTION keysmith_made_up.by_event()",
     "event trigger keysmith_made_up"),
    ("COMMENT ON SCHEMA keysmith_made_up IS 'Made up'", "schema keysmith_made_up"),
    ("COMMENT ON COLUMN keysmith_made_up.things.name IS 'Made up'", "column name"),
    ("GRANT USAGE ON SCHEMA keysmith_made_up TO PUBLIC", "schema keysmith_made_up"),
    ("GRANT SELECT ON keysmith_made_up.things TO PUBLIC", "view keysmith_made_up.things"),
    ("GRANT UPDATE (name) ON keysmith_made_up.thing TO PUBLIC", "column name"),
    ("GRANT USAGE ON SEQUENCE keysmith_made_up.number TO PUBLIC", "sequence keysmith_made_up.number"),
    ("REVOKE EXECUTE ON FUNCTION keysmith_made_up.by_sql(integer) FROM PUBLIC", "function keysmith_made_up.by_sql"),
    ("ALTER DEFAULT PRIVILEGES IN SCHEMA keysmith_made_up GRANT SELECT ON TABLES TO PUBLIC", "schema keysmith_made_up"),
    ("SELECT pg_catalog.pg_extension_config_dump('keysmith_made_up.thing', 'WHERE id > 1')", "extension"),
    ("SELECT pg_catalog.pg_extension_config_dump('keysmith_made_up.number', '')", "extension"),
    # Of what there is already.
    ("ALTER TABLE keysmith_private.tenant ADD CONSTRAINT made_up CHECK (name <> 'made up')",
     "table keysmith_private.tenant constraint made_up"),
    ("CREATE INDEX made_up ON keysmith_private.key (label)", "index keysmith_private.made_up"),
    ("CREATE OR REPLACE FUNCTION keysmith.untrack(relation regclass) RETURNS void LANGUAGE sql AS 'SELECT'",
     "function keysmith.untrack(pg_catalog.regclass)"),
]
# An upgrade takes existing data along.
ROWS = "INSERT INTO keysmith_made_up.thing (name) SELECT name FROM keysmith_private.tenant GROUP BY name ORDER BY name"


def script(but=None):
    """The statements that lead to the made-up version, but one."""
    return _NEEDED + "".join(f"{statement};\n" for statement, _ in FORGETTABLE if statement != but)


def install(extensions, versions=None):
    """Writes the scripts of made-up versions: their install script, and their upgrade. Each is
    the same version, and reached by another upgrade."""
    current = (SCRIPTS / f"keysmith--{CURRENT}.sql").read_text()
    for version, upgrade in (versions or {VERSION: f"{script()}{ROWS};\n"}).items():
        (extensions / f"keysmith--{version}.sql").write_text(current + script())
        (extensions / f"keysmith--{CURRENT}--{version}.sql").write_text(upgrade)
