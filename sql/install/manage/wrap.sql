-- Text for people who use psql: a screen of 100 columns.

-- Breaks a text at spaces into lines of at most so many characters. A longer word stays whole, and
-- so does what stands in quotes: a statement means the same afterwards. Line breaks stay.
CREATE FUNCTION keysmith_private.wrapped(text text, width integer) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lines text := '';
    line  text := '';
    space text;
    word  text;
BEGIN
    FOR space, word IN
        SELECT m[1], m[2]
        FROM regexp_matches(text, $re$(\s*)((?:[^\s'"]|'[^']*'|"[^"]*")+|['"])$re$, 'g') AS m
    LOOP
        IF space LIKE E'%\n%' OR space <> '' AND line <> '' AND length(line || space || word) > width THEN
            lines := lines || line || E'\n';
            line := word;
        ELSE
            line := line || space || word;
        END IF;
    END LOOP;
    RETURN lines || line;
END $$;
COMMENT ON FUNCTION keysmith_private.wrapped(text, integer) IS
'Breaks a text into lines, at spaces outside of quotes';
