"""The objects of an extension, to compare two databases.
An object is described by facets: for a table its columns, constraints and privileges, for a
function its definition. No facet depends on OIDs or on times, so that two equal installations
have equal descriptions.
"""

from psycopg.rows import tuple_row

# The members, and the objects that belong to them without being members.
_MEMBERS = """
    WITH extension AS (SELECT * FROM pg_extension WHERE extname = 'keysmith'),
    member AS (
        SELECT d.classid, d.objid, i.type || ' ' || i.identity AS object
        FROM extension e
        JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
            AND d.deptype = 'e'
        CROSS JOIN pg_identify_object(d.classid, d.objid, 0) i),
    relation AS (
        SELECT m.object, c.* FROM member m JOIN pg_class c
        ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
        OR m.classid = 'pg_type'::regclass AND m.objid = c.reltype AND c.relkind = 'c')
"""

def _privileges(kind, acl, owner):
    """Null means the default privileges, and their order has no meaning."""
    return f"""(SELECT string_agg(item::text, ', ' ORDER BY item::text)
                FROM unnest(coalesce({acl}, acldefault({kind}, {owner}))) item)"""


_KIND = """(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char\""""

# Each gives (object, facet, value).
_FACETS = [
    # That the object exists, and facets of every kind of object.
    """SELECT m.object, 'comment', obj_description(m.objid, c.relname) FROM member m
       JOIN pg_class c ON c.oid = m.classid""",
    """SELECT m.object || coalesce(' column ' || a.attname, ''), 'initial privileges', p.initprivs::text
       FROM member m JOIN pg_init_privs p ON p.classoid = m.classid AND p.objoid = m.objid
       LEFT JOIN pg_attribute a ON p.objsubid > 0 AND a.attrelid = m.objid AND a.attnum = p.objsubid""",
    """SELECT 'extension', what, value FROM extension, LATERAL (VALUES
           ('version', extversion), ('schema', extnamespace::regnamespace::text),
           ('can be moved', extrelocatable::text)) facets (what, value)""",
    """SELECT 'extension', 'dump list: ' || d.relation::regclass, 'WHERE ' || d.condition
       FROM extension, unnest(extconfig, extcondition) d (relation, condition)""",

    f"""SELECT m.object, what, value FROM member m JOIN pg_namespace n
       ON m.classid = 'pg_namespace'::regclass AND n.oid = m.objid, LATERAL (VALUES
           ('owner', nspowner::regrole::text),
           ('privileges', {_privileges("'n'", 'nspacl', 'nspowner')})) facets (what, value)""",
    """SELECT n.object, 'default privileges of ' || d.defaclobjtype::text, d.defaclacl::text
       FROM member n JOIN pg_default_acl d
       ON n.classid = 'pg_namespace'::regclass AND d.defaclnamespace = n.objid""",

    f"""SELECT m.object, what, value FROM member m JOIN pg_proc p
       ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid, LATERAL (VALUES
           ('definition', CASE WHEN prokind <> 'a' THEN pg_get_functiondef(p.oid) END), ('owner', proowner::regrole::text),
           ('privileges', {_privileges("'f'", 'proacl', 'proowner')})) facets (what, value)""",
    """SELECT m.object, 'definition of an aggregate', ROW(
           aggkind, aggnumdirectargs, aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn, aggmtransfn, aggminvtransfn,
           aggmfinalfn, aggfinalextra, aggfinalmodify, aggsortop::regoperator, aggtranstype::regtype, aggtransspace, agginitval,
           proparallel, pg_get_function_arguments(p.oid))::text
       FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid JOIN pg_aggregate ON aggfnoid = p.oid""",

    """SELECT m.object, what, value FROM member m JOIN pg_operator o
       ON m.classid = 'pg_operator'::regclass AND o.oid = m.objid, LATERAL (VALUES
           ('owner', oprowner::regrole::text),
           ('definition', ROW(oprcode::regprocedure, oprcom::regoperator, oprnegate::regoperator, oprcanmerge, oprcanhash,
                              oprrest, oprjoin)::text)) facets (what, value)""",
    """SELECT m.object, 'definition', ROW(castfunc::regprocedure, castcontext, castmethod)::text
       FROM member m JOIN pg_cast c ON m.classid = 'pg_cast'::regclass AND c.oid = m.objid""",
    """SELECT m.object, what, value FROM member m JOIN pg_event_trigger e
       ON m.classid = 'pg_event_trigger'::regclass AND e.oid = m.objid, LATERAL (VALUES
           ('owner', evtowner::regrole::text),
           ('definition', ROW(evtevent, evtfoid::regprocedure, evtenabled, evttags)::text)) facets (what, value)""",

    f"""SELECT m.object, what, value FROM member m JOIN pg_type t
       ON m.classid = 'pg_type'::regclass AND t.oid = m.objid, LATERAL (VALUES
           ('kind', typtype::text), ('owner', typowner::regrole::text),
           ('privileges', {_privileges("'T'", 'typacl', 'typowner')}), ('base', format_type(typbasetype, typtypmod)),
           ('default', typdefault), ('not null', typnotnull::text)) facets (what, value)""",
    """SELECT m.object, 'labels', string_agg(enumlabel, ', ' ORDER BY enumsortorder)
       FROM member m JOIN pg_enum e ON m.classid = 'pg_type'::regclass AND e.enumtypid = m.objid
       GROUP BY m.object""",

    f"""SELECT object, what, value FROM relation r, LATERAL (VALUES
           ('kind', relkind::text), ('owner', relowner::regrole::text),
           ('privileges', {_privileges(_KIND, 'relacl', 'relowner')}),
           ('options', reloptions::text), ('persistence', relpersistence::text),
           ('replica identity', relreplident::text),
           ('row security', relrowsecurity || ', forced: ' || relforcerowsecurity),
           ('access method', (SELECT amname FROM pg_am WHERE oid = relam)),
           ('partitioned', CASE WHEN relkind = 'p' THEN pg_get_partkeydef(oid) END),
           ('parents', (SELECT string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = oid)),
           ('bound', pg_get_expr(relpartbound, oid)),
           ('view', CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END)
       ) facets (what, value) WHERE relkind <> 'c'""",
    # Also by number, because the library reads columns by number. Some builds of PostgreSQL add
    # to each column an option whose number differs at every creation.
    """SELECT r.object || ' column ' || attname, what, value
       FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND attnum > 0 AND NOT attisdropped
       LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = attnum, LATERAL (VALUES
           ('number', attnum::text), ('type', format_type(atttypid, atttypmod)),
           ('not null', attnotnull::text), ('default', pg_get_expr(adbin, adrelid)),
           ('generated', attgenerated::text || attidentity::text), ('collation', attcollation::regcollation::text),
           ('storage', attstorage::text || attcompression::text), ('options', (SELECT string_agg(option, ', ' ORDER BY option) FROM unnest(attoptions) option
                        WHERE NOT starts_with(option, 'pg_attver='))),
           ('statistics', nullif(attstattarget, -1)::text), ('privileges', attacl::text), ('comment', col_description(r.oid, attnum))
       ) facets (what, value)""",
    """SELECT r.object || ' index ' || i.indexrelid::regclass, what, value
       FROM relation r JOIN pg_index i ON i.indrelid = r.oid
       JOIN pg_class c ON c.oid = i.indexrelid, LATERAL (VALUES
           ('definition', pg_get_indexdef(i.indexrelid)), ('options', c.reloptions::text),
           ('used', indisvalid || ', replica identity: ' || indisreplident || ', clustered: ' || indisclustered),
           ('comment', obj_description(i.indexrelid, 'pg_class'))) facets (what, value)""",
    # From 18 on, NOT NULL is a constraint too; it is compared with the columns.
    """SELECT coalesce(r.object, m.object) || ' constraint ' || conname, what, value
       FROM pg_constraint c LEFT JOIN relation r ON conrelid = r.oid
       LEFT JOIN member m ON m.classid = 'pg_type'::regclass AND contypid = m.objid, LATERAL (VALUES
           ('definition', pg_get_constraintdef(c.oid)),
           ('comment', obj_description(c.oid, 'pg_constraint'))) facets (what, value)
       WHERE coalesce(r.object, m.object) IS NOT NULL AND contype <> 'n'""",
    """SELECT r.object || ' trigger ' || tgname, what, value
       FROM relation r JOIN pg_trigger t ON tgrelid = r.oid AND NOT tgisinternal, LATERAL (VALUES
           ('definition', pg_get_triggerdef(t.oid)), ('enabled', tgenabled::text),
           ('comment', obj_description(t.oid, 'pg_trigger'))) facets (what, value)""",
    """SELECT r.object || ' policy ' || polname, what, value
       FROM relation r JOIN pg_policy p ON polrelid = r.oid, LATERAL (VALUES
           ('for', polcmd::text || polpermissive::text || polroles::regrole[]::text),
           ('using', pg_get_expr(polqual, polrelid)), ('check', pg_get_expr(polwithcheck, polrelid)),
           ('comment', obj_description(p.oid, 'pg_policy'))) facets (what, value)""",
    """SELECT r.object || ' rule ' || rulename, 'definition', pg_get_ruledef(u.oid)
       FROM relation r JOIN pg_rewrite u ON ev_class = r.oid AND rulename <> '_RETURN'""",
    """SELECT r.object, 'sequence', ROW(seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin,
                                        seqcache, seqcycle)::text
       FROM relation r JOIN pg_sequence s ON s.seqrelid = r.oid""",
    """SELECT r.object, 'statistics ' || stxname, pg_get_statisticsobjdef(s.oid)
       FROM relation r JOIN pg_statistic_ext s ON stxrelid = r.oid""",
]

# An object of another class would be compared only by its comment.
_KNOWN = {"pg_cast", "pg_class", "pg_event_trigger", "pg_namespace", "pg_operator", "pg_proc", "pg_type"}


def describe(connection):
    """{(object, facet): value} of all objects of the extension in a database."""
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        # Names include their schemas.
        cursor.execute("SET LOCAL search_path = pg_catalog")
        members = cursor.execute(
            f"{_MEMBERS} SELECT m.object, m.classid::regclass::text FROM member m").fetchall()
        unknown = [name for name, classid in members if classid not in _KNOWN]
        assert members and not unknown, f"how are these compared? {unknown}"
        described = {}
        for facet in _FACETS:
            for name, what, value in cursor.execute(_MEMBERS + facet):
                assert (name, what) not in described, f"two of {name}: {what}"
                described[name, what] = value
    return described


def differences(found, expected):
    """A line for each facet that differs, empty if all are equal."""
    lines = []
    names_found, names_expected = ({name for name, _ in side} for side in (found, expected))
    lines += [f"{name} is missing" for name in sorted(names_expected - names_found)]
    lines += [f"{name} should not be there" for name in sorted(names_found - names_expected)]
    both = names_found & names_expected
    for name, what in sorted(key for key in found.keys() | expected.keys() if key[0] in both):
        one, other = found.get((name, what)), expected.get((name, what))
        if one != other:
            lines.append(f"{name}: its {what} is {one!r}, and should be {other!r}")
    return lines
