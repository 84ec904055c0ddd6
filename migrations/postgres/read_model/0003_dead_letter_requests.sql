-- What an operator asks of whoever works on a partition: to replay a parked aggregate (`retry`), or to give up on the
-- event it is parked for and to replay the rest (`skip`). A request names the aggregate, not the partition, so it
-- survives a change of their number. See docs/how-it-works.md.
CREATE TABLE projectionist.dead_letter_requests (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    projection      TEXT NOT NULL,
    bounded_context TEXT NOT NULL,
    aggregate_type  TEXT NOT NULL,
    aggregate_id    TEXT NOT NULL,
    action          TEXT NOT NULL CHECK (action IN ('retry', 'skip')),
    -- The event to give up on: what the operator has seen, and nothing that came to its place since.
    global_position BIGINT,
    requested_by    TEXT NOT NULL,
    requested_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- All below is empty while it waits, but for a message that may say why.
    outcome         TEXT CHECK (outcome IN ('applied', 'failed', 'nothing')),
    applied         BIGINT NOT NULL DEFAULT 0,
    failed_position BIGINT,
    message         TEXT NOT NULL DEFAULT '',
    done_by         TEXT,
    done_at         TIMESTAMPTZ
);

-- Whoever has something parked looks here four times a second.
CREATE INDEX dead_letter_requests_waiting ON projectionist.dead_letter_requests (projection) WHERE outcome IS NULL;

-- A replay reads an aggregate's letters in order.
CREATE INDEX dead_letters_of_an_aggregate ON projectionist.dead_letters
    (projection, bounded_context, aggregate_type, aggregate_id, global_position);
