-- As obstacles.sql, of what servers have since version 15.
SELECT format('the publication %1$I of all tables in its schema, which would send events under the names of months: '
              'ALTER PUBLICATION %1$I SET (publish_via_partition_root = true)', pubname)
FROM pg_publication_namespace JOIN pg_publication ON pg_publication.oid = pnpubid
JOIN pg_class ON relnamespace = pnnspid
WHERE pg_class.oid = 'events'::regclass AND NOT pubviaroot
