-- Which lock file stands for a partition: raised when a worker is replaced that still holds the one of the last term.
-- (The sign of life that the host keeps in a table on Postgres is in the lock file itself.)
ALTER TABLE _projectionist_checkpoints ADD COLUMN term INTEGER NOT NULL DEFAULT 0;
