-- Drops all that was copied of a thread.
-- (KEYS: the stream, and how runs of the thread have ended.)

redis.call('UNLINK', KEYS[1], KEYS[2])
return 'OK'
