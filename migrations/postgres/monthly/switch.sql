-- The table with all events becomes the first partition of a new one that takes its name, owner, privileges and sequence.
-- Nothing is copied or read: the constraint projectionist_until, which was validated before, says that it all fits.
ALTER TABLE {events} RENAME TO {old_name};
CREATE TABLE {events} (LIKE {old} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMMENTS)
    PARTITION BY RANGE (created_at);
ALTER TABLE {events} DROP CONSTRAINT projectionist_until;
ALTER TABLE {events} OWNER TO {owner};
DO $$
DECLARE
    item record;
    numbers text := pg_get_serial_sequence('{old_literal}', 'global_position');
BEGIN
    -- What is granted by default privileges may be more than this table had.
    FOR item IN SELECT DISTINCT grantee FROM pg_class, aclexplode(relacl)
                WHERE pg_class.oid = '{events_literal}'::regclass AND grantee <> relowner LOOP
        EXECUTE format('REVOKE ALL ON {events_literal} FROM %s',
            CASE item.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(item.grantee)) END);
    END LOOP;
    FOR item IN
        SELECT privilege_type, '' AS columns, grantee, is_grantable FROM pg_class, aclexplode(relacl)
        WHERE pg_class.oid = '{old_literal}'::regclass
        UNION ALL
        SELECT privilege_type, format(' (%I)', attname), grantee, is_grantable FROM pg_attribute, aclexplode(attacl)
        WHERE attrelid = '{old_literal}'::regclass AND NOT attisdropped
    LOOP
        EXECUTE format('GRANT %s%s ON {events_literal} TO %s%s', item.privilege_type, item.columns,
            CASE item.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(item.grantee)) END,
            CASE WHEN item.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
    -- Or the sequence would go with the first month that is dropped.
    IF numbers IS NOT NULL THEN
        EXECUTE format('ALTER SEQUENCE %s OWNED BY {events_literal}.global_position', numbers);
    END IF;
END $$;
DROP TRIGGER projectionist_keys ON {old};
CREATE TRIGGER projectionist_keys AFTER INSERT ON {events} REFERENCING NEW TABLE AS stored
    FOR EACH STATEMENT EXECUTE FUNCTION projectionist.keep_event_keys();
DROP TRIGGER IF EXISTS projectionist_notify ON {old};
ALTER TABLE {events} ATTACH PARTITION {old} FOR VALUES FROM (MINVALUE) TO ('{bound}');
ALTER TABLE {old} DROP CONSTRAINT projectionist_until;
CREATE TABLE {default} (LIKE {old} INCLUDING ALL);
ALTER TABLE {default} OWNER TO {owner};
ALTER TABLE {events} ATTACH PARTITION {default} DEFAULT;
