-- Wakes the hosts at each commit that stored events. NOTIFY takes a database-wide lock at commit, so a very busy
-- events table may go without it: `host migrate --notify off`, and the hosts poll.
CREATE OR REPLACE FUNCTION projectionist.notify_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('projectionist_events', '');
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS projectionist_notify ON events;
CREATE TRIGGER projectionist_notify AFTER INSERT ON events
    FOR EACH STATEMENT EXECUTE FUNCTION projectionist.notify_events();
