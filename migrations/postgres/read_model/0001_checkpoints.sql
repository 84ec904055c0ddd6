-- How far each partition of each projection is, and who works on it. See docs/how-it-works.md.
CREATE TABLE projectionist.checkpoints (
    projection       TEXT NOT NULL,
    total_partitions INT NOT NULL CHECK (total_partitions > 0),
    partition_key    INT NOT NULL CHECK (partition_key >= 0 AND partition_key < total_partitions),
    position         BIGINT NOT NULL DEFAULT 0,
    epoch            BIGINT NOT NULL DEFAULT 0,
    owner            TEXT NOT NULL DEFAULT '',
    lineage          JSONB,
    events_applied   BIGINT NOT NULL DEFAULT 0,
    plugin_version   INT NOT NULL DEFAULT 0,
    plugin_digest    TEXT NOT NULL DEFAULT '',
    updated_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, total_partitions, partition_key)
);

-- Which version of its tables a projection has. One row a projection, locked while `migrate` runs, so that
-- of all its partitions exactly one brings the tables up.
CREATE TABLE projectionist.projections (
    projection     TEXT PRIMARY KEY,
    schema_version INT NOT NULL,
    migrated_at    TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Events that were not applied, written in the transaction that passed over them.
CREATE TABLE projectionist.dead_letters (
    projection        TEXT NOT NULL,
    global_position   BIGINT NOT NULL,
    bounded_context   TEXT NOT NULL,
    aggregate_type    TEXT NOT NULL,
    aggregate_id      TEXT NOT NULL,
    aggregate_version BIGINT NOT NULL,
    event_id          TEXT NOT NULL,
    event_type        TEXT NOT NULL,
    -- 'poison' (failed itself), 'behind' (parked behind a poison event of its aggregate) or 'skipped'
    reason            TEXT NOT NULL CHECK (reason IN ('poison', 'behind', 'skipped')),
    error             TEXT NOT NULL,
    attempts          INT NOT NULL,
    plugin_digest     TEXT NOT NULL,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, global_position)
);

-- The name that monitoring queries written for such systems know. A projection is as far as its slowest partition.
DO $$ BEGIN
    IF to_regclass('public.projection_checkpoints') IS NULL THEN
        EXECUTE 'CREATE VIEW public.projection_checkpoints AS
            SELECT projection AS projection_name, min(position) AS last_global_position, max(updated_at) AS updated_at
            FROM projectionist.checkpoints GROUP BY projection';
    END IF;
END $$;
