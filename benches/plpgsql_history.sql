-- The usual way to show tampering: a chain in plpgsql, as a careful team writes it. A row trigger
-- appends each change to a history table, with the SHA-256 of the change and of the entry before.
-- It keeps whole rows, so it can say what was changed. Anyone can compute its hashes, so its end must
-- be kept elsewhere. It avoids what would slow it down: it qualifies names instead of setting a search
-- path, locks without writing, and finds the end of the chain by its primary key.

CREATE TABLE chained (LIKE plain INCLUDING ALL);

CREATE TABLE history (
    entry   bigint PRIMARY KEY,
    at      timestamptz NOT NULL,
    action  text NOT NULL,
    id      bigint NOT NULL,
    -- The row after the change, or before a DELETE.
    content jsonb NOT NULL,
    hash    bytea NOT NULL
);
CREATE INDEX history_of_row ON history (id, entry);

CREATE FUNCTION history_hash(before bytea, entry bigint, at timestamptz, action text, content jsonb) RETURNS bytea
LANGUAGE sql STABLE RETURN sha256(before || convert_to(
    concat_ws(' ', entry, extract(epoch FROM at), action, content), 'UTF8'));

CREATE FUNCTION append_history() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed public.chained := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    next    public.history;
    last    public.history;
BEGIN
    -- A chain has one end: others wait until this transaction ends, and then see its entries.
    PERFORM pg_catalog.pg_advisory_xact_lock(1);
    SELECT h.* INTO last FROM public.history h ORDER BY h.entry DESC LIMIT 1;
    next.entry := coalesce(last.entry, 0) + 1;
    next.at := pg_catalog.clock_timestamp();
    next.content := pg_catalog.to_jsonb(changed);
    INSERT INTO public.history (entry, at, action, id, content, hash)
    VALUES (next.entry, next.at, TG_OP, changed.id, next.content,
            public.history_hash(coalesce(last.hash, ''), next.entry, next.at, TG_OP, next.content));
    RETURN NULL;
END $$;

CREATE TRIGGER append_history AFTER INSERT OR UPDATE OR DELETE ON chained
    FOR EACH ROW EXECUTE FUNCTION append_history();

-- Entries whose hash is wrong, and rows that differ from their last entry.
CREATE FUNCTION check_history() RETURNS TABLE (entry bigint, id bigint) LANGUAGE sql STABLE AS $$
    SELECT h.entry, h.id
    FROM (SELECT *, lag(hash, 1, '') OVER (ORDER BY entry) AS before FROM public.history) h
    WHERE hash IS DISTINCT FROM public.history_hash(before, h.entry, at, action, content)
UNION ALL
    SELECT l.entry, coalesce(l.id, c.id)
    FROM (SELECT DISTINCT ON (id) * FROM public.history ORDER BY id, entry DESC) l
    FULL JOIN public.chained c USING (id)
    WHERE CASE WHEN l.action = 'DELETE' THEN c.id IS NOT NULL ELSE to_jsonb(c) IS DISTINCT FROM l.content END
$$;
