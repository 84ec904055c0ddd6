-- Whether an operator has paused the projection. The columns are those of migrations/postgres/read_model.
CREATE TABLE _projectionist_pauses (
    projection TEXT PRIMARY KEY,
    paused_by  TEXT NOT NULL,
    paused_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
);
