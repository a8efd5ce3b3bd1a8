-- The keys of one thread, in the order in which every script gets them.

local HEAD, CHECKPOINT, ORDER, LANE, CHUNK, WRITE, FENCE = unpack(KEYS, 1, 7)

-- What is stored in HEAD beside heads: the last ordinal. No namespace has this name.
local LAST = '\0'

local taken = 0

-- The next argument.
local function take()
  taken = taken + 1
  return ARGV[taken]
end

-- The next argument, as a number.
local function count()
  return tonumber(take())
end

-- A checkpoint within its thread.
local function field_of(ns, id)
  return ns .. '\0' .. id
end

local function refused(word, text)
  return redis.error_reply(word .. ' ' .. text)
end

-- All keys of a thread go at the same moment, or none does: no half of a thread is read.
local function keep_for(milliseconds)
  if milliseconds == 0 then
    for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end
    return
  end
  local now = redis.call('TIME')
  local at = now[1] * 1000 + math.floor(now[2] / 1000) + milliseconds
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIREAT', key, string.format('%.0f', at))
  end
end
