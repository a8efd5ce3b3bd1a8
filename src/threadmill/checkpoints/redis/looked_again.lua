-- Each of these has been looked at, as it was found then; one found since stays.

for place = 1, #ARGV, 2 do
  local name, at = ARGV[place], ARGV[place + 1]
  if redis.call('ZSCORE', KEYS[1], name) == at then redis.call('ZREM', KEYS[1], name) end
end
return 'OK'
