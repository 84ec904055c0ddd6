-- Hosts poll instead.
DROP TRIGGER IF EXISTS projectionist_notify ON events;
