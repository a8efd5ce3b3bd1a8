-- name: list
SELECT * FROM threadmill.queues() ORDER BY labels
