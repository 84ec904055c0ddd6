-- What belongs to the table and would stay with its old events, or cannot be on a partitioned table; with what to do.
WITH it AS (SELECT 'events'::regclass::oid AS oid)
SELECT 'it is no ordinary table' FROM pg_class JOIN it USING (oid) WHERE relkind <> 'r' OR relpersistence <> 'p'
UNION ALL
SELECT 'created_at is not TIMESTAMPTZ NOT NULL: ALTER TABLE events ALTER created_at SET NOT NULL'
FROM it WHERE NOT EXISTS (
    SELECT FROM pg_attribute
    WHERE attrelid = it.oid AND attname = 'created_at' AND atttypid = 'timestamptz'::regtype AND attnotnull AND NOT attisdropped)
UNION ALL
SELECT format('%1$s may be NULL, and is a key of an event: ALTER TABLE events ALTER %1$s SET NOT NULL', attname)
FROM pg_attribute JOIN it ON attrelid = it.oid
WHERE attname IN ('global_position', 'event_id', 'bounded_context', 'aggregate_type', 'aggregate_id', 'aggregate_version')
  AND NOT attnotnull AND NOT attisdropped
UNION ALL
SELECT format('%s is an identity or generated column: make it an ordinary one, with a sequence as its default', attname)
FROM pg_attribute JOIN it ON attrelid = it.oid WHERE (attidentity <> '' OR attgenerated <> '') AND NOT attisdropped
UNION ALL
SELECT format('no unique index on (%s) says that its keys are unique', array_to_string(keys, ', '))
FROM it, (VALUES (ARRAY['global_position']), (ARRAY['event_id']),
                 (ARRAY['aggregate_id', 'aggregate_type', 'aggregate_version', 'bounded_context'])) AS wanted (keys)
WHERE NOT EXISTS (
    SELECT FROM pg_index
    WHERE indrelid = it.oid AND indisunique AND indisvalid AND indpred IS NULL AND indexprs IS NULL
      AND (SELECT array_agg(attname::text ORDER BY attname::text COLLATE "C") FROM unnest(indkey::int2[]) WITH ORDINALITY AS k (number, place)
           JOIN pg_attribute ON attrelid = indrelid AND attnum = number WHERE place <= indnkeyatts) = keys)
UNION ALL
SELECT format('the foreign key %I of %s: drop it, a partitioned table has no key for one to point to', conname, conrelid::regclass)
FROM pg_constraint JOIN it ON it.oid IN (conrelid, confrelid) WHERE contype = 'f'
UNION ALL
SELECT format('%s %s, which reads it: drop it, and make it again afterwards',
              CASE relkind WHEN 'v' THEN 'the view' WHEN 'm' THEN 'the materialized view' ELSE 'a rule of' END, pg_class.oid::regclass)
FROM (SELECT DISTINCT ev_class FROM pg_rewrite, it
      WHERE ev_class = it.oid
         OR EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
                                            AND refclassid = 'pg_class'::regclass AND refobjid = it.oid)) AS rules
JOIN pg_class ON pg_class.oid = ev_class
UNION ALL
SELECT format('the function %s, which is bound to it: drop it, and make it again afterwards', objid::regprocedure)
FROM pg_depend JOIN it ON refobjid = it.oid WHERE refclassid = 'pg_class'::regclass AND classid = 'pg_proc'::regclass
UNION ALL
SELECT format('the trigger %I: drop it, and make it again afterwards', tgname) FROM pg_trigger JOIN it ON tgrelid = it.oid
WHERE NOT tgisinternal AND tgname NOT IN ('projectionist_keys', 'projectionist_notify')
UNION ALL
SELECT format('its row security (%s policies): drop them and disable it, and do both again afterwards',
              (SELECT count(*) FROM pg_policy WHERE polrelid = it.oid))
FROM pg_class JOIN it USING (oid) WHERE relrowsecurity OR EXISTS (SELECT FROM pg_policy WHERE polrelid = it.oid)
UNION ALL
SELECT format('the publication %I: take it out, and add it again afterwards', pubname)
FROM pg_publication_rel JOIN it ON prrelid = it.oid JOIN pg_publication ON pg_publication.oid = prpubid
UNION ALL
SELECT format('the publication %1$I of all tables, which would send events under the names of months: ALTER PUBLICATION %1$I SET '
              '(publish_via_partition_root = true)', pubname)
FROM pg_publication WHERE puballtables AND NOT pubviaroot
UNION ALL
SELECT format('%s inherits from it or it from that', CASE it.oid WHEN inhparent THEN inhrelid ELSE inhparent END::regclass)
FROM pg_inherits JOIN it ON it.oid IN (inhparent, inhrelid)
