
-- queue_line.lua -- who is next: levels, classes, tenants and their virtual times (PROTOCOL.md 1).
------------------------------------------------------------------------------------------------------- needs

local CLASSES_MAX = 256
local WARM_MS = 500   -- a job is left so long for a worker that has its generator loaded
local IDLE_MS = 1500  -- an idle worker asks every second; older entries are not idle any more
local WARM_LOOK = 5

-- Memory in steps of a 32nd of a power of two, upwards: few classes, and nothing is given to a device it does not fit.
local function round_bytes(n)
    if n < 64 then
        return n
    end
    local _, e = math.frexp(n)
    local unit = 2 ^ (e - 6)
    return math.ceil(n / unit) * unit
end

local function class_of(a)
    return string.format('%s|%d|%.0f|%d|%d|%s', a.gen, a.ver, round_bytes(a.bytes), a.gmin, a.gmax, a.labels)
end

local function parse_class(text)
    local gen, ver, bytes, gmin, gmax, labels = text:match('^([^|]*)|(%d+)|(%d+)|(%d+)|(%d+)|(.*)$')
    return {gen = gen, ver = tonumber(ver), bytes = tonumber(bytes), gmin = tonumber(gmin), gmax = tonumber(gmax),
        labels = labels}
end

local function has_labels(have, wanted)
    for word in wanted:gmatch('[^,]+') do
        if not has_word(have, word) then
            return false
        end
    end
    return true
end

-- o: what a worker offers: gens ver bytes labels gang.
local function fits(class, o)
    return has_word(o.gens, class.gen) and class.ver <= o.ver and (o.bytes == 0 or class.bytes <= o.bytes) and
        (class.gmin <= 1 or o.gang) and (class.labels == '' or has_labels(o.labels, class.labels))
end

-- An offer as text, as workers are counted by, and back.
local function offer_text(gens, ver, bytes, gang, labels)
    return string.format('%s|%d|%.0f|%d|%s', gens, ver, bytes, gang and 1 or 0, labels)
end

local function parse_offer(text)
    local gens, ver, bytes, gang, labels = text:match('^([^|]*)|(%d+)|(%d+)|(%d)|(.*)$')
    return {gens = gens, ver = tonumber(ver), bytes = tonumber(bytes), gang = gang == '1', labels = labels}
end

-- Registered workers that fit the class and are not told to be quiet.
local function workers_for(b, class)
    local fit = 0
    local flat = redis.call('HGETALL', b .. ':offers')
    for i = 1, #flat, 2 do
        if fits(class, parse_offer(flat[i])) then
            fit = fit + tonumber(flat[i + 1])
        end
    end
    return fit
end

------------------------------------------------------------------------------------------------------- tenants

local TENANT = {'limited', 'max_running', 'n_run', 'gpu_day_ms', 'day', 'day_ms', 'weight'}

-- Why this tenant's jobs are not handed out: 'paused', 'running', 'budget'; nil when they are. And its weight.
local function tenant_closed(b, t, name)
    local f = redis.call('HMGET', b .. ':tenant:' .. name, unpack(TENANT))
    local weight = tonumber(f[7] or 1)
    if f[1] ~= '1' then
        return nil, weight
    end
    local cap, budget = tonumber(f[2] or 0), tonumber(f[4] or 0)
    if redis.call('SISMEMBER', b .. ':paused', 'tenant:' .. name) == 1 then
        return 'paused', weight
    elseif cap > 0 and tonumber(f[3] or 0) >= cap then
        return 'running', weight
    elseif budget > 0 and tonumber(f[5] or 0) == math.floor(t / DAY_MS) and tonumber(f[6] or 0) >= budget then
        return 'budget', weight
    end
    return nil, weight
end

-- fresh: the tenant has waited in no turn of the level until now. Otherwise all its turns keep its one virtual time.
local function join_turn(b, turn, tenant, fresh)
    local prio = turn:sub(1, 1)
    local mine = tonumber(redis.call('ZSCORE', b .. ':vt:' .. prio, tenant))
    if fresh or not mine then
        mine = math.max(mine or 0, tonumber(redis.call('HGET', b .. ':meta', 'v:' .. prio) or 0))
        redis.call('ZADD', b .. ':vt:' .. prio, mine, tenant)
    end
    redis.call('ZADD', b .. ':turn:' .. turn, mine, tenant)
    redis.call('ZADD', b .. ':turns', 9 - tonumber(prio), turn)
end

local function leave_turn(b, turn, tenant)
    redis.call('ZREM', b .. ':turn:' .. turn, tenant)
    if redis.call('EXISTS', b .. ':turn:' .. turn) == 0 then
        redis.call('ZREM', b .. ':turns', turn)
    end
end

-- After anything that may open or close a tenant: it stands in the turns of its lines exactly while it is open.
local function refresh_tenant(b, t, tenant)
    local closed, joined = tenant_closed(b, t, tenant), false
    local turns = redis.call('SMEMBERS', b .. ':lines:' .. tenant)
    for _, turn in ipairs(turns) do
        if closed then
            leave_turn(b, turn, tenant)
        elseif not redis.call('ZSCORE', b .. ':turn:' .. turn, tenant) then
            join_turn(b, turn, tenant, true)
            joined = true
            wake(b)
        end
    end
    for i = 1, joined and #turns or 0 do -- it may have stood in one already, since its day began
        redis.call('ZADD', b .. ':turn:' .. turns[i], redis.call('ZSCORE', b .. ':vt:' .. turns[i]:sub(1, 1), tenant), tenant)
    end
    if closed == 'budget' then
        redis.call('ZADD', b .. ':budget', (math.floor(t / DAY_MS) + 1) * DAY_MS, tenant)
    end
end

-- Moves the tenant's virtual time in a level, and its place in every turn of the level with it.
local function move_virtual(b, prio, tenant, mine)
    redis.call('ZADD', b .. ':vt:' .. prio, mine, tenant)
    for _, turn in ipairs(redis.call('SMEMBERS', b .. ':lines:' .. tenant)) do
        if turn:sub(1, 1) == tostring(prio) then
            redis.call('ZADD', b .. ':turn:' .. turn, 'XX', mine, tenant)
        end
    end
end

-- What an attempt took, instead of what was predicted at its claim. ms 0: it counts for nothing.
local function charge(b, t, job, ms)
    local key = b .. ':tenant:' .. job.tenant
    local day, weight, limited = unpack(redis.call('HMGET', key, 'day', 'weight', 'limited'))
    job.limited = limited
    local today = math.floor(t / DAY_MS)
    local mine = redis.call('ZSCORE', b .. ':vt:' .. job.prio, job.tenant)
    if mine and ms ~= job.cost then
        move_virtual(b, job.prio, job.tenant, tonumber(mine) + (ms - (job.cost or 0)) / tonumber(weight or 1))
    end
    if tonumber(day or 0) == today then
        redis.call('HINCRBY', key, 'day_ms', ms)
    else
        redis.call('HSET', key, 'day', today, 'day_ms', ms)
    end
end

------------------------------------------------------------------------------------------------------- sets

local MIDDLE = 2 ^ 43 -- place of the first ever; the front of a line grows down from it

local function level_counts(b, job, n, cost)
    redis.call('HINCRBY', b .. ':meta', 'n:' .. job.prio, n)
    redis.call('HINCRBY', b .. ':meta', 'w:' .. job.prio, cost)
end

local function line_of(b, id, job)
    return b .. ':line:' .. job.prio .. '|' .. job.cls .. '|' .. job.tenant
end

-- Into the line of its tenant, at its end or its front. The caller has written state and cost.
local function join_line(b, t, id, job, front)
    local turn = job.prio .. '|' .. job.cls
    local line = b .. ':line:' .. turn .. '|' .. job.tenant
    local place
    if front then
        place = MIDDLE - redis.call('HINCRBY', b .. ':meta', 'front', '1')
    else
        place = MIDDLE + redis.call('HINCRBY', b .. ':meta', 'seq', '1')
    end
    job.state = 'queued'
    redis.call('ZADD', b .. ':wait', t, id)
    redis.call('ZADD', line, place, id)
    redis.call('HINCRBY', b .. ':tenant:' .. job.tenant, 'n_wait', '1')
    level_counts(b, job, 1, job.cost)
    if redis.call('SADD', b .. ':lines:' .. job.tenant, turn) == 1 then
        redis.call('HINCRBY', b .. ':classes', job.cls, '1')
        local fresh = redis.call('HINCRBY', b .. ':act', job.prio .. '|' .. job.tenant, '1') == 1
        if fresh then
            redis.call('HINCRBY', b .. ':meta', 'N:' .. job.prio, '1')
        end
        if not tenant_closed(b, t, job.tenant) then
            join_turn(b, turn, job.tenant, fresh)
        end
    end
    wake(b)
end

local function enqueue(b, t, id, job, front)
    job.cost = predict_ms(b, job.gen, job.gflop)
    set_job(b, id, 'state', 'queued', 'cost', job.cost)
    join_line(b, t, id, job, front)
end

local function less(b, hash, field)
    if redis.call('HINCRBY', b .. hash, field, '-1') <= 0 then
        redis.call('HDEL', b .. hash, field)
        return true
    end
end

local function leave_line(b, id, job)
    local turn = job.prio .. '|' .. job.cls
    local line = b .. ':line:' .. turn .. '|' .. job.tenant
    redis.call('ZREM', b .. ':wait', id)
    redis.call('ZREM', line, id)
    redis.call('HINCRBY', b .. ':tenant:' .. job.tenant, 'n_wait', '-1')
    level_counts(b, job, -1, -job.cost)
    if redis.call('EXISTS', line) == 0 then
        leave_turn(b, turn, job.tenant)
        redis.call('SREM', b .. ':lines:' .. job.tenant, turn)
        less(b, ':classes', job.cls)
        if less(b, ':act', job.prio .. '|' .. job.tenant) then
            redis.call('HINCRBY', b .. ':meta', 'N:' .. job.prio, '-1')
        end
    end
end

local function free_workers(b, id, job)
    for _, name in ipairs(job.ranks or {job.worker}) do
        local me = b .. ':worker:' .. name
        if redis.call('HGET', me, 'job') == id then
            redis.call('HDEL', me, 'job', 'rank', 'claim', 'untold')
        end
    end
end

local function leave_running(b, t, id, job)
    redis.call('ZREM', b .. ':lease', id)
    for rank = 2, #(job.ranks or {}) do
        redis.call('ZREM', b .. ':lease', id .. '#' .. (rank - 1))
        redis.call('HINCRBY', b .. ':meta', 'more_ranks', '-1')
    end
    if job.dr > 0 or (job.stop or 0) ~= 0 then
        redis.call('ZREM', b .. ':clock', id)
    end
    free_workers(b, id, job)
    redis.call('HINCRBY', b .. ':tenant:' .. job.tenant, 'n_run', '-1')
    if job.limited == nil then
        job.limited = redis.call('HGET', b .. ':tenant:' .. job.tenant, 'limited')
    end
    if job.limited == '1' then
        refresh_tenant(b, t, job.tenant)
    end
end

-- Out of wherever its state says it is.
local function leave(b, t, id, job)
    if job.state == 'queued' then
        leave_line(b, id, job)
    elseif job.state == 'running' then
        leave_running(b, t, id, job)
    elseif job.state == 'delayed' then
        redis.call('ZREM', b .. ':delayed', id)
        redis.call('HINCRBY', b .. ':tenant:' .. job.tenant, 'n_wait', '-1')
    else
        redis.call('ZREM', b .. ':ended', id)
        redis.call('ZREM', b .. ':dead', id)
    end
end

local function delay(b, id, job, due)
    redis.call('ZADD', b .. ':delayed', due, id)
    redis.call('HINCRBY', b .. ':tenant:' .. job.tenant, 'n_wait', '1')
    set_job(b, id, 'state', 'delayed', 'retry', due)
end

local function requeue(b, t, id, job, front)
    leave(b, t, id, job)
    redis.call('HDEL', b .. ':job:' .. id, 'stage', 'step', 'total', 'eta', 'retry', 'ranks', 'due')
    enqueue(b, t, id, job, front)
end

------------------------------------------------------------------------------------------------------- places

-- How many go before a QUEUED job (-1: it is not queued), and their predicted milliseconds. Exact for one tenant; with
-- several, a tenant's own rank times the tenants that wait in the level.
local function position(b, id, job)
    if job.state ~= 'queued' then
        return -1, 0
    end
    local n, ms = 0, 0
    local names = {'N:' .. job.prio, 'n:' .. job.prio, 'w:' .. job.prio}
    for prio = job.prio + 1, 9 do
        names[#names + 1] = 'n:' .. prio
        names[#names + 1] = 'w:' .. prio
    end
    local got = redis.call('HMGET', b .. ':meta', unpack(names))
    for i = 4, #names, 2 do
        n = n + tonumber(got[i] or 0)
        ms = ms + tonumber(got[i + 1] or 0)
    end
    local rank = redis.call('ZRANK', line_of(b, id, job), id) or 0
    local tenants, here, here_ms = tonumber(got[1] or 1), tonumber(got[2] or 1), tonumber(got[3] or 0)
    local before = math.min(math.max(here - 1, 0), rank * math.max(1, tenants))
    return n + before, ms + (here > 0 and here_ms * before / here or 0)
end

-- Predicted seconds until a QUEUED job starts; -1 when no registered worker fits it.
local function start_s(b, job, ahead_ms, fit)
    if job.state ~= 'queued' or fit == 0 then
        return -1
    end
    local busy = redis.call('ZCARD', b .. ':lease') >= fit and 0.5 * predict_ms(b, job.gen, 0) or 0
    return (ahead_ms + busy) / fit / 1000
end

------------------------------------------------------------------------------------------------------- the choice

-- Is there an idle worker that fits and has the generator loaded?
local function warm_one(b, t, class, me)
    local key = b .. ':idle:' .. class.gen
    local idle = redis.call('ZRANGEBYSCORE', key, t - IDLE_MS, '+inf', 'LIMIT', 0, WARM_LOOK)
    for _, name in ipairs(idle) do
        local offer = name ~= me and redis.call('HGET', b .. ':worker:' .. name, 'offer')
        if offer and offer ~= '' and fits(class, parse_offer(offer)) then
            return true
        end
    end
end

-- Is this turn's head left to somebody else for now?
local function left_to_warm(b, t, class, head, me, warm)
    if has_word(warm, class.gen) then
        return false
    end
    local since = tonumber(redis.call('ZSCORE', b .. ':wait', head) or 0)
    return t - since < WARM_MS and warm_one(b, t, class, me) or false
end

-- The workers of a host that fit a class and are not told to be quiet: how many, how many of them run nothing (or are
-- me), and all by name.
local function on_host(b, class, host, me)
    local n, free, able = 0, 0, {}
    for _, name in ipairs(redis.call('SMEMBERS', b .. ':host:' .. host)) do
        local offer, job = unpack(redis.call('HMGET', b .. ':worker:' .. name, 'offer', 'job'))
        if offer and offer ~= '' and fits(class, parse_offer(offer)) then
            n = n + 1
            if not job or name == me then
                free, able[name] = free + 1, true
            end
        end
    end
    return n, free, able
end

local function left_to_host(b, t, class, head, host)
    if class.gmin <= 1 then
        return false
    elseif on_host(b, class, host) < class.gmin then
        return true
    end
    local other, at = unpack(redis.call('HMGET', b .. ':job:' .. head, 'ghost', 'ghost_t'))
    return other and other ~= host and t - tonumber(at) < 5000
end

-- The head of a turn if this worker may have it: {tenant, score, id, place, class, prio}; and whether it was left to others.
local function candidate(b, t, turn, class, a)
    local top = redis.call('ZRANGE', b .. ':turn:' .. turn, 0, 0, 'WITHSCORES')
    if not top[1] then
        return nil
    end
    local head = redis.call('ZRANGE', b .. ':line:' .. turn .. '|' .. top[1], 0, 0, 'WITHSCORES')
    if left_to_warm(b, t, class, head[1], a.worker, a.warm) or left_to_host(b, t, class, head[1], a.host) then
        return nil
    end
    return {tenant = top[1], score = tonumber(top[2]), id = head[1], place = tonumber(head[2]), class = class}
end

-- The job that is next for a worker that offers o; nil when there is none.
local function next_job(b, t, o, a)
    local best, level
    local paused = redis.call('SMEMBERS', b .. ':paused')
    local off = {}
    for _, word in ipairs(paused) do
        off[word] = true
    end
    if off.queue then
        return nil
    end
    for _, turn in ipairs(redis.call('ZRANGE', b .. ':turns', 0, -1)) do
        if best and turn:sub(1, 1) ~= level then
            break
        end
        local class = parse_class(turn:sub(3))
        local one = not off['generator:' .. class.gen] and fits(class, o) and candidate(b, t, turn, class, a)
        if one and (not best or one.score < best.score or (one.score == best.score and one.place < best.place)) then
            best, level = one, turn:sub(1, 1)
        end
    end
    return best
end
