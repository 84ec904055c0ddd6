-- A month like the one before it, with its indexes. Events of it that were stored before it was there lie in the default
-- partition, and move.
--
-- First the table itself, so that nobody is between reading its list of partitions and reading them: a page that was planned
-- without this month, and then waited for the default partition, would find its events in neither, and pass over them.
LOCK TABLE ONLY {events} IN ACCESS EXCLUSIVE MODE;
LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE;
CREATE TABLE {month} (LIKE {template} INCLUDING ALL);
ALTER TABLE {month} OWNER TO {owner};
WITH moved AS (DELETE FROM {default} WHERE created_at >= '{from}' AND created_at < '{to}' RETURNING *)
INSERT INTO {month} SELECT * FROM moved;
ALTER TABLE {events} ATTACH PARTITION {month} FOR VALUES FROM ('{from}') TO ('{to}');
