-- Searches among threads. Each says how it finds them, and in which order: by one of
-- the indexes in that order, or by sorting what it has found. What else is asked for is
-- checked on the row.

-- name: every_newest
SELECT t.* FROM threadmill.thread t
 WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
   AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
   AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
 ORDER BY t.created_at DESC, t.thread_id
 LIMIT %(limit)s OFFSET %(offset)s

-- name: every_oldest
SELECT t.* FROM threadmill.thread t
 WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
   AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
   AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
 ORDER BY t.created_at, t.thread_id DESC
 LIMIT %(limit)s OFFSET %(offset)s

-- name: every_changed_last
SELECT t.* FROM threadmill.thread t
 WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
   AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
   AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
 ORDER BY t.updated_at DESC, t.thread_id
 LIMIT %(limit)s OFFSET %(offset)s

-- name: every_changed_first
SELECT t.* FROM threadmill.thread t
 WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
   AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
   AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
 ORDER BY t.updated_at, t.thread_id DESC
 LIMIT %(limit)s OFFSET %(offset)s

-- name: every_by_id
SELECT t.* FROM threadmill.thread t
 WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
   AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
   AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
 ORDER BY t.thread_id
 LIMIT %(limit)s OFFSET %(offset)s

-- name: every_by_id_down
SELECT t.* FROM threadmill.thread t
 WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
   AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
   AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
 ORDER BY t.thread_id DESC
 LIMIT %(limit)s OFFSET %(offset)s

-- name: every_sorted
-- By what no index is for: reads all threads of the tenant.
SELECT t.*
  FROM threadmill.thread t,
       LATERAL (SELECT CASE %(sort_by)s::text
                         WHEN 'status' THEN t.status
                         ELSE to_char(t.state_updated_at AT TIME ZONE 'UTC',
                                      'YYYYMMDDHH24MISSUS')
                       END COLLATE "C" AS key) sort
 WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
   AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
   AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
 ORDER BY CASE WHEN %(descending)s THEN sort.key END DESC,
          CASE WHEN NOT %(descending)s THEN sort.key END,
          t.thread_id
 LIMIT %(limit)s OFFSET %(offset)s

-- name: every_count
-- Up to `most`; NULL counts all.
SELECT count(*) AS n
  FROM (SELECT FROM threadmill.thread t
         WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
           AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
           AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
         LIMIT %(most)s::bigint) found

-- name: faceted_newest
-- Those that share one entry of the metadata, in the order of the index.
SELECT t.*
  FROM threadmill.facet f
  JOIN threadmill.thread t
    ON t.tenant_id = %(tenant)s AND t.thread_id = f.thread_id
 WHERE f.tenant_id = %(tenant)s AND (f.key, f.value) =
       (SELECT key, value FROM threadmill.facets(%(facet)s::jsonb))
   AND NOT t.temporary AND t.metadata @> %(metadata)s::jsonb
   AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
 ORDER BY f.created_at DESC, f.thread_id
 LIMIT %(limit)s OFFSET %(offset)s

-- name: faceted_sorted
SELECT t.*
  FROM threadmill.facet f
  JOIN threadmill.thread t
    ON t.tenant_id = %(tenant)s AND t.thread_id = f.thread_id,
       LATERAL (SELECT CASE %(sort_by)s::text
                         WHEN 'thread_id' THEN t.thread_id::text
                         WHEN 'status' THEN t.status
                         WHEN 'updated_at' THEN
                           to_char(t.updated_at AT TIME ZONE 'UTC',
                                   'YYYYMMDDHH24MISSUS')
                         WHEN 'state_updated_at' THEN
                           to_char(t.state_updated_at AT TIME ZONE 'UTC',
                                   'YYYYMMDDHH24MISSUS')
                         ELSE
                           to_char(t.created_at AT TIME ZONE 'UTC',
                                   'YYYYMMDDHH24MISSUS')
                       END COLLATE "C" AS key) sort
 WHERE f.tenant_id = %(tenant)s AND (f.key, f.value) =
       (SELECT key, value FROM threadmill.facets(%(facet)s::jsonb))
   AND NOT t.temporary AND t.metadata @> %(metadata)s::jsonb
   AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
 ORDER BY CASE WHEN %(descending)s THEN sort.key END DESC,
          CASE WHEN NOT %(descending)s THEN sort.key END,
          t.thread_id
 LIMIT %(limit)s OFFSET %(offset)s

-- name: faceted_count
SELECT count(*) AS n
  FROM (SELECT
          FROM threadmill.facet f
          JOIN threadmill.thread t
            ON t.tenant_id = %(tenant)s AND t.thread_id = f.thread_id
         WHERE f.tenant_id = %(tenant)s AND (f.key, f.value) =
               (SELECT key, value FROM threadmill.facets(%(facet)s::jsonb))
           AND NOT t.temporary AND t.metadata @> %(metadata)s::jsonb
           AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
         LIMIT %(most)s::bigint) found

-- name: not_idle_newest
SELECT t.* FROM threadmill.thread t
 WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
   AND t.status <> 'idle' AND t.status = %(status)s::text
   AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
 ORDER BY t.created_at DESC, t.thread_id
 LIMIT %(limit)s OFFSET %(offset)s

-- name: not_idle_count
SELECT count(*) AS n
  FROM (SELECT FROM threadmill.thread t
         WHERE t.tenant_id = %(tenant)s AND NOT t.temporary
           AND t.status <> 'idle' AND t.status = %(status)s::text
           AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
         LIMIT %(most)s::bigint) found

-- name: these_sorted
SELECT t.*
  FROM threadmill.thread t,
       LATERAL (SELECT CASE %(sort_by)s::text
                         WHEN 'thread_id' THEN t.thread_id::text
                         WHEN 'status' THEN t.status
                         WHEN 'updated_at' THEN
                           to_char(t.updated_at AT TIME ZONE 'UTC',
                                   'YYYYMMDDHH24MISSUS')
                         WHEN 'state_updated_at' THEN
                           to_char(t.state_updated_at AT TIME ZONE 'UTC',
                                   'YYYYMMDDHH24MISSUS')
                         ELSE
                           to_char(t.created_at AT TIME ZONE 'UTC',
                                   'YYYYMMDDHH24MISSUS')
                       END COLLATE "C" AS key) sort
 WHERE t.tenant_id = %(tenant)s AND t.thread_id = ANY (%(ids)s::uuid[])
   AND NOT t.temporary
   AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
   AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
 ORDER BY CASE WHEN %(descending)s THEN sort.key END DESC,
          CASE WHEN NOT %(descending)s THEN sort.key END,
          t.thread_id
 LIMIT %(limit)s OFFSET %(offset)s

-- name: these_count
SELECT count(*) AS n
  FROM (SELECT FROM threadmill.thread t
         WHERE t.tenant_id = %(tenant)s AND t.thread_id = ANY (%(ids)s::uuid[])
           AND NOT t.temporary
           AND (%(metadata)s::jsonb IS NULL OR t.metadata @> %(metadata)s::jsonb)
           AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
         LIMIT %(most)s::bigint) found
