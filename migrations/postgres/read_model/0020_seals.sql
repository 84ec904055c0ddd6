-- What a projection's own login (--isolation login) may do to the host's tables. Its session has no stronger role to go
-- back to, and no right to these tables: it calls these functions, which run as whoever has migrated.
--
-- Whatever writes wants a seal: an HMAC-SHA-256 over what is to be written, with a key that is made for each claim and
-- goes to the server in a session of the host's own. The key is never in a session that runs what a projection says, so
-- nothing there can give it away; and a seal that a projection finds in the text of a running message
-- (`current_query()`, `pg_stat_activity`) is worth just what the host is about to do: this checkpoint, from here to there,
-- under this claim. See docs/security.md.
CREATE TABLE projectionist.seals (
    projection       TEXT NOT NULL,
    total_partitions INT NOT NULL,
    partition_key    INT NOT NULL,
    -- The claim. A later one has another key, or none.
    epoch            BIGINT NOT NULL,
    -- The key, as HMAC's inner and outer hash begin.
    inner_key        BYTEA NOT NULL,
    outer_key        BYTEA NOT NULL,
    PRIMARY KEY (projection, total_partitions, partition_key)
);

-- Sees that a session is of the projection's own login: `NAME@DATABASE`, also for its rebuild (`NAME+rebuild`).
CREATE FUNCTION projectionist.check_login(whose TEXT) RETURNS VOID
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF session_user IS DISTINCT FROM
        split_part(whose, '+', 1) || '@' || (SELECT oid FROM pg_database WHERE datname = current_database())
    THEN
        RAISE insufficient_privilege USING MESSAGE = format('%s is not the login of the projection %s', session_user, whose);
    END IF;
END $$;

-- What was said, if the host has sealed it for this; nothing when the claim is over, so that nothing is written and the
-- commit is refused by `advance`.
CREATE FUNCTION projectionist.unseal(doing TEXT, said TEXT, seal BYTEA) RETURNS JSONB
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what JSONB := said::jsonb;
    key RECORD;
    made BYTEA;
BEGIN
    PERFORM projectionist.check_login(what->>'projection');
    -- Only for the claim that counts: whoever has made another, or ended this one, may not have touched the key.
    SELECT inner_key, outer_key INTO key FROM projectionist.seals
    JOIN projectionist.checkpoints USING (projection, total_partitions, partition_key, epoch)
    WHERE projection = what->>'projection' AND total_partitions = (what->>'total')::int
      AND partition_key = (what->>'key')::int AND epoch = (what->>'epoch')::bigint;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    made := sha256(key.outer_key || sha256(key.inner_key || convert_to(doing || ' ' || said, 'UTF8')));
    -- Hashed once more, so that the time of the comparison says nothing about the bytes.
    IF seal IS NULL OR sha256(made) <> sha256(seal) THEN
        RAISE insufficient_privilege USING MESSAGE = format('%s was not sealed by the host', doing);
    END IF;
    RETURN what;
END $$;

-- Moves the checkpoint, or fails as `1 / 0` does, so that a message ends there and nothing is committed.
CREATE FUNCTION projectionist.advance(said TEXT, seal BYTEA) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what JSONB := projectionist.unseal('advance', said, seal);
BEGIN
    UPDATE projectionist.checkpoints
    SET position = (what->>'to')::bigint, events_applied = events_applied + (what->>'applied')::bigint,
        plugin_version = (what->>'version')::int, plugin_digest = what->>'digest', updated_at = now(),
        lineage = CASE WHEN (what->>'forgets')::boolean THEN NULL ELSE lineage END
    WHERE projection = what->>'projection' AND total_partitions = (what->>'total')::int
      AND partition_key = (what->>'key')::int AND epoch = (what->>'epoch')::bigint
      AND position = (what->>'from')::bigint
      AND EXISTS (SELECT FROM projectionist.projections
                  WHERE projection = what->>'projection' AND schema_version = (what->>'version')::int);
    IF NOT FOUND THEN
        RAISE division_by_zero USING MESSAGE = 'the checkpoint is not where this claim has left it';
    END IF;
END $$;

-- Writes a dead letter, of an event that the checkpoint has not passed: a seal that was used once is worth nothing.
CREATE FUNCTION projectionist.bury(said TEXT, seal BYTEA) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what JSONB := projectionist.unseal('bury', said, seal);
BEGIN
    INSERT INTO projectionist.dead_letters (projection, global_position, bounded_context, aggregate_type, aggregate_id,
        aggregate_version, event_id, event_type, reason, error, attempts, plugin_digest)
    SELECT what->>'projection', (what->>'position')::bigint, what->>'bounded_context', what->>'aggregate_type',
        what->>'aggregate_id', (what->>'aggregate_version')::bigint, what->>'event_id', what->>'event_type',
        what->>'reason', what->>'error', (what->>'attempts')::int, what->>'digest'
    FROM projectionist.checkpoints AS c
    WHERE c.projection = what->>'projection' AND c.total_partitions = (what->>'total')::int
      AND c.partition_key = (what->>'key')::int AND c.position < (what->>'position')::bigint
    ON CONFLICT (projection, global_position) DO UPDATE SET reason = excluded.reason, error = excluded.error,
        attempts = excluded.attempts, plugin_digest = excluded.plugin_digest, created_at = now();
END $$;

-- The version of the projection's tables, and since when. Other workers of the projection wait here until the transaction ends.
CREATE FUNCTION projectionist.lock_version(said TEXT, seal BYTEA) RETURNS TABLE (schema_version INT, migrated_at TEXT)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what JSONB := projectionist.unseal('lock_version', said, seal);
BEGIN
    RETURN QUERY SELECT p.schema_version, p.migrated_at::text FROM projectionist.projections AS p
        WHERE p.projection = what->>'projection' FOR UPDATE;
END $$;

-- Says which version the projection's tables have now; gives when that was.
CREATE FUNCTION projectionist.set_version(said TEXT, seal BYTEA) RETURNS TEXT
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what JSONB := projectionist.unseal('set_version', said, seal);
BEGIN
    UPDATE projectionist.projections SET schema_version = (what->>'version')::int, migrated_at = now()
    WHERE projection = what->>'projection';
    RETURN now()::text;
END $$;

-- Writes what a replay has made of a dead letter.
CREATE FUNCTION projectionist.amend(said TEXT, seal BYTEA) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what JSONB := projectionist.unseal('amend', said, seal);
BEGIN
    UPDATE projectionist.dead_letters
    SET reason = what->>'reason', error = coalesce(what->>'error', error), attempts = (what->>'attempts')::int,
        plugin_digest = what->>'digest'
    WHERE projection = what->>'projection' AND global_position = (what->>'position')::bigint;
END $$;

-- Removes the letters of an aggregate that is live again.
CREATE FUNCTION projectionist.unpark(said TEXT, seal BYTEA) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what JSONB := projectionist.unseal('unpark', said, seal);
BEGIN
    DELETE FROM projectionist.dead_letters
    WHERE projection = what->>'projection' AND bounded_context = what->>'bounded_context'
      AND aggregate_type = what->>'aggregate_type' AND aggregate_id = what->>'aggregate_id' AND reason <> 'skipped';
END $$;

-- Answers what an operator has asked for: one request, or all about an aggregate.
CREATE FUNCTION projectionist.answer(said TEXT, seal BYTEA) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what JSONB := projectionist.unseal('answer', said, seal);
BEGIN
    UPDATE projectionist.dead_letter_requests
    SET outcome = what->>'outcome', applied = (what->>'applied')::bigint,
        failed_position = (what->>'failed')::bigint, message = what->>'message', done_by = what->>'by', done_at = now()
    WHERE projection = what->>'projection' AND outcome IS NULL
      AND (id = (what->>'request')::bigint
           OR (bounded_context = what->>'bounded_context' AND aggregate_type = what->>'aggregate_type'
               AND aggregate_id = what->>'aggregate_id'));
END $$;

-- Says why a request waits.
CREATE FUNCTION projectionist.note(said TEXT, seal BYTEA) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    what JSONB := projectionist.unseal('note', said, seal);
BEGIN
    UPDATE projectionist.dead_letter_requests SET message = what->>'message'
    WHERE projection = what->>'projection' AND id = (what->>'request')::bigint AND outcome IS NULL;
END $$;

-- What a worker reads for itself, of its own projection: its checkpoint and the version of its tables.
CREATE FUNCTION projectionist.own_checkpoint(whose TEXT, total INT, key INT)
RETURNS TABLE (owner TEXT, epoch BIGINT, "position" BIGINT, schema_version INT)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM projectionist.check_login(whose);
    RETURN QUERY SELECT c.owner, c.epoch, c.position, p.schema_version
        FROM projectionist.checkpoints AS c JOIN projectionist.projections AS p USING (projection)
        WHERE c.projection = whose AND c.total_partitions = total AND c.partition_key = key;
END $$;

-- Who made the last claim of any of its partitions.
CREATE FUNCTION projectionist.own_last_owner(whose TEXT) RETURNS TEXT
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM projectionist.check_login(whose);
    RETURN (SELECT owner FROM projectionist.checkpoints WHERE projection = whose
            ORDER BY (owner = ''), updated_at DESC LIMIT 1);
END $$;

-- Whether an operator has paused it.
CREATE FUNCTION projectionist.own_pause(whose TEXT) RETURNS BOOLEAN
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM projectionist.check_login(whose);
    RETURN EXISTS (SELECT FROM projectionist.pauses WHERE projection = whose);
END $$;

-- The letters of a parked aggregate.
CREATE FUNCTION projectionist.own_letters(whose TEXT, context TEXT, type TEXT, id TEXT)
RETURNS TABLE (global_position BIGINT, reason TEXT, attempts INT)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM projectionist.check_login(whose);
    RETURN QUERY SELECT l.global_position, l.reason, l.attempts FROM projectionist.dead_letters AS l
        WHERE l.projection = whose AND l.bounded_context = context AND l.aggregate_type = type AND l.aggregate_id = id
          AND l.reason <> 'skipped'
        ORDER BY l.global_position;
END $$;

-- What an operator asks for.
CREATE FUNCTION projectionist.own_requests(whose TEXT)
RETURNS TABLE (id BIGINT, bounded_context TEXT, aggregate_type TEXT, aggregate_id TEXT, action TEXT, global_position BIGINT)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM projectionist.check_login(whose);
    RETURN QUERY SELECT r.id, r.bounded_context, r.aggregate_type, r.aggregate_id, r.action, r.global_position
        FROM projectionist.dead_letter_requests AS r WHERE r.projection = whose AND r.outcome IS NULL ORDER BY r.id;
END $$;

-- These two are called by the others alone: they run as whoever calls them, and would see no tables.
REVOKE EXECUTE ON FUNCTION projectionist.check_login(TEXT) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION projectionist.unseal(TEXT, TEXT, BYTEA) FROM PUBLIC;
