-- Which lock stands for a partition: raised when a worker is replaced that still holds the lock of the last term.
ALTER TABLE projectionist.checkpoints ADD COLUMN term INT NOT NULL DEFAULT 0;

-- A sign of life of each process that works: whoever stands by for one whose `beat` stands still takes its place.
CREATE TABLE projectionist.workers (
    owner      TEXT PRIMARY KEY,
    beat       BIGINT NOT NULL DEFAULT 0,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    beat_at    TIMESTAMPTZ NOT NULL DEFAULT now()
);
