"""The scripts about records that run inside Redis or Valkey, and the keys that they keep.

The rule: a script is one moment for everybody else. So the rank decides between two writers that
meet, a page of a view is cut from one state, and what a record costs counts when it can be read.

========================  ================================================================
``{PREFIX}:records``      hash, id → ``RANK BORN REST``; ``id NUL BORN`` → ``DIED BORN REST``
``{PREFIX}:order``        sorted set of the fields above by ``ended_at``
``{PREFIX}:buried``       sorted set of those that are there no more, by the server's time then
``{PREFIX}:state``        hash: ``schema`` and ``moment``
``{PREFIX}:spending:KEY`` hash, UTC day → micro-dollars
========================  ================================================================

``REST`` is ``LENGTH CHARGE``, directly followed by the record's JSON; ``LENGTH`` is that of the
charge, ``COST DAY LENGTH-OF-KEY KEY SESSION`` or nothing for what costs nothing. Version 1 had the
JSON alone there. What sessions hold, and stored keys, are in ``redis_account_scripts``.

Each write is the next ``moment``. What a write replaces, and what is forgotten, is buried: kept
aside for ``VIEW_SECONDS``, with the moments of its birth and death beside it, so that a view that
began before shows what was there before, wherever it has got to. The braces keep all keys on one
slot of a cluster.

Spending is added by HINCRBY, in 64-bit integers. A lease's figures are Lua's doubles, which are
exact below 2^53 micro-dollars: nine billion USD.
"""

__all__ = [
    "FORGET", "HEAD", "HEAD_OF_WRITER", "PAGE", "SCHEMA_VERSION", "UPGRADE", "VIEW_SECONDS",
    "WRITE", "key_names",
]  # fmt: skip

SCHEMA_VERSION = 2
"""Raised by one with every change of what the keys hold."""

VIEW_SECONDS = 3_600
"""How long one view may be read for; also what a replaced version costs memory for."""


def key_names(prefix: str, *names: str) -> list[str]:
    """The keys of a script, in their order; ``state`` is always the first."""
    return [f"{{{prefix}}}:{name}" for name in ("state", *names)]


# Each script's first argument is the schema that its caller knows.
HEAD = """
local state = KEYS[1]
local schema = tonumber(redis.call('HGET', state, 'schema') or 0)
if schema > tonumber(ARGV[1]) then return redis.error_reply('NEWER ' .. schema) end
"""

HEAD_OF_WRITER = (
    HEAD
    + """
if schema == 0 then
  redis.call('HSET', state, 'schema', ARGV[1])
elseif schema < tonumber(ARGV[1]) then
  return redis.error_reply('OLDER ' .. schema)
end
"""
)

_RECORDS = """
local records, order, buried = KEYS[2], KEYS[3], KEYS[4]
"""

# Also lets go of what no view can ask for any more: more than this call buries, so none pile up.
_BURY = f"""
local moment = redis.call('HINCRBY', state, 'moment', 1)
local now = tonumber(redis.call('TIME')[1])
local old = redis.call(
  'ZRANGEBYSCORE', buried, '-inf', now - {VIEW_SECONDS}, 'LIMIT', 0, math.max(#ARGV, 100))
for _, field in ipairs(old) do
  redis.call('HDEL', records, field)
  redis.call('ZREM', order, field)
  redis.call('ZREM', buried, field)
end

local function bury(id, born, rest, ended_at)
  local field = id .. '\\0' .. born
  redis.call('HSET', records, field, moment .. ' ' .. born .. ' ' .. rest)
  redis.call('ZADD', order, ended_at, field)
  redis.call('ZADD', buried, now, field)
  return field
end
"""

# Arguments: id, rank, ended_at, charge and JSON of each record. Keys, after those of the records:
# ``spending:``, ``leases:``, ``lapses:`` and ``sums:KEY`` of each key that is charged. Returns how
# many it has written and "", or a key that is to be named too, for a record that is replaced next.
WRITE = (
    HEAD_OF_WRITER
    + _RECORDS
    + _BURY
    + """
local base = string.sub(records, 1, -1 - #'records')
local named = {['']= true}
for i = 5, #KEYS do named[KEYS[i]] = true end

local function parse(charge)
  local cost, day, length, at = string.match(charge, '^(-?%d+) (%S+) (%d+) ()')
  local last = at + length - 1
  return cost, day, string.sub(charge, at, last), string.sub(charge, last + 2)
end

local function charge_of(rest)
  local length, at = string.match(rest, '^(%d+) ()')
  return length and string.sub(rest, at, at + length - 1) or ''
end

local function spend(charge, back)
  if charge == '' then return end
  local cost, day, key, session = parse(charge)
  if back then cost = string.sub(cost, 1, 1) == '-' and string.sub(cost, 2) or '-' .. cost end
  -- A sum beyond 64 bits stays as it is: 9 trillion USD a day are no reason to lose a record.
  redis.pcall('HINCRBY', base .. 'spending:' .. key, day, cost)
  local leases = base .. 'leases:' .. key
  local lease = redis.call('HGET', leases, session)
  if not lease then return end
  local held, recorded, open, since = string.match(lease, '^(-?%d+) (-?%d+) (%d) (.*)$')
  if day < since then return end
  local now_recorded = string.format('%.0f', recorded + cost)
  redis.call('HSET', leases, session, table.concat({held, now_recorded, open, since}, ' '))
  local sums = base .. 'sums:' .. key
  local summed = redis.call('HMGET', sums, 'since', 'as_of')
  if summed[1] ~= since then return end
  local lapses = redis.call('ZSCORE', base .. 'lapses:' .. key, session)
  if lapses and tonumber(lapses) > tonumber(summed[2]) then
    local change = math.max(0, held - now_recorded) - math.max(0, held - recorded)
    redis.call('HINCRBY', sums, 'held', string.format('%.0f', change))
  end
end

for i = 2, #ARGV, 5 do
  local id, rank, ended_at, charge, json = unpack(ARGV, i, i + 4)
  local rest = #charge .. ' ' .. charge .. json
  local stands = redis.call('HGET', records, id)
  local keep = false
  if stands then
    local its_rank, born, its_rest = string.match(stands, '^(-?%d+) (%d+) (.*)$')
    keep = tonumber(its_rank) > tonumber(rank) or its_rest == rest
    if not keep then
      local its_charge = charge_of(its_rest)
      if its_charge ~= '' then
        local _, _, key = parse(its_charge)
        if not named[base .. 'spending:' .. key] then return {(i - 2) / 5, key} end
        spend(its_charge, true)
      end
      if tonumber(born) < moment then
        bury(id, born, its_rest, redis.call('ZSCORE', order, id))
      end
    end
  end
  if not keep then
    redis.call('HSET', records, id, rank .. ' ' .. moment .. ' ' .. rest)
    redis.call('ZADD', order, ended_at, id)
    spend(charge)
  end
end
return {(#ARGV - 1) / 5, ''}
"""
)

# Where to go on: after the field ``after`` of this ``score``, or with the least that is ``since``.
_PLACE = """
local first
if after == '' then
  first = redis.call('ZCOUNT', order, '-inf', '(' .. since)
elseif redis.call('ZSCORE', order, after) == score then
  first = redis.call('ZRANK', order, after) + 1
else
  -- It was replaced or removed meanwhile. The reader knows what it has seen of this score.
  first = redis.call('ZCOUNT', order, '-inf', '(' .. score)
end
"""

# Arguments: how many, the least ended_at, and the field and score to go on after.
# Returns the moment, the time, and field, score, value of each.
PAGE = (
    HEAD
    + _RECORDS
    + """
local many, since, after, score = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
"""
    + _PLACE
    + """
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

# Arguments: how many, the ended_at of the first that stays, and the field and score to go on
# after. Returns how many are forgotten, and the field and score again, or "" when all are.
FORGET = (
    HEAD_OF_WRITER
    + _RECORDS
    + _BURY
    + """
local many, stays, after, score = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local since = '-inf'
"""
    + _PLACE
    + """
local last = math.min(first + many, redis.call('ZCOUNT', order, '-inf', '(' .. stays)) - 1
if first > last then return {0, '', ''} end
local found = redis.call('ZRANGE', order, first, last, 'WITHSCORES')
local forgotten = 0
for i = 1, #found, 2 do
  after, score = found[i], found[i + 1]
  if not string.find(after, '%z') then
    local born, rest = string.match(redis.call('HGET', records, after), '^-?%d+ (%d+) (.*)$')
    redis.call('HDEL', records, after)
    redis.call('ZREM', order, after)
    after = bury(after, born, rest, score)
    forgotten = forgotten + 1
  end
end
return {forgotten, after, score}
"""
)

# From version 1, where nothing was charged: what was written then is charged now.
# Arguments: "begin", "end" or "", and id, the value as it was read and its charge of each. Keys,
# after those of the records: ``spending:KEY`` of each. Returns whether there is work to do.
UPGRADE = (
    HEAD
    + _RECORDS
    + """
local base = string.sub(records, 1, -1 - #'records')
if ARGV[2] == 'begin' and schema == 1 then
  -- From here on nobody writes without charging.
  redis.call('HSET', state, 'schema', ARGV[1], 'upgrading', 1)
elseif ARGV[2] == 'end' then
  redis.call('HDEL', state, 'upgrading')
end
for i = 3, #ARGV, 3 do
  local id, value, charge = unpack(ARGV, i, i + 2)
  -- Unless it was replaced meanwhile, or charged by somebody else who found it.
  if redis.call('HGET', records, id) == value then
    local head, json = string.match(value, '^(-?%d+ %d+ )(.*)$')
    redis.call('HSET', records, id, head .. #charge .. ' ' .. charge .. json)
    local cost, day, length, at = string.match(charge, '^(-?%d+) (%S+) (%d+) ()')
    redis.pcall(
      'HINCRBY', base .. 'spending:' .. string.sub(charge, at, at + length - 1), day, cost)
  end
end
return redis.call('HEXISTS', state, 'upgrading')
"""
)
