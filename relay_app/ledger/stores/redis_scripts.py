"""The two scripts that run inside Redis or Valkey, and the keys that they keep.

The rule: a script is one moment for everybody else. So the rank decides between two writers that
meet, and a page of a view is cut from one state.

====================  ====================================================================
``{PREFIX}:records``  hash, id → ``RANK BORN JSON``; and ``id NUL BORN`` → ``DIED BORN JSON``
``{PREFIX}:order``    sorted set of the fields above by ``ended_at``
``{PREFIX}:buried``   sorted set of those that were replaced, by the server's time then
``{PREFIX}:state``    hash: ``schema`` and ``moment``
====================  ====================================================================

Each write is the next ``moment``. What a write replaces is kept aside for ``VIEW_SECONDS``, with
the moments of its birth and death beside it, so that a view that began before shows what was
there before, wherever it has got to. The braces keep all keys on one slot of a cluster.
"""

__all__ = ["PAGE", "VIEW_SECONDS", "WRITE", "keys"]

VIEW_SECONDS = 3_600
"""How long one view may be read for; also what a replaced version costs memory for."""


def keys(prefix: str) -> list[str]:
    """The keys of both scripts, in their order."""
    return [f"{{{prefix}}}:{name}" for name in ("records", "order", "buried", "state")]


_HEAD = """
local records, order, buried, state = unpack(KEYS)
local schema = tonumber(redis.call('HGET', state, 'schema') or 0)
if schema > tonumber(ARGV[1]) then return redis.error_reply('NEWER ' .. schema) end
"""

# Arguments: the schema, then id, rank, ended_at and JSON of each record.
WRITE = (
    _HEAD
    + f"""
if schema == 0 then redis.call('HSET', state, 'schema', ARGV[1]) end
local moment = redis.call('HINCRBY', state, 'moment', 1)
local now = tonumber(redis.call('TIME')[1])

-- No view can ask for these any more. As many as we could bury in this call, so none pile up.
local old = redis.call('ZRANGEBYSCORE', buried, '-inf', now - {VIEW_SECONDS}, 'LIMIT', 0, #ARGV)
for _, field in ipairs(old) do
  redis.call('HDEL', records, field)
  redis.call('ZREM', order, field)
  redis.call('ZREM', buried, field)
end

for i = 2, #ARGV, 4 do
  local id, rank, ended_at, json = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local stands = redis.call('HGET', records, id)
  local keep = false
  if stands then
    local its_rank, born, its_json = string.match(stands, '^(-?%d+) (%d+) (.*)$')
    keep = tonumber(its_rank) > tonumber(rank) or its_json == json
    if not keep and tonumber(born) < moment then
      local field = id .. '\\0' .. born
      redis.call('HSET', records, field, moment .. ' ' .. born .. ' ' .. its_json)
      redis.call('ZADD', order, redis.call('ZSCORE', order, id), field)
      redis.call('ZADD', buried, now, field)
    end
  end
  if not keep then
    redis.call('HSET', records, id, rank .. ' ' .. moment .. ' ' .. json)
    redis.call('ZADD', order, ended_at, id)
  end
end
return moment
"""
)

# Arguments: the schema, how many, the least ended_at, and the field and score to go on after.
# Returns the moment, the time, and field, score, value of each.
PAGE = (
    _HEAD
    + """
local many, since, after, score = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local first
if after == '' then
  first = redis.call('ZCOUNT', order, '-inf', '(' .. since)
elseif redis.call('ZSCORE', order, after) == score then
  first = redis.call('ZRANK', order, after) + 1
else
  -- It was replaced or removed meanwhile. The reader knows what it has seen of this score.
  first = redis.call('ZCOUNT', order, '-inf', '(' .. score)
end
local page = {redis.call('HGET', state, 'moment') or '0', redis.call('TIME')[1]}
local found = redis.call('ZRANGE', order, first, first + many - 1, 'WITHSCORES')
local fields = {}
for i = 1, #found, 2 do fields[#fields + 1] = found[i] end
if #fields > 0 then
  local values = redis.call('HMGET', records, unpack(fields))
  for i, field in ipairs(fields) do
    page[#page + 1] = field
    page[#page + 1] = found[2 * i]
    page[#page + 1] = values[i]
  end
end
return page
"""
)
