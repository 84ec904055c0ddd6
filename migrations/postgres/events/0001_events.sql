-- The events tables of pupsourcing, so that a host can be pointed at such a database as it is
-- (hence IF NOT EXISTS: what is already there stays as it is).
CREATE TABLE IF NOT EXISTS events (
    global_position   BIGSERIAL PRIMARY KEY,
    bounded_context   TEXT NOT NULL DEFAULT 'default',
    aggregate_type    TEXT NOT NULL,
    aggregate_id      TEXT NOT NULL,
    aggregate_version BIGINT NOT NULL,
    event_id          UUID NOT NULL UNIQUE,
    event_type        TEXT NOT NULL,
    event_version     INT NOT NULL DEFAULT 1,
    payload           BYTEA NOT NULL,
    trace_id          TEXT,
    correlation_id    TEXT,
    causation_id      TEXT,
    metadata          JSONB,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (bounded_context, aggregate_type, aggregate_id, aggregate_version)
);

CREATE TABLE IF NOT EXISTS aggregate_heads (
    bounded_context   TEXT NOT NULL DEFAULT 'default',
    aggregate_type    TEXT NOT NULL,
    aggregate_id      TEXT NOT NULL,
    aggregate_version BIGINT NOT NULL,
    updated_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (bounded_context, aggregate_type, aggregate_id)
);
