-- Projections that an operator has paused. Their workers look here twice a second, and apply no events meanwhile.
CREATE TABLE projectionist.pauses (
    projection TEXT PRIMARY KEY,
    paused_by  TEXT NOT NULL,
    paused_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);
