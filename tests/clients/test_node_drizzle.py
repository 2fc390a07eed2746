"""Drizzle: what drizzle-kit does to isolated tables, and to the policies that a schema declares."""

import pytest

import examples
import test_docs
from node_project import ROOT, Project, url

KINDS = """
import { pgPolicy, pgSchema, pgTable, text, uuid, varchar } from 'drizzle-orm/pg-core';
import { sql } from 'drizzle-orm';
import { isolated } from 'keysmith/drizzle';

export const plain = pgTable('plain', { tenantId: uuid('tenant_id') }, t => isolated(t.tenantId));
export const strict = pgTable('strict', { id: uuid() }, t => isolated(t.id, { strict: true }));
export const named = pgTable('named', { tenant: text() }, t => isolated(t.tenant, { keyspace: 'my-shop_1' }));
export const bounded = pgTable('Bounded by', { order: varchar({ length: 200 }) },
  t => isolated(t.order, { keyspace: 'default', strict: true }));
export const kept = pgTable('kept', { id: uuid(), Env: text() }, t => isolated(t.id, { environmentColumn: t.Env }));
export const all = pgTable('all', { t: text(), env: varchar({ length: 9 }) },
  t => isolated(t.t, { keyspace: 'default', environmentColumn: t.env, strict: true }));
export const own = pgTable('own', { id: uuid() },
  t => [...isolated(t.id, { access: false }), pgPolicy('own', { using: sql`true` })]);
export const schema = pgSchema('other');
export const other = schema.table('plain', { id: uuid() }, t => isolated(t.id));
"""

ISOLATE_KINDS = """
SELECT keysmith.isolate('plain', 'tenant_id');
SELECT keysmith.isolate('strict', 'id', strict => true);
SELECT keysmith.isolate('named', 'tenant', 'my-shop_1');
SELECT keysmith.isolate('"Bounded by"', 'order', 'default', strict => true);
SELECT keysmith.isolate('kept', 'id', environment_column => 'Env');
SELECT keysmith.isolate('"all"', 't', 'default', 'env', true);
SELECT keysmith.isolate('own', 'id');
SELECT keysmith.isolate('other.plain', 'id');
"""


TYPES = """
import { defineConfig } from 'drizzle-kit';
import { drizzle } from 'drizzle-orm/node-postgres';
import { pgPolicy, pgTable, text, uuid } from 'drizzle-orm/pg-core';
import { currentTenantId, filters, isolate, isolated } from 'keysmith/drizzle';

export const photo = pgTable('photo', {
  tenantId: uuid('tenant_id').notNull().default(currentTenantId()),
  environment: text('environment'),
}, t => [
  ...isolated(t.tenantId, { keyspace: 'default', environmentColumn: t.environment, strict: true, access: false }),
  pgPolicy('own'),
]);
export default defineConfig({ ...filters, dialect: 'postgresql', dbCredentials: { url: '' } });
void isolate(drizzle(''), { photo });
"""

IN_A_REQUEST = """
import { drizzle } from 'drizzle-orm/node-postgres';
import { transaction } from 'keysmith';
import pg from 'pg';
import * as schema from './schema.js';

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
const headers = { authorization: 'Bearer %s' };
await transaction(pool, { headers, method: 'GET', path: '/' }, async caller => {
  const request = { keysmith: caller };
  %s
  console.log(photos.map(({ id, name }) => ({ id, name })));
});
await pool.end();
"""


@pytest.fixture
def owner(cluster, dbname, db):
    """A role that migrates: it owns the tables, and is no superuser."""
    role = f"owner_of_{dbname}"
    db.rows(f"CREATE ROLE {role} LOGIN")
    db.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
    db.rows(f"GRANT CREATE ON DATABASE {dbname} TO {role}")
    db.call("grant_access", role, "verifier")
    db.rows(f"GRANT EXECUTE ON FUNCTION keysmith.isolate TO {role}")
    yield role
    cluster.execute(f"DROP OWNED BY {role}", dbname)
    cluster.execute(f"DROP ROLE {role}")


@pytest.fixture
def project(cluster, dbname, owner, tmp_path):
    return Project(tmp_path, "trial_node", url(cluster, dbname, owner))


@pytest.fixture
def photo(connect, owner):
    """An isolated table that was made without Drizzle."""
    session = connect()
    session.execute(f"SET ROLE {owner}")
    session.execute("CREATE TABLE photo (id serial PRIMARY KEY,"
                    " tenant_id uuid NOT NULL DEFAULT keysmith.current_tenant_id(), name text NOT NULL)")
    session.execute("CREATE INDEX photo_tenant ON photo (tenant_id)")
    session.execute("SELECT keysmith.isolate('photo', 'tenant_id')")


def policies(db):
    return db.rows("SELECT * FROM pg_policies WHERE schemaname IN ('public', 'other') ORDER BY 1, 2, 3")


def isolation(db):
    return {row.relation: (row.enabled, row.forced, row.problem) for row in db.rows("SELECT * FROM keysmith.isolation")}


SOUND = (True, True, None)


def undeclare(project):
    project.edit("schema.js", "  ...isolated(table.tenantId),\n", "")


# Policies that a schema does not declare. If these tests fail, drizzle-kit has improved.

@pytest.mark.parametrize("options", [[], ["--force"]], ids=["asked", "forced"])
def test_push_drops_isolation_that_is_not_declared(db, photo, project, options):
    undeclare(project)
    before = policies(db)
    project.run("drizzle-kit", "push", *options)
    assert policies(db) == []
    assert isolation(db) == {"photo": (False, True, "it was isolated, and no longer is: every reader sees all rows")}
    assert any("no longer is" in row.finding for row in db.findings())
    db.call("isolate", "photo", "tenant_id")
    assert isolation(db) == {"photo": SOUND} and policies(db) == before


def test_push_writes_new_policies_without_their_conditions(db, project, owner):
    project.run("drizzle-kit", "push")
    assert {(row.policyname, row.qual) for row in policies(db)} == {("keysmith_tenant", None), ("keysmith_access", None)}
    assert isolation(db) == {}
    assert any("which does not know it" in row.finding for row in db.findings())


def test_a_new_table_is_open_only_to_its_owner_until_it_is_isolated(db, project, owner):
    project.run("drizzle-kit", "push")
    db.rows("INSERT INTO photo (tenant_id, name) VALUES (gen_random_uuid(), 'x')")
    db.rows(f"CREATE ROLE reader_of_{owner}")
    db.rows(f"GRANT SELECT ON photo TO reader_of_{owner}")
    try:
        db.rows(f"SET ROLE {owner}")
        assert db.value("SELECT count(*) FROM photo") == 1
        db.rows(f"SET ROLE reader_of_{owner}")
        assert db.value("SELECT count(*) FROM photo") == 0
    finally:
        db.rows("RESET ROLE")
        db.rows(f"DROP OWNED BY reader_of_{owner}")
        db.rows(f"DROP ROLE reader_of_{owner}")


def test_push_fails_with_success(db, photo, project):
    project.edit("schema.js", "text('name')", "uuid('name')")
    assert "cannot be cast automatically to type uuid" in project.run("drizzle-kit", "push", "--force")


def test_pull_forgets_conditions(photo, project):
    project.run("drizzle-kit", "pull")
    pulled = (project.folder / "migrations/schema.ts").read_text()
    assert pulled.count("pgPolicy(") == 2 and pulled.count("using: sql") == 1


def test_migrations_of_what_is_isolated_already_fail(db, photo, project):
    project.run("drizzle-kit", "generate", "--name=photo")
    migration = project.folder / "migrations/0000_photo.sql"
    text = migration.read_text()
    assert text.count("CREATE POLICY") == 2
    migration.write_text(text[text.index("ALTER TABLE"):].replace("CREATE INDEX", "CREATE INDEX IF NOT EXISTS"))
    with pytest.raises(AssertionError, match="drizzle-kit"):
        project.run("drizzle-kit", "migrate")
    migration.write_text("SELECT 1;")
    project.run("drizzle-kit", "migrate")
    assert isolation(db) == {"photo": SOUND}


# Declared policies.

@pytest.mark.parametrize("options", [[], ["--force"]], ids=["asked", "forced"])
def test_push_leaves_declared_isolation_alone(db, photo, project, options):
    before = policies(db)
    assert "No changes detected" in project.run("drizzle-kit", "push", *options)
    assert isolation(db) == {"photo": SOUND} and policies(db) == before
    project.edit("schema.js", "  name:", "  size: text('size'),\n  name:")
    assert "Changes applied" in project.run("drizzle-kit", "push", *options)
    assert db.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'photo'::regclass AND attname = 'size'") == 1
    assert isolation(db) == {"photo": SOUND} and policies(db) == before


def test_isolate_completes_what_push_has_made(db, project):
    project.run("drizzle-kit", "push")
    project.run("node", "isolate.js")
    assert isolation(db) == {"photo": SOUND}
    made = policies(db)
    db.call("isolate", "photo", "tenant_id")
    assert policies(db) == made
    assert "No changes detected" in project.run("drizzle-kit", "push")
    assert isolation(db) == {"photo": SOUND} and policies(db) == made


def test_isolate_applies_a_changed_declaration(db, photo, project):
    project.edit("schema.js", "isolated(table.tenantId)", "isolated(table.tenantId, { strict: true })")
    assert "No changes detected" in project.run("drizzle-kit", "push")
    assert not db.value("SELECT strict FROM keysmith.isolation")
    project.run("node", "isolate.js")
    assert db.value("SELECT strict AND ok FROM keysmith.isolation")


def test_migrations_from_an_empty_database(cluster, db, owner, project):
    db.rows("DROP EXTENSION keysmith")
    db.rows(f"ALTER ROLE {owner} SUPERUSER")
    project.run("drizzle-kit", "generate", "--custom", "--name=keysmith")
    project.edit("migrations/0000_keysmith.sql", "-- Custom", "CREATE EXTENSION keysmith;\n-- Custom")
    project.run("drizzle-kit", "generate", "--name=photo")
    project.run("drizzle-kit", "migrate")
    db.rows(f"ALTER ROLE {owner} NOSUPERUSER")
    db.call("grant_access", owner, "verifier")
    db.rows(f"GRANT EXECUTE ON FUNCTION keysmith.isolate TO {owner}")
    generated = policies(db)
    project.run("node", "migrate.js")
    assert isolation(db) == {"photo": SOUND} and policies(db) == generated
    assert "No changes detected" in project.run("drizzle-kit", "push")
    project.edit("schema.js", "  name:", "  size: text('size'),\n  name:")
    project.run("drizzle-kit", "generate", "--name=size")
    assert (project.folder / "migrations/0002_size.sql").read_text() == 'ALTER TABLE "photo" ADD COLUMN "size" text;'
    assert "Everything's fine" in project.run("drizzle-kit", "check")
    project.run("node", "migrate.js")
    assert isolation(db) == {"photo": SOUND} and policies(db) == generated


def test_isolation_in_a_custom_migration(db, project):
    project.run("drizzle-kit", "generate", "--name=photo")
    project.run("drizzle-kit", "generate", "--custom", "--name=isolate")
    (project.folder / "migrations/0001_isolate.sql").write_text("SELECT keysmith.isolate('photo', 'tenant_id');")
    project.run("drizzle-kit", "migrate")
    assert isolation(db) == {"photo": SOUND}


def test_every_kind_of_isolation_is_written_as_isolate_does(db, project, connect, owner):
    (project.folder / "schema.js").write_text(KINDS)
    project.edit("drizzle.config.js", "  ...filters,", "  ...filters,\n  schemaFilter: ['public', 'other'],")
    project.run("drizzle-kit", "generate")
    project.run("drizzle-kit", "migrate")
    generated = policies(db)
    assert len(generated) == 16
    session = connect()
    session.execute(f"SET ROLE {owner}")
    for statement in ISOLATE_KINDS.strip().splitlines():
        session.execute(statement)
    assert policies(db) == generated
    before = db.rows("SELECT * FROM keysmith.isolation")
    assert len(before) == 8 and all(row.ok for row in before)
    project.run("node", "isolate.js")
    assert policies(db) == generated and db.rows("SELECT * FROM keysmith.isolation") == before
    assert "No changes detected" in project.run("drizzle-kit", "push")


def test_isolate_follows_the_case_of_columns(db, project):
    project.edit("schema.js", "uuid('tenant_id')", "uuid()")
    project.edit("drizzle.config.js", "  ...filters,", "  ...filters,\n  casing: 'snake_case',")
    project.edit("isolate.js", "drizzle(process.env.DATABASE_URL)", "drizzle(process.env.DATABASE_URL, { casing: 'snake_case' })")
    project.run("drizzle-kit", "push")
    project.run("node", "isolate.js")
    assert isolation(db) == {"photo": SOUND}


def test_the_schemas_of_the_extension_are_left_alone(db, photo, project, owner):
    db.rows(f"ALTER ROLE {owner} SUPERUSER")
    assert "No changes detected" in project.run("drizzle-kit", "push", "--force")
    project.run("drizzle-kit", "pull")
    pulled = (project.folder / "migrations/schema.ts").read_text()
    assert pulled.count("pgTable(") == 1 and "pgSchema" not in pulled
    db.rows(f"ALTER ROLE {owner} NOSUPERUSER")


def test_the_recipe(cluster, dbname, db, project):
    """Every block of the recipe, as a reader would run it."""
    blocks = test_docs.fences(test_docs.section((ROOT / "docs/recipes.md").read_text(), "Drizzle"))
    setup, check = [block.text for block in blocks if block.info == "sql"]
    *files, request = [block.text for block in blocks if block.info == "js"]
    push, generate = [block.text for block in blocks if block.info == "sh"]
    for text in files:
        (project.folder / text.split()[1]).write_text(text)
    assert {text.split()[1] for text in files} == {"schema.js", "drizzle.config.js", "isolate.js"}
    db.rows("DROP EXTENSION keysmith")
    try:
        cluster.psql(setup, dbname=dbname)
        project.environment["DATABASE_URL"] = url(cluster, dbname, "gallery_owner")
        project.run("bash", "-ec", push)
        assert isolation(db) == {"photo": SOUND} and db.rows(check) == []
        made = policies(db)
        db.rows(f"GRANT CREATE ON DATABASE {dbname} TO gallery_owner")
        db.rows("DROP TABLE photo")
        project.run("bash", "-ec", generate)
        assert isolation(db) == {"photo": SOUND} and db.rows(check) == [] and policies(db) == made
        project.environment["DATABASE_URL"] = url(cluster, dbname, "gallery_app")
        db.tenant()
        assert project.node(IN_A_REQUEST % (db.mint().api_key, request)) == "[ { id: 1, name: 'sunset' } ]\n"
    finally:
        for role in "gallery_owner", "gallery_app":
            cluster.execute(f"DROP OWNED BY {role}", dbname)
            cluster.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("call, message", [
    ("isolated(t.name)", "keyspace must be given where tenants are named by text"),
    ("isolated(t.name, { keyspace: \"x'; --\" })", "keyspace must have 1 to 63 characters"),
    ("isolated(t.name, { keyspace: 'default', environment: t.name })", "there is no option environment, only keyspace, env"),
    ("isolated(t.name, { keyspace: 'default', environmentColumn: t.missing })", "environmentColumn is undefined"),
    ("isolated(t.missing)", "tenantColumn is undefined"),
    ("isolated(t.id)", "the tenant's column must be of type uuid, text or varchar, and id is serial"),
])
def test_a_wrong_declaration_is_an_error(project, call, message):
    printed = project.node(f"""
        import {{ getTableConfig, pgTable, serial, text }} from 'drizzle-orm/pg-core';
        import {{ isolated }} from 'keysmith/drizzle';
        const table = pgTable('x', {{ id: serial(), name: text() }}, t => {call});
        try {{ getTableConfig(table); }} catch (error) {{ console.log(error.name, error.message); }}""")
    assert printed.startswith(f"TypeError {message}"), printed


@pytest.mark.parametrize("sample", ["sample.mts", "sample.cts"])
def test_the_types_fit_those_of_drizzle(project, sample):
    check = ["tsc", "--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--types", "", sample]
    (project.folder / sample).write_text(TYPES)
    project.run(*check)
    project.edit(sample, "strict: true", "stric: true")
    assert "'stric' does not exist" in project.run(*check, check=False)


# The trial: an application with photos of each tenant, and keys that customers manage.

@pytest.fixture
def app(cluster, dbname, db, owner, project):
    """The application, as a role that is not the owner."""
    role = f"app_of_{dbname}"
    db.rows(f"CREATE ROLE {role} LOGIN")
    try:
        project.run("drizzle-kit", "push")
        project.run("node", "isolate.js")
        cluster.program("psql", "-X", "-v", "ON_ERROR_STOP=1", "-v", f"app={role}", "-f", project.folder / "setup.sql", dbname=dbname)
        project.environment |= {"DATABASE_URL": url(cluster, dbname, role), "PORT": str(examples.free_port())}
        with project.listening("node", "app.js"):
            yield examples.Rest(int(project.environment["PORT"]))
    finally:
        cluster.execute(f"DROP OWNED BY {role}", dbname)
        cluster.execute(f"DROP ROLE {role}")


@pytest.fixture
def keys(db):
    return {tenant: (db.tenant(tenant), db.mint(tenant).api_key)[1] for tenant in ("acme", "globex")}


def test_photos_are_their_tenants(app, keys):
    made = app.send("POST", "/photos", keys["acme"], {"name": "sunset"})
    assert (made.status, made.body) == (201, {"id": 1, "name": "sunset"})
    assert app.send("GET", "/photos", keys["globex"]).body == []
    assert app.send("GET", "/photos/1", keys["globex"]).status == 404
    assert app.send("PATCH", "/photos/1", keys["globex"], {"name": "mine"}).status == 404
    assert app.send("DELETE", "/photos/1", keys["globex"]).status == 404
    assert app.send("PATCH", "/photos/1", keys["acme"], {"name": "dawn"}).body == {"id": 1, "name": "dawn"}
    assert app.send("GET", "/photos/1", keys["acme"]).body == {"id": 1, "name": "dawn"}
    assert app.send("DELETE", "/photos/1", keys["acme"]).status == 200
    assert app.send("GET", "/photos", keys["acme"]).body == []
    assert app.send("GET", "/photos").status == 401


def test_customers_manage_their_keys(app, keys):
    made = app.send("POST", "/keys", keys["acme"], {"label": "CI", "scopes": ["photos:read"]})
    assert made.status == 201
    assert app.send("GET", "/photos", made.body["api_key"]).status == 200
    refused = app.send("POST", "/photos", made.body["api_key"], {"name": "x"})
    assert (refused.status, refused.code) == (403, "insufficient_scope")
    assert app.send("GET", f"/keys/{made.body['key_id']}", keys["globex"]).status == 404
    assert app.send("DELETE", f"/keys/{made.body['key_id']}", keys["acme"]).status == 200
    assert app.send("GET", "/photos", made.body["api_key"]).status == 401


def test_answers_have_limits_and_are_logged_with_their_status(app, keys, db):
    found = app.send("GET", "/photos", keys["acme"])
    assert "RateLimit" in found.headers, found.headers.items()
    app.send("GET", "/photos/7", keys["acme"])
    app.send("POST", "/photos", keys["acme"], {})
    app.send("POST", "/photos", keys["acme"], {"name": "x"})
    db.call("flush_usage")
    statuses = db.rows("SELECT method, status FROM keysmith.usage ORDER BY at")
    assert statuses == [("GET", 200), ("GET", 404), ("POST", 400), ("POST", 201)]


def test_no_log_of_drizzle_has_a_key(app, keys, project):
    app.send("POST", "/photos", keys["acme"], {"name": "sunset"})
    secret = app.send("POST", "/keys", keys["acme"], {"label": "CI"}).body["api_key"]
    app.send("GET", "/photos", secret)
    log = project.log.read_text()
    assert "Query: insert into" in log and "sunset" in log and "keysmith.serve" not in log
    assert keys["acme"] not in log and secret not in log


NESTED = """
import { drizzle } from 'drizzle-orm/node-postgres';
import { transaction } from 'keysmith';
import pg from 'pg';
import { photo } from './schema.js';

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
const headers = { authorization: `Bearer ${process.argv[1]}` };
const fails = name => async tx => { await tx.insert(photo).values({ name }); throw new Error('undone'); };
const ignored = () => {};
await transaction(pool, { headers, method: 'GET', path: '/photos' }, async caller => {
  const db = drizzle(caller.client);
  await db.insert(photo).values({ name: 'outer' });
  await db.transaction(fails('rolled back')).catch(ignored);
  await db.transaction(async tx => {
    await tx.insert(photo).values({ name: 'nested' });
    await tx.transaction(fails('deep')).catch(ignored);
    await tx.transaction(inner => inner.insert(photo).values({ name: 'deeper' }));
  });
  await db.transaction(tx => tx.rollback()).catch(ignored);
  await db.execute('COMMIT').catch(error => console.log(error.cause?.message ?? error.message));
});
await pool.end();
"""


def test_transactions_of_drizzle_nest_in_the_requests(app, keys, project):
    assert "is not the application's" in project.node(NESTED, keys["acme"])
    assert [row["name"] for row in app.send("GET", "/photos", keys["acme"]).body] == ["outer", "nested", "deeper"]
