-- The checkpoints that lead to one (or to the head), nearest first, itself left out.
-- flags: no-writes
-- with: thread, records, reads

local ns, id, limit = take(), take(), count()
if id == '' then id = redis.call('HGET', HEAD, ns) or '' end

local rows, records = {}, {}
local text = redis.call('HGET', CHECKPOINT, field_of(ns, id))
while text and #rows < limit do
  local parent = parsed(text).parent
  text = parent ~= '' and redis.call('HGET', CHECKPOINT, field_of(ns, parent))
  if text then
    rows[#rows + 1] = {ns, parent, text, {}}
    records[#records + 1] = text
  end
end
return {rows, chunks_of(records)}
