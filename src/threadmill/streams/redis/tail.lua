-- The events that follow a number, whether the copy reaches back to it, and how a run
-- has ended.
-- flags: no-writes

local stream, ends = KEYS[1], KEYS[2]
local after, limit, run = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local reaches = oldest and tonumber(oldest[1]:match('^%d+')) <= after + 1
local found = {}
if reaches then
  found = redis.call('XRANGE', stream, string.format('%.0f-0', after + 1), '+',
    'COUNT', limit)
end
return {reaches and 1 or 0, redis.call('HGET', ends, run) or '', found}
