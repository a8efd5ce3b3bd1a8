-- Everything but the fence: rights to write stay with who has them.
-- with: thread, records
--
-- Like all that removes, it answers with the runs that have nothing here any more.

local runs, found = {}, {}
for _, text in ipairs(redis.call('HVALS', CHECKPOINT)) do
  local run = run_of(text)
  if run ~= '' and not found[run] then
    found[run] = true
    runs[#runs + 1] = run
  end
end
for _, key in ipairs(KEYS) do
  if key ~= FENCE then redis.call('UNLINK', key) end
end
return runs
