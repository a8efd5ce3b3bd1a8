-- Assistants: versioned configurations of graphs.

-- name: ensure
-- Several servers start at once; what is there already stays as it is.
INSERT INTO threadmill.assistant
  (tenant_id, assistant_id, graph_id, name, description, version, config, context,
   metadata)
SELECT %(tenant)s, a.assistant_id, a.graph_id, a.name, a.description, a.version,
       a.config, a.context, a.metadata
  FROM jsonb_to_recordset(%(assistants)s::jsonb)
    AS a (assistant_id uuid, graph_id text, name text, description text,
          version integer, config jsonb, context jsonb, metadata jsonb)
 ORDER BY a.assistant_id
ON CONFLICT DO NOTHING

-- name: get
SELECT * FROM threadmill.assistant
 WHERE tenant_id = %(tenant)s AND assistant_id = %(assistant_id)s

-- name: search
-- Few rows per tenant: sorting them is cheap.
SELECT a.*
  FROM threadmill.assistant a,
       LATERAL (SELECT CASE %(sort_by)s::text
                         WHEN 'assistant_id' THEN a.assistant_id::text
                         WHEN 'graph_id' THEN a.graph_id
                         WHEN 'name' THEN a.name
                         WHEN 'updated_at' THEN
                           to_char(a.updated_at AT TIME ZONE 'UTC',
                                   'YYYYMMDDHH24MISSUS')
                         ELSE
                           to_char(a.created_at AT TIME ZONE 'UTC',
                                   'YYYYMMDDHH24MISSUS')
                       END COLLATE "C" AS key) sort
 WHERE a.tenant_id = %(tenant)s
   AND (%(metadata)s::jsonb IS NULL OR a.metadata @> %(metadata)s::jsonb)
   AND (%(graph_id)s::text IS NULL OR a.graph_id = %(graph_id)s::text)
   AND (%(name)s::text IS NULL
        OR strpos(lower(a.name), lower(%(name)s::text)) > 0)
 ORDER BY CASE WHEN %(descending)s THEN sort.key END DESC,
          CASE WHEN NOT %(descending)s THEN sort.key END,
          a.assistant_id
 LIMIT %(limit)s OFFSET %(offset)s

-- name: count
SELECT count(*) AS n FROM threadmill.assistant a
 WHERE a.tenant_id = %(tenant)s
   AND (%(metadata)s::jsonb IS NULL OR a.metadata @> %(metadata)s::jsonb)
   AND (%(graph_id)s::text IS NULL OR a.graph_id = %(graph_id)s::text)
   AND (%(name)s::text IS NULL
        OR strpos(lower(a.name), lower(%(name)s::text)) > 0)
