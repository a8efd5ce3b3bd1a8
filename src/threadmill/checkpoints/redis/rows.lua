-- Some checkpoints of a thread.
-- flags: no-writes
-- with: thread, records, reads

local places = {}
for _ = 1, count() do
  local ns = take()
  places[#places + 1] = {ns, take()}
end
return read(places)
