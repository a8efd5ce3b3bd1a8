-- Adds what a commit has appended to the copy of its log, and how the run has ended.
-- (KEYS: the stream, and how runs of the thread have ended.)
--
-- The copy has no gap: what does not follow its last event begins it anew. What it has
-- already is left out, so saying it twice is harmless.

local stream, ends = KEYS[1], KEYS[2]
local ttl, keep, run, status, last = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local first, attempt, ms = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
local count = (#ARGV - 8) / 2

local function id_of(number)
  return string.format('%.0f-0', number)
end

-- The number of the copy's last event, if what comes now follows it or is in it.
local function known()
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if not newest then return nil end
  local had = tonumber(newest[1]:match('^%d+'))
  local same = had == first - 1
  if had >= first then
    -- Numbers begin anew when a thread of the same id does.
    local there = redis.call('XRANGE', stream, id_of(first), id_of(first))[1]
    same = not there or there[2][2] == run
  end
  if same then return had end
  redis.call('UNLINK', stream)
  return nil
end

if count > 0 then
  local had = known()
  for n = 0, count - 1 do
    if not had or first + n > had then
      redis.call('XADD', stream, id_of(first + n), 'run', run, 'attempt', attempt,
        'ms', ARGV[8], 'event', ARGV[9 + 2 * n], 'data', ARGV[10 + 2 * n])
    end
  end
  redis.call('XTRIM', stream, 'MAXLEN', keep)
  -- The log itself lets go of what is older. A few at a time: each call brings some.
  for _ = 1, count + 10 do
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    if not oldest or tonumber(oldest[2][6]) >= ms - ttl then break end
    redis.call('XDEL', stream, oldest[1])
  end
  redis.call('PEXPIRE', stream, ttl)
end
-- What comes after the end of a run is another life of it: it was redriven.
local ended = redis.call('HGET', ends, run)
if ended and count > 0 and first > tonumber(ended:match('^%d+')) then
  redis.call('HDEL', ends, run)
end
if status ~= '' then
  -- Who follows one that is forgotten asks the log.
  if redis.call('HLEN', ends) >= 1000 then redis.call('UNLINK', ends) end
  redis.call('HSET', ends, run, last .. ' ' .. status)
  redis.call('PEXPIRE', ends, ttl)
end
return 'OK'
