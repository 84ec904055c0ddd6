-- What is unique of events stays unique when they lie in months: one table holds the keys of all of them, and whoever stores
-- an event stores its keys, in the same statement. Its constraints have the names that they had on events.
CREATE TABLE IF NOT EXISTS projectionist.event_keys (
    global_position   BIGINT NOT NULL,
    event_id          UUID NOT NULL,
    bounded_context   TEXT NOT NULL,
    aggregate_type    TEXT NOT NULL,
    aggregate_id      TEXT NOT NULL,
    aggregate_version BIGINT NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (global_position),
    CONSTRAINT events_event_id_key UNIQUE (event_id),
    CONSTRAINT events_bounded_context_aggregate_type_aggregate_id_aggregat_key
        UNIQUE (bounded_context, aggregate_type, aggregate_id, aggregate_version)
);
-- As the owner of this function, because writers of events have no business with the host's tables.
CREATE OR REPLACE FUNCTION projectionist.keep_event_keys() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO projectionist.event_keys
        (global_position, event_id, bounded_context, aggregate_type, aggregate_id, aggregate_version)
    SELECT global_position, event_id, bounded_context, aggregate_type, aggregate_id, aggregate_version FROM stored;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION projectionist.keep_event_keys() FROM PUBLIC;
-- Made only if it is not there: taking one away would wait for readers, too.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = '{events_literal}'::regclass AND tgname = 'projectionist_keys') THEN
        CREATE TRIGGER projectionist_keys AFTER INSERT ON {events} REFERENCING NEW TABLE AS stored
            FOR EACH STATEMENT EXECUTE FUNCTION projectionist.keep_event_keys();
    END IF;
END $$;
