-- Processes that share the work of some projections: see docs/operations.md. The roster says who is in the set and whose
-- each slot is; whoever sees that it has to change writes the next one, and nobody else can have written it before.
CREATE TABLE projectionist.replica_sets (
    replica_set TEXT PRIMARY KEY,
    generation  BIGINT NOT NULL,
    roster      JSONB NOT NULL
);

-- Each change of a roster, and why.
CREATE TABLE projectionist.replica_generations (
    replica_set TEXT NOT NULL REFERENCES projectionist.replica_sets,
    generation  BIGINT NOT NULL,
    reason      TEXT NOT NULL,
    members     INT NOT NULL,
    slots       INT NOT NULL,
    -- Slots that went from one member to another, of all projections.
    moved       INT NOT NULL,
    written_by  TEXT NOT NULL,
    written_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (replica_set, generation)
);
