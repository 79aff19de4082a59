-- A node: one life of a process, with a lease. Who comes back after the end of it is fenced: others may have
-- taken over what it had.
--
--   begin <run> <fresh>            says in which life Redis is; `run` is what Redis calls itself
--   enter <node> <lease>           a new node
--   renew <node> <lease>           1, or 0 if it is fenced
--   finish <node>                  its lease ends now
--   sweep <node> <grace> <claim> <portion> <epoch>
--                                  take over from the dead, and let go who is due; returns whether there is more
--                                  to do, and the changes

local commands = {}

function commands.begin(run, fresh)
  local life = redis.call('GET', name('life'))
  if not life or string.sub(life, 1, #run + 1) ~= run .. ':' then
    life = run .. ':' .. fresh
    redis.call('SET', name('life'), life)
  end
  return life
end

function commands.enter(node, lease)
  redis.call('ZADD', name('nodes'), whole(now + lease), node)
  return 1
end

function commands.renew(node, lease)
  if not alive(node) then return 0 end
  return commands.enter(node, lease)
end

function commands.finish(node)
  if redis.call('EXISTS', name('node', node)) == 1 then
    redis.call('ZADD', name('nodes'), 'XX', whole(now), node)
  else
    redis.call('ZREM', name('nodes'), node)
  end
  return 1
end

-- Exactly one has the claim on a dead node; if it dies too, the claim expires and another one goes on.
local function claims(node, dead, claim)
  return redis.call('SET', name('claim', dead), node, 'NX', 'PX', claim)
    or redis.call('GET', name('claim', dead)) == node
end

local function take_over(dead, lapsed, grace, portion)
  local items = redis.call('SPOP', name('node', dead), portion)
  for _, item in ipairs(items) do
    local connection, channel = split(item)
    local it = read(channel, connection)
    if it and it.node == dead and it.due == 0 then depart(channel, connection, it, lapsed + grace) end
  end
  if redis.call('EXISTS', name('node', dead)) == 1 then return true end
  redis.call('ZREM', name('nodes'), dead)
  redis.call('DEL', name('claim', dead))
  return #items > 0
end

function commands.sweep(node, grace, claim, portion, fresh)
  local more = false
  local dead = redis.call('ZRANGEBYSCORE', name('nodes'), '-inf', whole(now), 'WITHSCORES',
    'LIMIT', 0, 4)
  for i = 1, #dead, 2 do
    if claims(node, dead[i], claim) then
      more = take_over(dead[i], tonumber(dead[i + 1]), grace, portion) or more
    end
  end
  local due = redis.call('ZRANGEBYSCORE', name('leaving'), '-inf', whole(now), 'LIMIT', 0, portion)
  for _, item in ipairs(due) do
    local connection, channel = split(item)
    local it = read(channel, connection)
    if it and it.due > 0 then
      remove(channel, connection, it, fresh)
    else
      redis.call('ZREM', name('leaving'), item)
    end
  end
  more = more or #due == tonumber(portion)
  return {more and 1 or 0, changes}
end

return commands[ARGV[1]](unpack(ARGV, 2))
