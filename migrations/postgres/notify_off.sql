-- Hosts poll instead. The function stays, or is made: that it is there says that somebody has decided.
CREATE OR REPLACE FUNCTION projectionist.notify_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('projectionist_events', '');
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS projectionist_notify ON events;
