-- Those of some runs that have nothing here.
-- flags: no-writes
-- with: thread, records, sweep

for _, run in ipairs(ARGV) do removed[run] = true end
return runs_gone()
