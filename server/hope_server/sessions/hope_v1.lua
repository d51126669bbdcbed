#!lua name=hope_v1
-- Every change of a session happens in one of these functions, so it is atomic: compare first, then write.
-- Keys of a session share one hash tag: h1:{tenant/session}:m meta hash, :j journal stream (entry id = last
-- sequence number of the record, value = chain hash and sealed record), :i turn keys, :g chunks that are
-- staged, :p:<name> snapshot chunks, :d documents. Replies start with a fixed word; text that a caller sent never reaches
-- an error reply. Only commands of Redis 7.0.

local TURN_KEYS = 256       -- turn keys remembered for a session
local STAGED_SECONDS = 600  -- life of a chunk that no snapshot refers to yet
local HIDDEN_SECONDS = 3600 -- life of a session that is made and not revealed
local CHAIN_BYTES = 32

local function beside(meta, suffix)
  return string.sub(meta, 1, -2) .. suffix
end

local function chunk_key(meta, id)
  return beside(meta, 'p:' .. id)
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A write, which is done only for the session's writer. ARGV begins with the fence and the nonce: both must be
-- equal to the session's. The write gets the meta fields that it names, from the fourth on.
local function fenced(write, ...)
  local fields = { 'seq', 'fence', 'nonce', ... }
  return function(keys, args)
    local at = redis.call('HMGET', keys[1], unpack(fields))
    if not at[1] then
      return { 'NOTFOUND' }
    end
    if at[2] ~= args[1] or at[3] ~= args[2] then
      return { 'FENCED' }
    end
    return write(keys, args, at)
  end
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

-- Whether the state has stood after token seq.
local function on_path(start, spans, seq)
  if seq > start then
    return true
  end
  for first, last in string.gmatch(spans, '(%d+)-(%d+)') do
    if tonumber(first) <= seq and seq <= tonumber(last) then
      return true
    end
  end
  return false
end

-- Whether a snapshot after token seq is of the path. frozen is '' or the last number that was learned and that
-- of the record that says so: tokens between the two were read anew, and get no snapshot.
local function keeps(start, spans, frozen, seq)
  local good, said = string.match(frozen or '', '^(%d+)-(%d+)$')
  if good and tonumber(good) < seq and seq < tonumber(said) then
    return false
  end
  return on_path(start, spans, seq)
end

local function drop_newest_snapshot(meta)
  local at = redis.call('HMGET', meta, 'snap_chunks', 'prev_seq', 'prev_manifest', 'prev_chunks', 'prev_chain')
  unlink_chunks(meta, at[1], ids_in(at[4]))
  if at[2] then
    redis.call('HSET', meta, 'snap_seq', at[2], 'snap_manifest', at[3], 'snap_chunks', at[4], 'snap_chain', at[5])
    redis.call('HDEL', meta, 'prev_seq', 'prev_manifest', 'prev_chunks', 'prev_chain')
  else
    redis.call('HSET', meta, 'snap_seq', 0)
    redis.call('HDEL', meta, 'snap_manifest', 'snap_chunks', 'snap_chain')
  end
end

-- Both generations lie on the path in order, so what a rollback or a freeze leaves behind is at the end.
local function drop_snapshots_off_path(meta, start, spans, frozen)
  for _ = 1, 2 do
    local seq = tonumber(redis.call('HGET', meta, 'snap_seq'))
    if seq > 0 and not keeps(start, spans, frozen, seq) then
      drop_newest_snapshot(meta)
    end
  end
end

-- A hidden session lives on from each write; a revealed one for ever.
local function keep_alive(keys, state)
  if state == 'hidden' then
    for _, key in ipairs(keys) do
      redis.call('EXPIRE', key, HIDDEN_SECONDS)
    end
  end
end

-- ARGV: created_us, model, sealed name or '', state: ok or hidden
local function create(keys, args)
  local meta = keys[1]
  local found = redis.call('HMGET', meta, 'created_us', 'model')
  if found[1] then
    -- the same creation sent twice
    return { found[1] == args[1] and found[2] == args[2] and 'OK' or 'TAKEN' }
  end
  redis.call('HSET', meta, 'v', 2, 'created_us', args[1], 'model', args[2], 'seq', 0,
    'head', string.rep('0', 2 * CHAIN_BYTES), 'start_seq', 0, 'spans', '', 'frozen_seq', '', 'snap_seq', 0,
    'state', args[4],
    'fence', 0, 'nonce', '', 'lease_until', 0)
  if args[3] ~= '' then
    redis.call('HSET', meta, 'name', args[3])
  end
  keep_alive(keys, args[4])
  return { 'OK' }
end

-- ARGV: sealed name. It says something about the session and changes nothing of it, so it needs no fence
local function rename(keys, args)
  if redis.call('EXISTS', keys[1]) == 0 then
    return { 'NOTFOUND' }
  end
  redis.call('HSET', keys[1], 'name', args[1])
  return { 'OK' }
end

-- ARGV: fence, nonce
local function reveal(keys, args)
  for id in pairs(ids_in(redis.call('HGET', keys[1], 'snap_chunks'))) do
    redis.call('PERSIST', chunk_key(keys[1], id))
  end
  redis.call('HSET', keys[1], 'state', 'ok')
  for _, key in ipairs(keys) do
    redis.call('PERSIST', key)
  end
  return { 'OK' }
end

-- ARGV: nonce, milliseconds, then the names of the meta fields to reply. A lease is for liveness only.
local function acquire(keys, args)
  local meta, nonce = keys[1], args[1]
  local at = redis.call('HMGET', meta, 'seq', 'fence', 'nonce', 'lease_until')
  if not at[1] then
    return { 'NOTFOUND' }
  end
  local now = now_ms()
  local fence = tonumber(at[2])
  if at[3] ~= nonce then
    if tonumber(at[4]) > now then
      return { 'HELD', tonumber(at[4]) - now }
    end
    fence = fence + 1
  end
  redis.call('HSET', meta, 'fence', fence, 'nonce', nonce, 'lease_until', now + args[2])
  return { 'OK', fence, redis.call('HMGET', meta, unpack(args, 3)) }
end

-- ARGV: fence, nonce, milliseconds from now; 0 ends the lease
local function renew(keys, args)
  redis.call('HSET', keys[1], 'lease_until', args[3] == '0' and 0 or now_ms() + args[3])
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

-- The name among those of a turn's key (one for each encryption key) that is remembered, and its range.
local function known_turn(turns, names)
  for name in string.gmatch(names, '%x+') do
    local range = redis.call('HGET', turns, 't:' .. name)
    if range then
      return name, range
    end
  end
end

-- ARGV: fence, nonce, expected seq and head, new seq and head, new start_seq or '', new spans, new frozen_seq,
-- sealed transcript or '', names of the turn's key separated by blanks (the newest encryption key's first), the
-- turn's first seq, then (last seq, entry) of each record
local function commit(keys, args, at)
  local meta, journal, turns = keys[1], keys[2], keys[3]
  local seq, head, state, frozen = at[1], at[4], at[5], at[6]
  if seq == args[5] and head == args[6] then
    -- the same commit sent twice: no other one has this hash
    return { 'OK' }
  end
  local name, range = known_turn(turns, args[11])
  if name then
    local first, last = string.match(range, '^(%d+) (%d+)$')
    if first ~= args[12] then
      return { 'KNOWN', first, last }
    end
  end
  if state == 'quarantined' then
    return { 'QUARANTINED' }
  end
  if seq ~= args[3] or head ~= args[4] then
    return { 'SEQ', seq }
  end
  if string.match(args[9], '(%d+)$') == args[5] and frozen and frozen ~= '' then
    return { 'FROZEN' }
  end
  for i = 13, #args, 2 do
    redis.call('XADD', journal, args[i] .. '-0', 'r', args[i + 1])
  end
  redis.call('HSET', meta, 'seq', args[5], 'head', args[6])
  if args[7] ~= '' then
    redis.call('HSET', meta, 'start_seq', args[7], 'spans', args[8], 'frozen_seq', args[9])
    drop_snapshots_off_path(meta, tonumber(args[7]), args[8], args[9])
  end
  if args[10] ~= '' then
    redis.call('HSET', meta, 'transcript', args[10], 'transcript_seq', args[5])
  end
  if args[11] ~= '' then
    remember_turn(turns, name or string.match(args[11], '%x+'), name, args[12], args[5])
  end
  keep_alive(keys, state)
  return { 'OK' }
end

-- ARGV: after, limit, bytes that end the page. Reply: OK, head's seq and hash, chain before the first entry
-- or '', then entry id and value of each record
local function page(keys, args)
  local head = redis.call('HMGET', keys[1], 'seq', 'head')
  if not head[1] then
    return { 'NOTFOUND' }
  end
  local reply, start, left, size = { 'OK', head[1], head[2], '' }, '(' .. args[1] .. '-0', tonumber(args[2]), 0
  while left > 0 and size < tonumber(args[3]) do
    local entries = redis.call('XRANGE', keys[2], start, '+', 'COUNT', math.min(left, 8))
    if #entries == 0 then
      break
    end
    for _, entry in ipairs(entries) do
      if size >= tonumber(args[3]) then
        break
      end
      reply[#reply + 1], reply[#reply + 2] = entry[1], entry[2][2]
      start, left, size = '(' .. entry[1], left - 1, size + #entry[2][2]
    end
  end
  if reply[5] then
    local before = redis.call('XREVRANGE', keys[2], '(' .. reply[5], '-', 'COUNT', 1)
    reply[4] = before[1] and string.sub(before[1][2][2], 1, CHAIN_BYTES) or ''
  end
  return reply
end

-- ARGV: fence, nonce, chunk ids. Reply: OK, then those that must be sent; a staged one gets its full life again
local function missing(keys, args)
  local meta, staged = keys[1], beside(keys[1], 'g')
  local reply = { 'OK' }
  for i = 3, #args do
    local ttl = redis.call('TTL', chunk_key(meta, args[i]))
    if ttl == -2 then
      reply[#reply + 1] = args[i]
      redis.call('SADD', staged, args[i])
    elseif ttl >= 0 then
      redis.call('EXPIRE', chunk_key(meta, args[i]), STAGED_SECONDS)
    end
  end
  redis.call('EXPIRE', staged, STAGED_SECONDS)
  return reply
end

-- ARGV: fence, nonce, seq, sealed manifest, chunk ids separated by blanks, the seq and chain of a record at or
-- after seq, which the journal must still have. Keeps the generation before, drops the one before that
local function publish_snapshot(keys, args)
  local meta, seq = keys[1], tonumber(args[3])
  local at = redis.call('HMGET', meta, 'seq', 'start_seq', 'spans', 'snap_seq', 'snap_manifest', 'snap_chunks',
    'snap_chain', 'prev_chunks', 'state', 'frozen_seq')
  local fits = keeps(tonumber(at[2]), at[3], at[10], seq)
  if seq < 1 or seq > tonumber(at[1]) or seq < tonumber(at[4]) or not fits then
    return { 'SEQ', at[1], at[4] }
  end
  local known = redis.call('XRANGE', keys[2], args[6] .. '-0', args[6] .. '-0')[1]
  if tonumber(args[6]) < seq or not known or string.sub(known[2][2], 1, CHAIN_BYTES) ~= args[7] then
    return { 'SEQ', at[1], at[4] }
  end
  local record = redis.call('XRANGE', keys[2], args[3] .. '-0', '+', 'COUNT', 1)[1]
  local kept = ids_in(args[5])
  for id in pairs(kept) do
    if redis.call('EXISTS', chunk_key(meta, id)) == 0 then
      return { 'MISSING' }
    end
  end
  for id in pairs(kept) do
    if at[9] == 'hidden' then
      redis.call('EXPIRE', chunk_key(meta, id), HIDDEN_SECONDS)
    else
      redis.call('PERSIST', chunk_key(meta, id))
    end
  end
  local replaced = seq == tonumber(at[4])
  local stays, goes = at[6], at[8]
  if replaced then
    stays, goes = at[8], at[6]
  end
  for id in pairs(ids_in(stays)) do
    kept[id] = true
  end
  unlink_chunks(meta, goes, kept)
  if not replaced and at[5] then
    redis.call('HSET', meta, 'prev_seq', at[4], 'prev_manifest', at[5], 'prev_chunks', at[6], 'prev_chain', at[7])
  end
  redis.call('HSET', meta, 'snap_seq', args[3], 'snap_manifest', args[4], 'snap_chunks', args[5],
    'snap_chain', record and string.sub(record[2][2], 1, CHAIN_BYTES) or '')
  return { 'OK' }
end

-- ARGV: fence, nonce
local function quarantine(keys, args)
  redis.call('HSET', keys[1], 'state', 'quarantined')
  return { 'OK' }
end

-- ARGV: fence, nonce
local function delete(keys, args)
  local meta, staged = keys[1], beside(keys[1], 'g')
  local lists = redis.call('HMGET', meta, 'snap_chunks', 'prev_chunks')
  unlink_chunks(meta, lists[1], {})
  unlink_chunks(meta, lists[2], {})
  unlink_chunks(meta, table.concat(redis.call('SMEMBERS', staged), ' '), {})
  redis.call('UNLINK', staged, beside(meta, 'd'), unpack(keys))
  return { 'OK' }
end

-- ARGV: most documents, name, sealed text or '' to remove it. They stand beside the journal and change nothing
-- of it, so no fence is asked for; the newest text stands.
local function document(keys, args)
  local meta, documents = keys[1], beside(keys[1], 'd')
  if redis.call('EXISTS', meta) == 0 then
    return { 'NOTFOUND' }
  end
  if args[3] == '' then
    redis.call('HDEL', documents, args[2])
  elseif redis.call('HEXISTS', documents, args[2]) == 0 and redis.call('HLEN', documents) >= tonumber(args[1]) then
    return { 'FULL' }
  else
    redis.call('HSET', documents, args[2], args[3])
  end
  return { 'OK' }
end

redis.register_function('hope_v1_create', create)
redis.register_function('hope_v1_reveal', fenced(reveal))
redis.register_function('hope_v1_rename', rename)
redis.register_function('hope_v1_acquire', acquire)
redis.register_function('hope_v1_renew', fenced(renew))
local fenced_commit = fenced(commit, 'head', 'state', 'frozen_seq')
redis.register_function('hope_v1_commit', fenced_commit)
redis.register_function('hope_v1_rollback', fenced_commit)
redis.register_function('hope_v1_freeze', fenced_commit)
redis.register_function('hope_v1_missing', fenced(missing))
redis.register_function('hope_v1_publish_snapshot', fenced(publish_snapshot))
redis.register_function('hope_v1_quarantine', fenced(quarantine))
redis.register_function('hope_v1_delete', fenced(delete))
redis.register_function('hope_v1_document', document)
redis.register_function { function_name = 'hope_v1_page', callback = page, flags = { 'no-writes' } }
