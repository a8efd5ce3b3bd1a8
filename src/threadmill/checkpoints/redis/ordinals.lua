-- The ordinals of some checkpoints of one namespace; -1 for one that is not there.
-- flags: no-writes
-- with: thread, records

local ns, ordinals = take(), {}
for _ = 1, count() do
  local text = redis.call('HGET', CHECKPOINT, field_of(ns, take()))
  ordinals[#ordinals + 1] = text and struct.unpack('>I8', text) or -1
end
return ordinals
