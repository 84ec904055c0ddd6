-- The least that a host needs, for a user of its own. An administrator runs this once in the database, after `host migrate` (which
-- somebody runs who may create tables), and again after an upgrade that adds tables, and after host migrate --partition-events:
--
--     psql "$DATABASE_URL" -f roles.sql
--     psql "$DATABASE_URL" -c "ALTER ROLE projectionist_host PASSWORD '…'"
--
-- CREATEROLE and CREATE on the database are for the role and the schema of each projection: docs/security.md says how to do
-- without. Where events and read models are in two databases, that of the events needs none of it, but USAGE of the schema, and
-- SELECT on its tables and on events.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'projectionist_host') THEN
        CREATE ROLE projectionist_host LOGIN CREATEROLE;
    END IF;
    EXECUTE format('GRANT CREATE ON DATABASE %I TO projectionist_host', current_database());
END $$;
-- Passed on to the roles of projections that log in by themselves (--isolation login).
GRANT USAGE ON SCHEMA projectionist TO projectionist_host WITH GRANT OPTION;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA projectionist TO projectionist_host;
GRANT SELECT ON events TO projectionist_host;
-- The keys of events that lie in months are written by a trigger.
DO $$ BEGIN
    IF to_regclass('projectionist.event_keys') IS NOT NULL THEN
        REVOKE INSERT, UPDATE, DELETE ON projectionist.event_keys FROM projectionist_host;
    END IF;
END $$;
