-- A rebuild in progress (NAME+rebuild) is no projection to those who monitor them: it is not late, it is new. A view of
-- that name that somebody else has made stays as it is.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_views WHERE schemaname = 'public' AND viewname = 'projection_checkpoints'
                 AND definition LIKE '%projectionist.checkpoints%') THEN
        EXECUTE 'CREATE OR REPLACE VIEW public.projection_checkpoints AS
            SELECT projection AS projection_name, min(position) AS last_global_position, max(updated_at) AS updated_at
            FROM projectionist.checkpoints WHERE position(''+'' IN projection) = 0 GROUP BY projection';
    END IF;
END $$;
