-- Writes to some channels at several checkpoints of one namespace.
-- flags: no-writes
-- with: thread, records, reads

local ns, channels, found = take(), {}, {}
for _ = 1, count() do channels[take()] = true end
for _ = 1, count() do
  found[#found + 1] = writes_of(ns, take(), channels)
end
return found
