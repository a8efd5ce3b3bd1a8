-- Everything but the fence: rights to write stay with who has them.
-- with: thread, records, sweep
--
-- Like all that removes, it answers with the runs that have nothing here any more.

for run in pairs(runs_here()) do removed[run] = true end
for _, key in ipairs(KEYS) do
  if key ~= FENCE then redis.call('UNLINK', key) end
end
return runs_gone()
