-- Everything that the extension offers. A change here is a change for its users.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS keysmith CASCADE;
RESET client_min_messages;
CREATE EXTENSION keysmith;

\pset format unaligned
\pset tuples_only on
SELECT p.proname || E'\n    ('
       || replace(pg_get_function_arguments(p.oid), ', ', E',\n     ') || E')\n    RETURNS '
       || pg_get_function_result(p.oid)
FROM pg_proc p
WHERE pronamespace = 'keysmith'::regnamespace
ORDER BY proname, pg_get_function_arguments(p.oid) COLLATE "C";
\pset tuples_only off
\pset format aligned

\d keysmith_private.minted
\d keysmith_private.verdict
\d keysmith.keys
