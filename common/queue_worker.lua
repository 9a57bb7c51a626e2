
-- queue_worker.lua -- what workers say: hello, claim, renew, progress, settle, release.
------------------------------------------------------------------------------------------------------- the registry

local GANG_HOLD_MS = 5000 -- a worker that is held for a gang and does not claim for so long is let go

-- What the entry offers now, into the counts by which fitting workers are known.
local function count_offer(b, name)
    local me = b .. ':worker:' .. name
    local f = redis.call('HMGET', me, 'offer', 'gens', 'ver', 'memory_bytes', 'gang', 'labels', 'quiet', 'unfit')
    local gens = {}
    for gen in (f[2] or ''):gmatch('[^,]+') do
        if not f[8] or not has_word(f[8], gen) then
            gens[#gens + 1] = gen
        end
    end
    local offer = ''
    if f[7] ~= '1' and #gens > 0 then
        offer = offer_text(table.concat(gens, ','), tonumber(f[3] or 1), tonumber(f[4] or 0), f[5] == '1', f[6] or '')
    end
    local before = f[1] or ''
    if offer ~= before then
        if before ~= '' then
            less(b, ':offers', before)
        end
        if offer ~= '' then
            redis.call('HINCRBY', b .. ':offers', offer, '1')
        end
        redis.call('HSET', me, 'offer', offer)
    end
end

-- Held for a gang no more.
local function let_go(b, name, host)
    if host and host ~= '' then
        redis.call('HDEL', b .. ':forming:' .. host, 'w:' .. name)
    end
end

local function hello(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local me = b .. ':worker:' .. a.worker
    local gens = tostring(a.info.generators or '')
    local pid = redis.call('HGET', me, 'pid')
    if pid and pid ~= tostring(a.info.pid) then -- the name's new bearer starts afresh
        redis.call('HDEL', me, 'unfit', 'job', 'rank', 'claim', 'claimed', 'untold', 'quiet', 'started_ms')
        let_go(b, a.worker, redis.call('HGET', me, 'host'))
    end
    for name, value in pairs(a.info) do
        local what, gen = name:match('^(%l+):(.+)$')
        if what == 'cost' or what == 'weights' then
            redis.call('HSET', b .. ':model', what .. ':' .. gen, value)
        else
            redis.call('HSET', me, name, value)
        end
    end
    redis.call('HSETNX', me, 'started_ms', t)
    redis.call('HSET', me, 'gens', gens, 'seen_ms', t)
    if tostring(a.info.gang or 0) == '1' then
        redis.call('SADD', b .. ':host:' .. tostring(a.info.host), a.worker)
    end
    redis.call('ZADD', b .. ':workers', t + a.ttl, a.worker)
    count_offer(b, a.worker)
    return answer('OK')
end

local function forget_worker(b, name)
    local me = b .. ':worker:' .. name
    local offer, host, gens = unpack(redis.call('HMGET', me, 'offer', 'host', 'gens'))
    if offer and offer ~= '' then
        less(b, ':offers', offer)
    end
    let_go(b, name, host)
    if host then
        redis.call('SREM', b .. ':host:' .. host, name)
    end
    for gen in (gens or ''):gmatch('[^,]+') do
        redis.call('ZREM', b .. ':idle:' .. gen, name)
    end
    redis.call('DEL', me)
    redis.call('ZREM', b .. ':workers', name)
end

local function bye(keys, args)
    forget_worker(keys[1], cmsgpack.unpack(args[1]).worker)
    return answer('OK')
end

local function quiet(keys, args)
    local b, a = keys[1], cmsgpack.unpack(args[1])
    local me = b .. ':worker:' .. a.worker
    if redis.call('EXISTS', me) == 0 then
        return answer('NOTFOUND')
    end
    redis.call('HSET', me, 'quiet', a.on and 1 or 0)
    count_offer(b, a.worker)
    if a.on then
        let_go(b, a.worker, redis.call('HGET', me, 'host'))
    else
        wake(b)
    end
    return answer('OK')
end

------------------------------------------------------------------------------------------------------- claim

local function handed_out(b, id, job, rank, record)
    local ranks = job.ranks or {}
    return answer('OK', {got = true, quiet = false, attempt = job.attempt, fails = job.fails, deaths = job.deaths,
        run = job.dr, rank = rank, size = math.max(1, #ranks), ranks = #ranks > 1 and ranks or nil},
        record or redis.call('HGET', b .. ':job:' .. id, 'rec'))
end

-- The job that this worker holds already: this very claim's, its answer lost; or a gang's that it was not told of yet.
local function held_before(b, t, a, me)
    if not me.job then
        return nil
    end
    local job = job_of(b, me.job)
    if not job or job.state ~= 'running' then
        return nil
    end
    local rank = tonumber(me.rank or 0)
    local owner = job.ranks and job.ranks[rank + 1] or job.worker
    local mine = me.untold == tostring(job.attempt) or (a.token ~= '' and me.claim == a.token)
    if owner ~= a.worker or not mine then
        return nil
    end
    redis.call('HSET', b .. ':worker:' .. a.worker, 'claim', a.token, 'untold', '')
    redis.call('ZADD', b .. ':lease', t + a.lease, rank > 0 and me.job .. '#' .. rank or me.job)
    return handed_out(b, me.job, job, rank)
end

-- The attempt begins: names are the workers by rank.
local function begin(b, t, a, id, job, names, known)
    leave_line(b, id, job)
    job.attempt, job.state, job.worker = job.attempt + 1, 'running', names[1]
    job.ranks = #names > 1 and names or nil
    job.cost = job.cost * #names
    set_job(b, id, 'state', 'running', 'attempt', job.attempt, 'start', t, 'worker', job.worker, 'cost', job.cost, 'device',
        a.device)
    if job.ranks then
        redis.call('HDEL', b .. ':job:' .. id, 'ghost', 'ghost_t')
        set_job(b, id, 'ranks', cmsgpack.pack(names))
    end
    for i, name in ipairs(names) do
        redis.call('ZADD', b .. ':lease', t + a.lease, i > 1 and id .. '#' .. (i - 1) or id)
        if i > 1 then
            redis.call('HINCRBY', b .. ':meta', 'more_ranks', '1')
        end
        if known then
            redis.call('HSET', b .. ':worker:' .. name, 'job', id, 'rank', i - 1, 'untold',
                name == a.worker and '' or job.attempt, 'claim', name == a.worker and a.token or '')
        end
    end
    if job.dr > 0 then
        redis.call('ZADD', b .. ':clock', t + job.dr, id)
    elseif job.ds > 0 then
        redis.call('ZREM', b .. ':clock', id)
    end
    redis.call('HINCRBY', b .. ':tenant:' .. job.tenant, 'n_run', '1')
    observe(b, 'wait', t - job.sub)
    event(b, t, id, 'claim', 'running', job.attempt, {worker = job.worker})
    hook(b, t, id, job, 'start')
end

-- Fair queueing: the level's virtual time is the start of what was taken last; the tenant's grows by what it will cost.
local function take_turn(b, t, job, pick)
    local v = 'v:' .. job.prio
    if pick.score > tonumber(redis.call('HGET', b .. ':meta', v) or 0) then
        redis.call('HSET', b .. ':meta', v, string.format('%.17g', pick.score))
    end
    local closed, weight = tenant_closed(b, t, job.tenant)
    move_virtual(b, job.prio, job.tenant, pick.score + job.cost / weight)
    if closed then
        refresh_tenant(b, t, job.tenant)
    end
end

-- Holds this worker for a job that needs several devices. The names by rank once enough are held, or nil.
local function gather(b, t, a, id, class)
    local key = b .. ':forming:' .. a.host
    if redis.call('HGET', key, 'id') ~= id then
        redis.call('DEL', key)
        redis.call('HSET', key, 'id', id)
    end
    redis.call('HSET', key, 'w:' .. a.worker, t)
    redis.call('PEXPIRE', key, 4 * GANG_HOLD_MS)
    set_job(b, id, 'ghost', a.host, 'ghost_t', t)
    local _, free, able = on_host(b, class, a.host, a.worker)
    local names, flat = {}, redis.call('HGETALL', key)
    for i = 1, #flat, 2 do
        local name = flat[i]:match('^w:(.+)$')
        if name and able[name] and t - tonumber(flat[i + 1]) < GANG_HOLD_MS then
            names[#names + 1] = name
        elseif name then
            redis.call('HDEL', key, flat[i])
        end
    end
    local want = math.max(class.gmin, math.min(class.gmax, free))
    if #names < want then
        return nil
    end
    table.sort(names)
    while #names > want do
        table.remove(names)
    end
    if not has_word(table.concat(names, ','), a.worker) then
        names[#names] = a.worker
        table.sort(names)
    end
    redis.call('DEL', key)
    return names
end

local function nothing(b, t, a, known, fields)
    fields.got = false
    fields.quiet = fields.quiet or false
    if known and not fields.quiet and not fields.gang then
        for gen in a.warm:gmatch('[^,]+') do
            redis.call('ZADD', b .. ':idle:' .. gen, t, a.worker)
        end
        if redis.call('EXISTS', b .. ':turns') == 1 then
            pass_on(b, t)
        end
    end
    return answer('OK', fields)
end

local ME = {'job', 'rank', 'claim', 'untold', 'quiet', 'unfit', 'gang', 'seen_ms', 'claimed'}

local function read_me(b, name)
    local me = {}
    for i, value in ipairs(redis.call('HMGET', b .. ':worker:' .. name, unpack(ME))) do
        me[ME[i]] = value or nil
    end
    return me
end

-- Claims of one process are numbered, "process:n": has a later one been served already? Then this is an old copy that came
-- late, and nobody waits for its answer.
local function outdated(token, last)
    local process, n = token:match('^(.+):(%d+)$')
    local before, m = (last or ''):match('^(.+):(%d+)$')
    return process ~= nil and process == before and tonumber(n) < tonumber(m)
end

local function without(gens, unfit)
    local left = {}
    for gen in gens:gmatch('[^,]+') do
        if not unfit or not has_word(unfit, gen) then
            left[#left + 1] = gen
        end
    end
    return table.concat(left, ',')
end

local function claim(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local me = read_me(b, a.worker)
    local known = me.seen_ms ~= nil
    if outdated(a.token, me.claimed) then
        return answer('OK', {got = false, quiet = false})
    end
    local held = held_before(b, t, a, me)
    if held then
        return held
    end
    if known and a.token ~= '' then
        redis.call('HSET', b .. ':worker:' .. a.worker, 'claimed', a.token)
    end
    if me.quiet == '1' then
        return nothing(b, t, a, known, {quiet = true})
    end
    local offer = {gens = without(a.gens, me.unfit), ver = a.ver, bytes = a.bytes, labels = a.labels,
        gang = a.host ~= '' and me.gang == '1'}
    local pick = next_job(b, t, offer, a)
    if offer.gang then
        let_go(b, a.worker, a.host)
    end
    if not pick then
        return nothing(b, t, a, known, {})
    end
    local names = {a.worker}
    if pick.class.gmin > 1 then
        names = gather(b, t, a, pick.id, pick.class)
        if not names then
            return nothing(b, t, a, known, {gang = pick.id})
        end
    end
    local job = job_of(b, pick.id)
    begin(b, t, a, pick.id, job, names, known)
    take_turn(b, t, job, pick)
    for gen in a.warm:gmatch('[^,]+') do
        redis.call('ZREM', b .. ':idle:' .. gen, a.worker)
    end
    for _ = 2, #names do
        wake(b)
    end
    if redis.call('LLEN', b .. ':wake') == 0 and redis.call('EXISTS', b .. ':turns') == 1 then
        wake(b)
    end
    return handed_out(b, pick.id, job, job.ranks and tonumber(redis.call('HGET', b .. ':worker:' .. a.worker, 'rank')) or 0)
end

------------------------------------------------------------------------------------------------------- while it runs

-- What a running worker hears with every answer.
local function heard(b, job, worker)
    local quiet = worker and redis.call('HGET', b .. ':worker:' .. worker, 'quiet') == '1'
    return answer('OK', {stop = job.stop or 0, quiet = quiet or false})
end

-- The job if this attempt owns it.
local function owned(b, a)
    local job = job_of(b, a.id)
    if job and job.state == 'running' and job.attempt == a.attempt then
        return job
    end
    count(b, 'n_lost')
    return nil, job
end

local function renew(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = owned(b, a)
    if not job or (a.rank > 0 and not (job.ranks and job.ranks[a.rank + 1])) then
        return answer('LOST')
    end
    redis.call('ZADD', b .. ':lease', t + a.lease, a.rank > 0 and a.id .. '#' .. a.rank or a.id)
    return heard(b, job, job.ranks and job.ranks[a.rank + 1] or job.worker)
end

local function progress(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = owned(b, a)
    if not job then
        return answer('LOST')
    end
    set_job(b, a.id, 'stage', a.stage, 'step', a.step, 'total', a.total, 'eta', a.eta)
    event(b, t, a.id, 'progress', 'running', a.attempt,
        {stage = a.stage, step = a.step, total = a.total, eta = a.eta})
    hook(b, t, a.id, job, 'progress')
    return heard(b, job, job.worker)
end

------------------------------------------------------------------------------------------------------- its end

local LATE_MAX = 4
local STAGES_MAX = 16

local function keep_late(b, a)
    local key = b .. ':job:' .. a.id
    local late = redis.call('HGET', key, 'late')
    late = late and cmsgpack.unpack(late) or {}
    for _, one in ipairs(late) do
        if one.attempt == a.attempt then
            return
        end
    end
    if #late < LATE_MAX then
        late[#late + 1] = {attempt = a.attempt, result = a.result}
        redis.call('HSET', key, 'late', cmsgpack.pack(late))
        count(b, 'n_late')
    end
end

-- The wait before the next attempt: doubles with each failure, give or take a fifth, an hour at most.
-- (math.random starts alike in every call here; the clock does not.)
local function backoff_ms(a, t, fails)
    local wait = math.min(a.backoff * 2 ^ (fails - 1), 3600000)
    return math.floor(wait * (0.8 + 0.4 * (t % 997) / 997))
end

local function settle_retry(b, t, a, job)
    local key = b .. ':job:' .. a.id
    local fails = redis.call('HINCRBY', key, 'fails', '1')
    set_error(b, a.id, a.code, a.error)
    if fails >= a.max_fails then
        finish(b, t, a.id, job, 'failed', 'settle', {code = a.code, why = a.error})
        return 'failed'
    end
    leave(b, t, a.id, job)
    delay(b, a.id, job, t + backoff_ms(a, t, fails))
    redis.call('HDEL', key, 'stage', 'step', 'total', 'eta', 'ranks')
    count(b, 'n_retried')
    event(b, t, a.id, 'settle', 'delayed', a.attempt, {code = a.code, why = a.error})
    return 'delayed'
end

local function average(b, field, value)
    local old = redis.call('HGET', b .. ':rate', field)
    redis.call('HSET', b .. ':rate', field, string.format('%.6g', old and 0.8 * tonumber(old) + 0.2 * value or value))
end

-- What the run teaches: the rate of the device, the mean of the generator, and the metrics.
local function learn(b, t, a, job)
    local run = math.max(1, t - job.start)
    average(b, job.gen .. ':mean', run)
    if a.gflop > 0 then
        average(b, job.gen, a.gflop * 1000 / run)
        average(b, job.gen .. '|' .. (job.device or ''), a.gflop * 1000 / run)
    end
    count(b, 'run_ms', run)
    observe(b, 'run', run)
    local n = 0
    for stage, seconds in pairs(a.stages or {}) do
        n = n + 1
        if n <= STAGES_MAX and stage:match('^[%l_]+$') and #stage <= 24 then
            observe(b, 'stage:' .. stage, seconds * 1000)
        end
    end
end

local function settle_ok(b, t, a, job)
    local key = b .. ':job:' .. a.id
    redis.call('HSET', key, 'result', a.result)
    if job.attempt > 1 then
        redis.call('HDEL', key, 'code', 'error')
    end
    learn(b, t, a, job)
    if a.weights ~= '' then
        redis.call('HSET', key, 'weights', a.weights)
        redis.call('HSET', b .. ':model', 'weights:' .. job.gen, a.weights)
    end
    if job.cache ~= '' then
        redis.call('SET', b .. ':cache:' .. job.cache, a.id, 'PX', math.max(1, job.ttl))
    end
    finish(b, t, a.id, job, 'done', 'settle')
    return 'done'
end

-- The worker cannot run this generator any more: another one may.
local function settle_unfit(b, t, a, job)
    local me = b .. ':worker:' .. job.worker
    local unfit = redis.call('HGET', me, 'unfit')
    local list = not unfit and job.gen or has_word(unfit, job.gen) and unfit or unfit .. ',' .. job.gen
    local known = redis.call('EXISTS', me) == 1
    if known then
        redis.call('HSET', me, 'unfit', list)
        count_offer(b, job.worker)
    end
    local fit = workers_for(b, parse_class(job.cls))
    set_error(b, a.id, a.code, a.error)
    if not known or fit == 0 then -- nobody does it better: then it says why, again and again
        if known then
            redis.call('HSET', me, 'unfit', unfit or '')
            count_offer(b, job.worker)
        end
        finish(b, t, a.id, job, 'failed', 'settle', {code = a.code, why = a.error})
        return 'failed'
    end
    count(b, 'n_unfit')
    requeue(b, t, a.id, job, true)
    event(b, t, a.id, 'settle', 'queued', a.attempt, {code = a.code, why = a.error, worker = job.worker})
    return 'queued'
end

-- Ends the attempt if it owns the job, which is then returned. Otherwise nil and the answer: that of the first time when
-- the same is said again (name), or LOST, and then the job as it is, or NOTFOUND: deleted, nobody will ask for its files.
local function end_attempt(b, a, name)
    local job, other = owned(b, a)
    if job then
        set_job(b, a.id, 'verdict', name)
        return job
    elseif other and other.attempt == a.attempt and other.verdict == name then
        count(b, 'n_lost', -1)
        return nil, answer('OK', {state = other.state})
    end
    return nil, answer(other and 'LOST' or 'NOTFOUND'), other
end

-- Device time of an attempt: the tenant's account and the metrics.
local function account(b, t, job)
    local ms = math.max(0, t - job.start) * #(job.ranks or {1})
    redis.call('HINCRBY', b .. ':gpu', job.device ~= '' and job.device or 'unknown', ms)
    charge(b, t, job, ms)
end

local function verdict(b, t, a, job)
    if stopping(job) or a.verdict == 'stop' then
        if a.verdict == 'ok' then
            keep_late(b, a)
        end
        return finish_stopped(b, t, a.id, job, 'settle')
    elseif a.verdict == 'ok' then
        return settle_ok(b, t, a, job)
    elseif a.unfit then
        return settle_unfit(b, t, a, job)
    elseif a.verdict == 'retry' then
        return settle_retry(b, t, a, job)
    end
    set_error(b, a.id, a.code, a.error)
    finish(b, t, a.id, job, 'failed', 'settle', {code = a.code, why = a.error})
    return 'failed'
end

local function settle(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job, no, other = end_attempt(b, a, a.attempt .. ':' .. a.verdict)
    if not job then
        if other and a.verdict == 'ok' then
            keep_late(b, a)
        end
        return no
    end
    account(b, t, job)
    return answer('OK', {state = verdict(b, t, a, job)})
end

local function release(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job, no = end_attempt(b, a, a.attempt .. ':release')
    if not job then
        return no
    end
    charge(b, t, job, 0)
    if stopping(job) then
        return answer('OK', {state = finish_stopped(b, t, a.id, job, 'release')})
    end
    local worker = job.worker
    requeue(b, t, a.id, job, true)
    count(b, 'n_released')
    event(b, t, a.id, 'release', 'queued', a.attempt, {why = a.why, worker = worker})
    return answer('OK', {state = 'queued'})
end
