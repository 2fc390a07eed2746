-- Events of credits, which spends leave in a table.

CREATE FUNCTION keysmith_private.note_credit_events() RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_note_credit_events';
COMMENT ON FUNCTION keysmith_private.note_credit_events() IS
'Moves a portion of the events of credits to the audit, and says how many';
