-- What an operator asks of whoever works on a partition. The columns are those of migrations/postgres/read_model.
CREATE TABLE _projectionist_dead_letter_requests (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    projection      TEXT NOT NULL,
    bounded_context TEXT NOT NULL,
    aggregate_type  TEXT NOT NULL,
    aggregate_id    TEXT NOT NULL,
    action          TEXT NOT NULL CHECK (action IN ('retry', 'skip')),
    global_position INTEGER,
    requested_by    TEXT NOT NULL,
    requested_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),
    outcome         TEXT CHECK (outcome IN ('applied', 'failed', 'nothing')),
    applied         INTEGER NOT NULL DEFAULT 0,
    failed_position INTEGER,
    message         TEXT NOT NULL DEFAULT '',
    done_by         TEXT,
    done_at         TEXT
);

CREATE INDEX _projectionist_dead_letter_requests_waiting
    ON _projectionist_dead_letter_requests (projection) WHERE outcome IS NULL;

CREATE INDEX _projectionist_dead_letters_of_an_aggregate ON _projectionist_dead_letters
    (projection, bounded_context, aggregate_type, aggregate_id, global_position);
