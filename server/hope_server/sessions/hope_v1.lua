#!lua name=hope_v1
-- Every change of a session happens in one of these functions, so it is atomic: compare first, then write.
-- Keys of a session share one hash tag: h1:{tenant/session}:m meta hash, :j journal stream (entry id = last sequence
-- number of the record), :i turn keys, :p:<sha256> snapshot chunks. Replies start with a fixed word; text
-- that a caller sent never reaches an error reply.

local TURN_KEYS = 256      -- turn keys remembered for a session
local STAGED_SECONDS = 600 -- life of a chunk that no snapshot refers to yet

local function chunk_key(meta, id)
  return string.sub(meta, 1, -2) .. 'p:' .. id
end

local function ids_in(list)
  local found = {}
  for id in string.gmatch(list or '', '%x+') do
    found[id] = true
  end
  return found
end

local function unlink_chunks(meta, list, kept)
  for id in pairs(ids_in(list)) do
    if not kept[id] then
      redis.call('UNLINK', chunk_key(meta, id))
    end
  end
end

local function forget_snapshots(meta)
  local lists = redis.call('HMGET', meta, 'snap_chunks', 'prev_chunks')
  unlink_chunks(meta, lists[1], {})
  unlink_chunks(meta, lists[2], {})
  redis.call('HDEL', meta, 'snap_manifest', 'snap_chunks', 'prev_seq', 'prev_manifest', 'prev_chunks')
  redis.call('HSET', meta, 'snap_seq', 0)
end

-- ARGV: created_us, model, name, whether there is a name
local function create(keys, args)
  local meta = keys[1]
  local found = redis.call('HMGET', meta, 'created_us', 'model')
  if found[1] then
    -- the same creation sent twice
    return { found[1] == args[1] and found[2] == args[2] and 'OK' or 'TAKEN' }
  end
  redis.call('HSET', meta, 'v', 1, 'created_us', args[1], 'model', args[2], 'seq', 0, 'base_seq', 0,
    'snap_seq', 0, 'transcript_count', 0, 'transcript_sha256', '', 'first_message_sha256', '')
  if args[4] == '1' then
    redis.call('HSET', meta, 'name', args[3])
  end
  return { 'OK' }
end

-- A ring of the most recent turn keys in one hash: c counts, s:<slot> names the key, t:<key> is its range.
local function remember_turn(turns, key, known, first, last)
  if not known then
    local count = tonumber(redis.call('HGET', turns, 'c') or '0')
    local slot = 's:' .. (count % TURN_KEYS)
    local oldest = redis.call('HGET', turns, slot)
    if oldest then
      redis.call('HDEL', turns, 't:' .. oldest)
    end
    redis.call('HSET', turns, slot, key, 'c', count + 1)
  end
  redis.call('HSET', turns, 't:' .. key, first .. ' ' .. last)
end

-- ARGV: expected seq, new seq, seq of the last reset or '', transcript count or '', its two digests,
-- turn key or '', the turn's first seq, then (last seq, payload) of each record
local function append(keys, args)
  local meta, journal, turns = keys[1], keys[2], keys[3]
  local seq = redis.call('HGET', meta, 'seq')
  if not seq then
    return { 'NOTFOUND' }
  end
  local known = false
  if args[7] ~= '' then
    known = redis.call('HGET', turns, 't:' .. args[7])
    if known then
      local first, last = string.match(known, '^(%d+) (%d+)$')
      if first ~= args[8] then
        return { 'KNOWN', first, last }
      end
    end
  end
  if seq ~= args[1] then
    return { 'SEQ', seq }
  end
  for i = 9, #args, 2 do
    redis.call('XADD', journal, args[i] .. '-0', 'r', args[i + 1])
  end
  redis.call('HSET', meta, 'seq', args[2])
  if args[3] ~= '' then
    redis.call('HSET', meta, 'base_seq', args[3])
    forget_snapshots(meta)
  end
  if args[4] ~= '' then
    redis.call('HSET', meta, 'transcript_count', args[4], 'transcript_sha256', args[5],
      'first_message_sha256', args[6])
  end
  if args[7] ~= '' then
    remember_turn(turns, args[7], known, args[8], args[2])
  end
  return { 'OK', args[2] }
end

-- ARGV: after, limit, bytes that end the page. Reply: OK, head, then entry id and payload of each record
local function page(keys, args)
  local head = redis.call('HGET', keys[1], 'seq')
  if not head then
    return { 'NOTFOUND' }
  end
  local reply, start, left, size = { 'OK', head }, '(' .. args[1] .. '-0', tonumber(args[2]), 0
  while left > 0 and size < tonumber(args[3]) do
    local entries = redis.call('XRANGE', keys[2], start, '+', 'COUNT', math.min(left, 8))
    if #entries == 0 then
      return reply
    end
    for _, entry in ipairs(entries) do
      if size >= tonumber(args[3]) then
        return reply
      end
      reply[#reply + 1], reply[#reply + 2] = entry[1], entry[2][2]
      start, left, size = '(' .. entry[1], left - 1, size + #entry[2][2]
    end
  end
  return reply
end

-- ARGV: chunk ids. Reply: OK, then those that must be sent; a staged one gets its full life again
local function missing(keys, args)
  if redis.call('EXISTS', keys[1]) == 0 then
    return { 'NOTFOUND' }
  end
  local reply = { 'OK' }
  for _, id in ipairs(args) do
    local ttl = redis.call('TTL', chunk_key(keys[1], id))
    if ttl == -2 then
      reply[#reply + 1] = id
    elseif ttl >= 0 then
      redis.call('EXPIRE', chunk_key(keys[1], id), STAGED_SECONDS)
    end
  end
  return reply
end

-- ARGV: seq, manifest, chunk ids separated by blanks. Keeps the generation before, drops the one before that
local function publish(keys, args)
  local meta, seq = keys[1], tonumber(args[1])
  local at = redis.call('HMGET', meta, 'seq', 'base_seq', 'snap_seq', 'snap_manifest', 'snap_chunks', 'prev_chunks')
  if not at[1] then
    return { 'NOTFOUND' }
  end
  if seq > tonumber(at[1]) or seq <= tonumber(at[2]) or seq < tonumber(at[3]) then
    return { 'SEQ', at[1], at[2], at[3] }
  end
  local kept = ids_in(args[3])
  for id in pairs(kept) do
    if redis.call('EXISTS', chunk_key(meta, id)) == 0 then
      return { 'MISSING' }
    end
  end
  for id in pairs(kept) do
    redis.call('PERSIST', chunk_key(meta, id))
  end
  local replaced = seq == tonumber(at[3])
  local stays, goes = at[5], at[6]
  if replaced then
    stays, goes = at[6], at[5]
  end
  for id in pairs(ids_in(stays)) do
    kept[id] = true
  end
  unlink_chunks(meta, goes, kept)
  if not replaced and at[4] then
    redis.call('HSET', meta, 'prev_seq', at[3], 'prev_manifest', at[4], 'prev_chunks', at[5])
  end
  redis.call('HSET', meta, 'snap_seq', args[1], 'snap_manifest', args[2], 'snap_chunks', args[3])
  return { 'OK' }
end

local function delete(keys)
  if redis.call('EXISTS', keys[1]) == 0 then
    return { 'NOTFOUND' }
  end
  forget_snapshots(keys[1])
  redis.call('UNLINK', keys[1], keys[2], keys[3])
  return { 'OK' }
end

redis.register_function('hope_v1_create', create)
redis.register_function('hope_v1_append', append)
redis.register_function('hope_v1_missing', missing)
redis.register_function('hope_v1_publish', publish)
redis.register_function('hope_v1_delete', delete)
redis.register_function { function_name = 'hope_v1_page', callback = page, flags = { 'no-writes' } }
