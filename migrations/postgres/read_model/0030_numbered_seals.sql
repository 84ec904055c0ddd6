-- Seals have numbers: each is good once, and only behind the one before it.
--
-- A seal of `--isolation login` (0020) said what is to be done, under which claim. A projection that got past the guard and ended
-- transactions by itself could find one and have the same thing done again under that claim, or take back what the host had done
-- before in the same transaction (a dead letter), so that the checkpoint alone moved, past an event of which nothing was kept.
--
-- So a seal says its number, and which one came before it, and the number of the last one that was used is kept beside the
-- claim's key. It is written in the transaction of what is done: what takes that back takes the number back, and whatever
-- is sealed behind it is refused. Numbers are not given twice. The last seal of a transaction is the one that moves the checkpoint,
-- so it is good with all of the others or not at all.
--
-- A seal without a number is one of an older host's claim, which has made no others: it is good as before.
ALTER TABLE projectionist.seals ADD COLUMN used BIGINT NOT NULL DEFAULT 0;

CREATE OR REPLACE FUNCTION projectionist.unseal(doing TEXT, said TEXT, seal BYTEA) RETURNS JSONB
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
    IF what ? 'number' THEN
        UPDATE projectionist.seals SET used = (what->>'number')::bigint
        WHERE projection = what->>'projection' AND total_partitions = (what->>'total')::int
          AND partition_key = (what->>'key')::int AND epoch = (what->>'epoch')::bigint
          AND used = (what->>'after')::bigint;
        IF NOT FOUND THEN
            -- Nothing around the projection is broken: what it has run has ended the transaction, or used the seal before.
            RAISE invalid_transaction_state USING
                MESSAGE = format('%s was sealed for a transaction that is not this one any more', doing);
        END IF;
    END IF;
    RETURN what;
END $$;
