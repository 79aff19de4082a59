-- A state: who is in a channel, or what changed since a revision, if that is known still.
--
--   read <channel> <epoch> <rev> <fresh>    what the caller has: returns {epoch, rev, diffs}
--                                           or {epoch, rev, keys, connections}, as the hashes are
--   count <channel> ...                     how many keys in each

local commands = {}

function commands.read(channel, known, since, fresh)
  if redis.call('EXISTS', name('position', channel), name('keys', channel)) == 0 then
    return {'', 0, {}, {}}  -- it was never used: nothing is made by reading
  end
  local epoch, rev = position(channel, fresh)
  if epoch == known and tonumber(since) <= rev then
    local diffs = {}
    for _, entry in ipairs(redis.call('XRANGE', name('diffs', channel), whole(since + 1) .. '-0', '+')) do
      diffs[#diffs + 1] = entry[2][2]
    end
    if #diffs == rev - since then return {epoch, rev, diffs} end
  end
  return {epoch, rev, redis.call('HGETALL', name('keys', channel)),
    redis.call('HGETALL', name('connections', channel))}
end

function commands.count(...)
  local counts = {}
  for i, channel in ipairs({...}) do counts[i] = redis.call('HLEN', name('keys', channel)) end
  return counts
end

return commands[ARGV[1]](unpack(ARGV, 2))
