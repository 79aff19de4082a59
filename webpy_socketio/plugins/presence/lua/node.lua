-- Commands on nodes. A node is a process with a lease. After the lease has expired, the node is fenced, as
-- other nodes may have taken over its connections.
--
--   begin <run> <random> <remembered> <settle> <cold>
--                                  returns the value of `life`; `run` is the run id of Redis, `remembered` the value
--                                  known to the caller. After a restart, the settling period is `settle`, or `cold` if
--                                  there is no sign of an earlier run
--   enter <node> <lease>           registers a node
--   renew <node> <lease>           returns 1, or 0 if the node is fenced
--   finish <node>                  ends the lease
--   sweep <node> <grace> <claim> <batch> <epoch>
--                                  takes over connections of dead nodes, and removes those that are due; returns
--                                  whether there is more to do, the changes, and whether the caller has a lease

local commands = {}

local function has_subscribers()
  return tonumber(redis.call('PUBSUB', NUMSUB, name('here'))[2]) > 0
end

-- Settling period in milliseconds for a new value of `life`; nil if the current one is valid.
local function settling_period(run, life, remembered, settle, cold)
  if not life or string.sub(life, 1, #run + 1) ~= run .. ':' then
    local lost = life or remembered ~= '' or has_subscribers()
    return tonumber(lost and settle or cold)
  end
  -- The current value was set by a process that knew no earlier run.
  if remembered ~= '' and remembered ~= life and string.match(life, ':0$') then return tonumber(settle) end
end

function commands.begin(run, random, remembered, settle, cold)
  local life = call('GET', name('life'))
  local time = settling_period(run, life, remembered, settle, cold)
  if not time then return life end
  life = run .. ':' .. random .. ':' .. (time > 0 and format_integer(now + time) or '0')
  redis.call('SET', name('life'), life)
  return life
end

function commands.enter(node, lease)
  call('ZADD', name('nodes'), format_integer(now + lease), node)
  return 1
end

function commands.renew(node, lease)
  if not has_lease(node) then return 0 end
  return commands.enter(node, lease)
end

function commands.finish(node)
  if redis.call('EXISTS', name('node', node)) == 1 then
    call('ZADD', name('nodes'), 'XX', format_integer(now), node)
  else
    call('ZREM', name('nodes'), node)
  end
  return 1
end

-- Only one node can claim a dead node. If it dies as well, the claim expires.
local function claims(node, dead, claim)
  return redis.call('SET', name('claim', dead), node, 'NX', 'PX', claim)
    or call('GET', name('claim', dead)) == node
end

local function take_over(dead, lease_end, grace, batch)
  local items = call('SPOP', name('node', dead), batch)
  for _, item in ipairs(items) do
    local connection, channel = split(item)
    local it = connection and read(channel, connection)
    if not connection then mark_damaged(name('node', dead)) end
    if it and it.node == dead and it.due == 0 then
      start_leaving(channel, connection, it, lease_end + grace)
    end
  end
  if redis.call('EXISTS', name('node', dead)) == 1 then return true end
  call('ZREM', name('nodes'), dead)
  redis.call('DEL', name('claim', dead))
  return #items > 0
end

function commands.sweep(node, grace, claim, batch, new_epoch)
  local known = call('GET', name('life')) and has_lease(node) and 1 or 0
  if unsettled() > 0 then return {0, changes, known} end
  local more = false
  local dead = call('ZRANGEBYSCORE', name('nodes'), '-inf', format_integer(now), 'WITHSCORES',
    'LIMIT', 0, 4)
  for i = 1, #dead, 2 do
    if claims(node, dead[i], claim) then
      more = take_over(dead[i], tonumber(dead[i + 1]), grace, batch) or more
    end
  end
  local due = call('ZRANGEBYSCORE', name('leaving'), '-inf', format_integer(now), 'LIMIT', 0, batch)
  for _, item in ipairs(due) do
    local connection, channel = split(item)
    local it = connection and read(channel, connection)
    if not connection then mark_damaged(name('leaving')) end
    if it and it.due > 0 then
      remove(channel, connection, it, new_epoch)
    else
      call('ZREM', name('leaving'), item)
    end
  end
  more = more or #due == tonumber(batch)
  return {more and 1 or 0, changes, known}
end

return answer(commands[ARGV[1]](unpack(ARGV, 2)))
