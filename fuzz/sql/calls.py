"""Statements that call functions and read views, in every form that SQL has for it."""

FUNCTIONS = """
    SELECT p.oid, n.nspname || '.' || p.proname AS name, p.proname AS short, p.prokind::text AS kind, p.prorettype::regtype::text AS returns,
           p.provariadic <> 0 AS is_variadic, p.pronargdefaults AS defaults,
           coalesce((SELECT array_agg(t::regtype::text ORDER BY i) FROM unnest(p.proargtypes) WITH ORDINALITY u (t, i)), '{}') AS types,
           coalesce(p.proargnames[:p.pronargs], '{}') AS names,
           ARRAY(SELECT rolname::text FROM pg_roles r WHERE has_function_privilege(r.oid, p.oid, 'EXECUTE')) AS callers
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'keysmith' ORDER BY p.oid"""
VIEWS = """
    SELECT c.relname AS name, array_agg(quote_ident(a.attname) ORDER BY attnum) AS columns,
           array_agg(a.atttypid::regtype::text ORDER BY attnum) AS types
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = 'keysmith'::regnamespace AND c.relkind = 'v' GROUP BY 1 ORDER BY 1"""

# Some functions show nothing new when called often, or take long; others have more cases.
WEIGHTS = {"wait_for_replay": 0.3, "flush_usage": 0.2, "maintain": 0.3, "drop_keyspace": 0.3, "doctor": 0.3, "audit_verify": 0.3} | dict.fromkeys((
    "isolate", "release", "track", "untrack", "protect", "unprotect", "protect_existing", "seal_rows", "unseal_rows", "verify_rows",
    "ledger", "unledger", "ledger_head", "verify_ledger",
    "usage_collect", "import_key", "pre_request", "authenticate", "mint",
    "define_endpoint"), 2) | {"serve": 6}


class Calls:
    def __init__(self, draw, values, functions, views):
        self.draw, self.values, self.views = draw, values, views
        self.functions = functions
        self.weights = [WEIGHTS.get(function.short, 1) for function in functions]
        self.number = 0

    def next(self, role, is_open):
        """The functions and views, and their statements."""
        self.values.role, self.values.care = role, self.draw.choice([0.65, 0.65, 0.97])
        if self.draw.random() < 0.06:
            return self.view()
        (function,) = self.draw.choices(self.functions, self.weights)
        # Procedures commit, which they can't do within a transaction.
        while (role not in function.callers or function.kind == "p" and is_open) and self.draw.random() < 0.8:
            (function,) = self.draw.choices(self.functions, self.weights)
        if function.returns == "trigger":
            return function, self.as_trigger(function)
        if function.kind == "p":
            return function, [f"CALL {self.call(function)}"]
        if function.short == "pre_request" and self.draw.random() < 0.7:
            return function, [self.request(), *self.in_some_form(self.call(function))]
        return function, self.in_some_form(self.call(function))

    def request(self):
        """The settings that PostgREST makes for a request."""
        headers = self.values.of("jsonb", "headers")
        return "SELECT " + ", ".join(f"set_config('request.{name}', ({value})::text, false)" for name, value in (
            ("headers", headers), ("method", self.values.of("text", "method")), ("path", self.values.of("text", "path"))))

    def call(self, function):
        arguments = [self.values.of(type_name, name, function.short) for type_name, name in zip(function.types, function.names)]
        needed = len(arguments) - function.defaults
        # Usually all arguments, sometimes only some, by name.
        if function.is_variadic:
            arguments[-1] = f"VARIADIC {arguments[-1]}"
        elif self.draw.random() < 0.5:
            often = self.draw.choice([0.1, 0.3, 0.7])
            named = [f"{name} => {argument}" for n, (name, argument) in enumerate(zip(function.names, arguments))
                     if n < needed or self.draw.random() < often]
            self.draw.shuffle(named)
            return f"{function.name}({', '.join(named)})"
        else:
            arguments = arguments[:self.draw.randrange(needed, len(arguments) + 1)]
        return f"{function.name}({', '.join(arguments)})"

    def in_some_form(self, call):
        self.number += 1
        n = self.number
        return self.draw.choice([
            lambda: [f"SELECT * FROM {call}"],
            lambda: [f"SELECT * FROM {call}"],
            lambda: [f"SELECT {call}"],
            lambda: [f"SELECT {call} FROM generate_series(1, 3)"],
            lambda: [f"SELECT count(*) FROM fuzz.texts t, LATERAL {call} AS x"],
            lambda: [f"SELECT count(*) FROM fuzz.many WHERE id < 5 AND {call} IS NOT NULL"],
            lambda: [f"SELECT (SELECT to_jsonb(x) FROM {call} AS x LIMIT 1)"],
            lambda: [f"SELECT to_json({call})"],
            lambda: [f"DO $do$ BEGIN PERFORM {call}; END $do$"],
            lambda: [f"DO $do$ BEGIN PERFORM {call}; EXCEPTION WHEN OTHERS THEN PERFORM {call}; END $do$"],
            lambda: [f"DO $do$ DECLARE r record; BEGIN FOR r IN SELECT * FROM {call} LOOP EXIT; END LOOP; END $do$"],
            lambda: [f"PREPARE p{n} AS SELECT * FROM {call}", f"EXECUTE p{n}", f"EXECUTE p{n}", f"DEALLOCATE p{n}"],
            lambda: [f"DECLARE c{n} SCROLL CURSOR WITH HOLD FOR SELECT * FROM {call}", f"FETCH 1 FROM c{n}", f"FETCH ALL FROM c{n}",
                     f"FETCH BACKWARD 1 FROM c{n}", f"CLOSE c{n}"],
            lambda: [f"EXPLAIN (ANALYZE, VERBOSE, BUFFERS) SELECT * FROM {call}"],
            lambda: [f"CREATE TEMP TABLE t{n} AS SELECT 1 FROM {call}", f"DROP TABLE IF EXISTS t{n}"],
            lambda: [f"COPY (SELECT 1 FROM {call}) TO '/dev/null'"],
            lambda: ["SAVEPOINT s", f"SELECT {call}", "ROLLBACK TO s", f"SELECT {call}", "RELEASE s"],
            lambda: [f"WITH x AS MATERIALIZED (SELECT * FROM {call}) SELECT count(*) FROM x, (SELECT FROM x LIMIT 3) y"],
            lambda: [f"SELECT {call}; SELECT {call}"],
        ])()

    def as_trigger(self, function):
        self.number += 1
        table = self.draw.choice(["postgres", "verifier", "admin"]) + "_plain"
        arguments = ", ".join(self.draw.choice(["'body'", "'body=sha256'", "''", "'x'", "'row_seal'", "'tenant'", "'[1, 2]'", "'1'"])
                              for _ in range(self.draw.randrange(5)))
        when = self.draw.choice(["BEFORE INSERT OR UPDATE", "AFTER INSERT", "AFTER DELETE", "BEFORE DELETE", "AFTER UPDATE", "BEFORE TRUNCATE"])
        each = "STATEMENT" if "TRUNCATE" in when else self.draw.choice(["ROW", "STATEMENT"])
        return [f"CREATE TRIGGER z{self.number} {when} ON fuzz.{table} FOR EACH {each} EXECUTE FUNCTION {function.name}({arguments})",
                f"INSERT INTO fuzz.{table} (id, body) VALUES (1, {self.values.of('text')})",
                f"UPDATE fuzz.{table} SET body = {self.values.of('text')} WHERE id < 3", f"DELETE FROM fuzz.{table} WHERE id = 1",
                f"DROP TRIGGER IF EXISTS z{self.number} ON fuzz.{table}"]

    def view(self):
        view = self.draw.choice(self.views)
        place = self.draw.randrange(len(view.columns))
        column, name = view.columns[place], f"keysmith.{view.name}"
        known = {"uuid": "key_id", "text": "tenant"}.get(view.types[place])
        value = f"{self.draw.choice(self.values.known[known])}::{view.types[place]}" if known else f"(SELECT {column} FROM {name} LIMIT 1)"
        return view, [self.draw.choice([
            f"SELECT * FROM {name}", f"SELECT count(*) FROM {name}", f"SELECT * FROM {name} WHERE {column} = {value}",
            f"SELECT * FROM {name} ORDER BY {column} DESC NULLS LAST LIMIT 3", f"SELECT a.{column} FROM {name} a JOIN {name} b USING ({column}) LIMIT 5",
            f"SELECT to_jsonb(v) FROM {name} v", f"EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM {name}", f"TABLE {name}",
            f"DELETE FROM {name} WHERE {column} = {value}", f"SELECT * FROM {name} WHERE fuzz.peek({column}::text)",
            f"SELECT * FROM {name} FOR UPDATE", f"COPY (TABLE {name}) TO '/dev/null'"])]
