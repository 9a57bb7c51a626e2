#!lua name=troupe
-- queue.lua -- the queue's transitions, one function each, atomic. PROTOCOL.md has the picture, keys and tables.
--
-- KEYS[1] is the queue's hash tag "{name}"; every key begins with it. ARGV[1] is a msgpack map of arguments
-- (submit: ARGV[2] is the record). The answer is msgpack: a map with r = 'OK' | 'NOTFOUND' | 'CONFLICT' | 'LIMIT' |
-- 'LOST' (get and claim append the job's record).
-- Times are Redis' own, in milliseconds. Read from the bottom; queue_people.lua goes on, and ends with the contents.

-- major * 1000 + minor; raise the minor with every change, the major when old programs must not use it
local VERSION = 1004

local LEVEL = 2 ^ 44      -- scores of the waiting: (9 - priority) * LEVEL + place in the line
local MIDDLE = 2 ^ 43     -- place of the first ever; the front of a line grows down from it
local EVENTS_MAX = 10000
local LOG_MAX = 64
local WAKE_MAX = 64
local SCAN_MAX = 200      -- how far claim looks for a job that fits its worker
local LATE_MAX = 4
local DEATHS_MAX = 3
local OBEY_MS = 30000     -- a worker that was asked to stop has so long
local GAP_MS = 3000       -- expire comes every second: silence for so long means that nobody reached Redis
local GRACE_MS = 5000     -- and then a living worker has so long to renew
local IDEM_MS = 86400000
local WORKER_MS = 86400000 -- a name that was not heard of for so long is forgotten

local STATES_ENDED = {done = true, failed = true, cancelled = true, timed_out = true}

local function now()
    local t = redis.call('TIME')
    return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function answer(r, fields, record)
    fields = fields or {}
    fields.r = r
    return cmsgpack.pack(fields) .. (record or '')
end

local function count(b, field, n)
    redis.call('HINCRBY', b .. ':meta', field, n or 1)
end

local function wake(b)
    if redis.call('LLEN', b .. ':wake') < WAKE_MAX then
        redis.call('LPUSH', b .. ':wake', '1')
    end
end

-- A job's fields as a table; nil when there is no such job.
local function job_of(b, id, ...)
    local names = {'state', 'attempt', ...}
    local got = redis.call('HMGET', b .. ':job:' .. id, unpack(names))
    if not got[1] then
        return nil
    end
    local job = {}
    for i, name in ipairs(names) do
        job[name] = got[i] or nil
    end
    job.attempt = tonumber(job.attempt)
    return job
end

-- Tells the world. Progress goes to the stream only, everything else to the job's own log too.
local function event(b, t, id, what, state, attempt, more)
    local e = more or {}
    e.id, e.what, e.state, e.attempt, e.t = id, what, state, attempt, t
    local bytes = cmsgpack.pack(e)
    redis.call('XADD', b .. ':events', 'MAXLEN', '~', EVENTS_MAX, '*', 'e', bytes)
    if what ~= 'progress' and what ~= 'delete' then
        local log = b .. ':log:' .. id
        redis.call('RPUSH', log, bytes)
        redis.call('LTRIM', log, -LOG_MAX, -1)
    end
end

local function leave_all(b, id)
    for _, set in ipairs({':wait', ':lease', ':delayed', ':clock', ':ended'}) do
        redis.call('ZREM', b .. set, id)
    end
end

-- Into the line, at its end or its front.
local function enqueue(b, id, prio, front)
    local place
    if front then
        place = MIDDLE - redis.call('HINCRBY', b .. ':meta', 'front', 1)
    else
        place = MIDDLE + redis.call('HINCRBY', b .. ':meta', 'seq', 1)
    end
    redis.call('ZADD', b .. ':wait', (9 - prio) * LEVEL + place, id)
    redis.call('HSET', b .. ':job:' .. id, 'state', 'queued')
    wake(b)
end

local function requeue(b, id)
    local prio = tonumber(redis.call('HGET', b .. ':job:' .. id, 'prio'))
    leave_all(b, id)
    redis.call('HDEL', b .. ':job:' .. id, 'stage', 'step', 'total', 'eta', 'retry')
    enqueue(b, id, prio, true)
end

local function finish(b, t, id, state, attempt, what, more)
    local key = b .. ':job:' .. id
    local ttl = tonumber(redis.call('HGET', key, 'ttl'))
    leave_all(b, id)
    redis.call('HSET', key, 'state', state, 'fin', t, 'exp', t + ttl)
    redis.call('HDEL', key, 'retry')
    redis.call('ZADD', b .. ':ended', t + ttl, id)
    count(b, 'n_' .. state)
    event(b, t, id, what, state, attempt, more)
end

local function set_error(b, id, code, text)
    redis.call('HSET', b .. ':job:' .. id, 'code', code, 'error', text)
end

-- What a job that was asked to stop becomes.
local function finish_stopped(b, t, id, job, what)
    local state, text = 'cancelled', 'the job was cancelled'
    if job.stop == '2' then
        state, text = 'timed_out', 'the job ran longer than its deadline_run_s allows'
    end
    set_error(b, id, state == 'cancelled' and 'CANCEL' or 'TIMEOUT', text)
    finish(b, t, id, state, job.attempt, what, {code = state == 'cancelled' and 'CANCEL' or 'TIMEOUT', why = text})
    return state
end

local function worker_count(b, t)
    local n = 0
    for _, name in ipairs(redis.call('ZRANGE', b .. ':workers', 0, -1)) do
        n = n + redis.call('EXISTS', b .. ':worker:' .. name)
    end
    return n
end

local function mean_run_ms(b)
    return tonumber(redis.call('HGET', b .. ':meta', 'mean_run') or 10000)
end

-- What a running worker hears with every answer.
local function heard(b, job)
    local quiet = job.worker and redis.call('HGET', b .. ':worker:' .. job.worker, 'quiet') == '1'
    return answer('OK', {stop = tonumber(job.stop or 0), quiet = quiet or false})
end

-- The job if this attempt owns it.
local function owned(b, a, ...)
    local job = job_of(b, a.id, 'stop', 'worker', ...)
    if job and job.state == 'running' and job.attempt == a.attempt then
        return job
    end
    count(b, 'n_lost')
    return nil, job
end

local function position(b, id)
    return redis.call('ZRANK', b .. ':wait', id) or -1
end

------------------------------------------------------------------------------------------------------- clients

-- The job that an idempotency key stands for: id, or nil and whether the key means another body.
local function idem_lookup(b, a)
    local held = a.idem ~= '' and redis.call('GET', b .. ':idem:' .. a.idem)
    if not held then
        return nil, false
    end
    local fp, id = held:match('^(%S*) (%S+)$')
    if redis.call('EXISTS', b .. ':job:' .. id) == 0 then
        return nil, false
    end
    if fp ~= a.fp then
        return nil, true
    end
    return id, false
end

local function start_clock(b, t, id, ds)
    if ds > 0 then
        redis.call('ZADD', b .. ':clock', t + ds, id)
    end
end

local function submit(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    a.rec = args[2]
    local id, other = idem_lookup(b, a)
    if other then
        return answer('CONFLICT', {what = 'idem'})
    end
    if not id and redis.call('EXISTS', b .. ':job:' .. a.id) == 1 then
        if redis.call('HGET', b .. ':job:' .. a.id, 'rec') ~= a.rec then
            return answer('CONFLICT', {what = 'id'})
        end
        id = a.id
    end
    if id then
        return answer('OK', {id = id, again = true, pos = position(b, id)})
    end
    if redis.call('ZCARD', b .. ':wait') + redis.call('ZCARD', b .. ':delayed') >= a.max then
        local wait_s = math.ceil(mean_run_ms(b) / 1000 / math.max(1, worker_count(b, t)))
        return answer('LIMIT', {wait_s = math.max(1, wait_s), max = a.max})
    end
    redis.call('HSET', b .. ':job:' .. a.id, 'rec', a.rec, 'state', 'queued', 'attempt', 0, 'fails', 0, 'deaths', 0,
        'prio', a.prio, 'gen', a.gen, 'ver', a.ver, 'bytes', a.bytes, 'tenant', a.tenant, 'ds', a.ds, 'dr', a.dr,
        'ttl', a.ttl, 'sub', t, 'idem', a.idem)
    if a.idem ~= '' then
        redis.call('SET', b .. ':idem:' .. a.idem, a.fp .. ' ' .. a.id, 'PX', IDEM_MS)
    end
    start_clock(b, t, a.id, a.ds)
    redis.call('ZADD', b .. ':all', t, a.id)
    enqueue(b, a.id, a.prio, false)
    count(b, 'n_submitted')
    event(b, t, a.id, 'submit', 'queued', 0)
    return answer('OK', {id = a.id, again = false, pos = position(b, a.id)})
end

local function cancel_one(b, t, id, job, who)
    local text = 'cancelled by ' .. who
    if job.state == 'running' then
        if not job.stop or job.stop == '0' then
            redis.call('HSET', b .. ':job:' .. id, 'stop', 1, 'stop_at', t)
            redis.call('ZADD', b .. ':clock', t + OBEY_MS, id)
            event(b, t, id, 'cancel', 'running', job.attempt, {why = text})
        end
        return
    end
    set_error(b, id, 'CANCEL', text)
    finish(b, t, id, 'cancelled', job.attempt, 'cancel', {code = 'CANCEL', why = text})
end

local function cancel(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = job_of(b, a.id, 'stop')
    if not job then
        return answer('NOTFOUND')
    end
    if job.state == 'cancelled' then
        return answer('OK', {state = 'cancelled', stopping = false})
    end
    if STATES_ENDED[job.state] then
        return answer('CONFLICT', {state = job.state})
    end
    cancel_one(b, t, a.id, job, a.who)
    local running = job.state == 'running'
    return answer('OK', {state = running and 'running' or 'cancelled', stopping = running})
end

local function purge(keys, args)
    local b, a, t, n = keys[1], cmsgpack.unpack(args[1]), now(), 0
    for _, set in ipairs({':wait', ':delayed'}) do
        for _, id in ipairs(redis.call('ZRANGE', b .. set, 0, a.max - n - 1)) do
            local job = job_of(b, id)
            if job then
                cancel_one(b, t, id, job, 'purge')
                n = n + 1
            end
            if n >= a.max then
                return answer('OK', {n = n})
            end
        end
    end
    return answer('OK', {n = n})
end

local function retry(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = job_of(b, a.id, 'ds')
    if not job then
        return answer('NOTFOUND')
    end
    if job.state == 'done' then
        return answer('CONFLICT', {state = job.state})
    end
    if STATES_ENDED[job.state] then
        redis.call('HDEL', b .. ':job:' .. a.id, 'stop', 'stop_at', 'code', 'error', 'start', 'fin', 'exp')
        redis.call('HSET', b .. ':job:' .. a.id, 'fails', 0, 'deaths', 0)
        requeue(b, a.id)
        start_clock(b, t, a.id, tonumber(job.ds))
        count(b, 'n_retried')
        event(b, t, a.id, 'retry', 'queued', job.attempt, {why = 'asked for'})
        job.state = 'queued'
    end
    return answer('OK', {state = job.state})
end

local function delete(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = job_of(b, a.id, 'idem')
    if not job then
        return answer('OK')
    end
    if not STATES_ENDED[job.state] then
        return answer('CONFLICT', {state = job.state})
    end
    local idem = job.idem and job.idem ~= '' and b .. ':idem:' .. job.idem
    local held = idem and redis.call('GET', idem)
    if held and held:match('(%S+)$') == a.id then
        redis.call('DEL', idem)
    end
    leave_all(b, a.id)
    redis.call('ZREM', b .. ':all', a.id)
    redis.call('DEL', b .. ':job:' .. a.id, b .. ':log:' .. a.id)
    event(b, t, a.id, 'delete', job.state, job.attempt)
    return answer('OK')
end

local function pause(keys, args)
    local b, a = keys[1], cmsgpack.unpack(args[1])
    redis.call('HSET', b .. ':meta', 'paused', a.on and 1 or 0)
    if not a.on then
        wake(b)
    end
    return answer('OK')
end

local GET = {'state', 'gen', 'tenant', 'worker', 'stage', 'code', 'error', 'result', 'attempt', 'fails', 'deaths', 'prio',
    'sub', 'start', 'fin', 'exp', 'retry', 'step', 'total', 'eta', 'stop'}
local GET_TEXTS = 8 -- the first ones; the others are numbers

local function read_fields(b, id)
    local f = {}
    for i, value in ipairs(redis.call('HMGET', b .. ':job:' .. id, unpack(GET))) do
        if value then
            f[GET[i]] = i <= GET_TEXTS and value or tonumber(value)
        end
    end
    return f
end

local function get(keys, args)
    local b, a = keys[1], cmsgpack.unpack(args[1])
    local record = redis.call('HGET', b .. ':job:' .. a.id, 'rec')
    if not record then
        return answer('NOTFOUND')
    end
    local f = read_fields(b, a.id)
    f.now, f.pos = now(), position(b, a.id)
    local late = redis.call('HGET', b .. ':job:' .. a.id, 'late')
    if late then
        f.late = cmsgpack.unpack(late)
    end
    if a.history then
        f.history = {}
        for i, bytes in ipairs(redis.call('LRANGE', b .. ':log:' .. a.id, 0, -1)) do
            f.history[i] = cmsgpack.unpack(bytes)
        end
    end
    return answer('OK', f, record)
end

-- A page of ids after the cursor "score:id", newest first.
local function list_page(b, score, after)
    local flat = redis.call('ZREVRANGEBYSCORE', b .. ':all', score, '-inf', 'WITHSCORES', 'LIMIT', 0, 1000)
    local page = {}
    for i = 1, #flat, 2 do
        if after == '' or tonumber(flat[i + 1]) < tonumber(score) or flat[i] < after then
            page[#page + 1] = {id = flat[i], score = flat[i + 1]}
        end
    end
    return page, #flat / 2
end

local function list(keys, args)
    local b, a = keys[1], cmsgpack.unpack(args[1])
    local score, after = a.cursor:match('^(%d+):(.+)$')
    local page, seen = list_page(b, score or '+inf', after or '')
    local jobs, cursor = {}, ''
    for i, item in ipairs(page) do
        local f = read_fields(b, item.id)
        if f.state and (a.state == '' or f.state == a.state) then
            f.result, f.id = nil, item.id
            jobs[#jobs + 1] = f
        end
        local more = i < #page or seen == 1000
        if (#jobs == a.limit and more) or (i == #page and seen == 1000) then
            cursor = item.score .. ':' .. item.id
        end
        if #jobs == a.limit then
            break
        end
    end
    return answer('OK', {jobs = jobs, cursor = cursor})
end

------------------------------------------------------------------------------------------------------- workers

local function has_word(list, word)
    return (',' .. list .. ','):find(',' .. word .. ',', 1, true) ~= nil
end

-- The first waiting job that this worker can run.
local function first_fit(b, a)
    for _, id in ipairs(redis.call('ZRANGE', b .. ':wait', 0, SCAN_MAX - 1)) do
        local job = job_of(b, id, 'gen', 'ver', 'bytes', 'fails', 'deaths', 'dr')
        if not job then
            redis.call('ZREM', b .. ':wait', id)
        elseif has_word(a.gens, job.gen) and tonumber(job.ver) <= a.ver and
            (a.bytes == 0 or tonumber(job.bytes) <= a.bytes) then
            return id, job
        end
    end
end

local function handed_out(b, id, job, attempt)
    return answer('OK', {got = true, quiet = false, attempt = attempt, fails = tonumber(job.fails),
        deaths = tonumber(job.deaths), run = tonumber(job.dr)}, redis.call('HGET', b .. ':job:' .. id, 'rec'))
end

-- The job that this very claim was given before, when the answer was lost on its way.
local function claimed_before(b, me, a)
    local id = a.token and a.token ~= '' and redis.call('HGET', me, 'job')
    local job = id and job_of(b, id, 'worker', 'claim', 'fails', 'deaths', 'dr')
    if job and job.state == 'running' and job.worker == a.worker and job.claim == a.token then
        return id, job
    end
end

local function claim(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local me = b .. ':worker:' .. a.worker
    local known = redis.call('EXISTS', me) == 1
    local mine, held = claimed_before(b, me, a)
    if mine then
        redis.call('ZADD', b .. ':lease', t + a.lease, mine)
        return handed_out(b, mine, held, held.attempt)
    end
    if known and redis.call('HGET', me, 'quiet') == '1' then
        return answer('OK', {got = false, quiet = true})
    end
    if redis.call('HGET', b .. ':meta', 'paused') == '1' then
        return answer('OK', {got = false, quiet = false})
    end
    local id, job = first_fit(b, a)
    if not id then
        return answer('OK', {got = false, quiet = false})
    end
    local attempt, dr = job.attempt + 1, tonumber(job.dr)
    leave_all(b, id)
    redis.call('ZADD', b .. ':lease', t + a.lease, id)
    redis.call('HSET', b .. ':job:' .. id, 'state', 'running', 'attempt', attempt, 'start', t, 'worker', a.worker,
        'claim', a.token or '')
    if dr > 0 then
        redis.call('ZADD', b .. ':clock', t + dr, id)
    end
    if known then
        redis.call('HSET', me, 'job', id)
    end
    if redis.call('ZCARD', b .. ':wait') > 0 then
        wake(b)
    end
    event(b, t, id, 'claim', 'running', attempt, {worker = a.worker})
    return handed_out(b, id, job, attempt)
end

local function renew(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = owned(b, a)
    if not job then
        return answer('LOST')
    end
    redis.call('ZADD', b .. ':lease', t + a.lease, a.id)
    return heard(b, job)
end

local function progress(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = owned(b, a)
    if not job then
        return answer('LOST')
    end
    redis.call('HSET', b .. ':job:' .. a.id, 'stage', a.stage, 'step', a.step, 'total', a.total, 'eta', a.eta)
    event(b, t, a.id, 'progress', 'running', a.attempt,
        {stage = a.stage, step = a.step, total = a.total, eta = a.eta})
    return heard(b, job)
end

local function free_worker(b, job)
    local me = job.worker and b .. ':worker:' .. job.worker
    if me and redis.call('EXISTS', me) == 1 then
        redis.call('HDEL', me, 'job')
    end
end

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
    local fails = redis.call('HINCRBY', key, 'fails', 1)
    set_error(b, a.id, a.code, a.error)
    if fails >= a.max_fails then
        finish(b, t, a.id, 'failed', a.attempt, 'settle', {code = a.code, why = a.error})
        return 'failed'
    end
    local due = t + backoff_ms(a, t, fails)
    leave_all(b, a.id)
    redis.call('ZADD', b .. ':delayed', due, a.id)
    redis.call('HSET', key, 'state', 'delayed', 'retry', due)
    redis.call('HDEL', key, 'stage', 'step', 'total', 'eta')
    count(b, 'n_retried')
    event(b, t, a.id, 'settle', 'delayed', a.attempt, {code = a.code, why = a.error})
    return 'delayed'
end

local function settle_ok(b, t, a, job)
    local key = b .. ':job:' .. a.id
    local run = t - tonumber(job.start)
    local mean = redis.call('HGET', b .. ':meta', 'mean_run')
    redis.call('HSET', key, 'result', a.result)
    redis.call('HDEL', key, 'code', 'error', 'eta')
    redis.call('HSET', b .. ':meta', 'mean_run', mean and math.floor(0.8 * tonumber(mean) + 0.2 * run) or run)
    count(b, 'run_ms', run)
    finish(b, t, a.id, 'done', a.attempt, 'settle')
    return 'done'
end

-- Ends the attempt if it owns the job, which is then returned. Otherwise nil and the answer: that of the first time when
-- the same is said again (name), or LOST, and then the job as it is, or NOTFOUND: deleted, nobody will ask for its files.
local function end_attempt(b, a, name)
    local job, other = owned(b, a, 'start')
    if job then
        redis.call('HSET', b .. ':job:' .. a.id, 'verdict', name)
        free_worker(b, job)
        return job
    elseif other and other.attempt == a.attempt and redis.call('HGET', b .. ':job:' .. a.id, 'verdict') == name then
        count(b, 'n_lost', -1)
        return nil, answer('OK', {state = other.state})
    end
    return nil, answer(other and 'LOST' or 'NOTFOUND'), other
end

local function settle(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job, refusal, other = end_attempt(b, a, a.attempt .. ':' .. a.verdict)
    if not job then
        if other and a.verdict == 'ok' then
            keep_late(b, a)
        end
        return refusal
    end
    local state
    if (job.stop and job.stop ~= '0') or a.verdict == 'stop' then
        if a.verdict == 'ok' then
            keep_late(b, a)
        end
        state = finish_stopped(b, t, a.id, job, 'settle')
    elseif a.verdict == 'ok' then
        state = settle_ok(b, t, a, job)
    elseif a.verdict == 'retry' then
        state = settle_retry(b, t, a, job)
    else
        set_error(b, a.id, a.code, a.error)
        finish(b, t, a.id, 'failed', a.attempt, 'settle', {code = a.code, why = a.error})
        state = 'failed'
    end
    return answer('OK', {state = state})
end

local function release(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job, refusal = end_attempt(b, a, a.attempt .. ':release')
    if not job then
        return refusal
    end
    if job.stop and job.stop ~= '0' then
        return answer('OK', {state = finish_stopped(b, t, a.id, job, 'release')})
    end
    requeue(b, a.id)
    count(b, 'n_released')
    event(b, t, a.id, 'release', 'queued', a.attempt, {why = a.why, worker = job.worker})
    return answer('OK', {state = 'queued'})
end

local function hello(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local me = b .. ':worker:' .. a.worker
    for name, value in pairs(a.info) do
        redis.call('HSET', me, name, value)
    end
    redis.call('HSETNX', me, 'started_ms', t)
    redis.call('PEXPIRE', me, a.ttl)
    redis.call('ZADD', b .. ':workers', t, a.worker)
    redis.call('ZREMRANGEBYSCORE', b .. ':workers', '-inf', t - WORKER_MS)
    return answer('OK')
end

local function bye(keys, args)
    local b, a = keys[1], cmsgpack.unpack(args[1])
    redis.call('DEL', b .. ':worker:' .. a.worker)
    redis.call('ZREM', b .. ':workers', a.worker)
    return answer('OK')
end

local function quiet(keys, args)
    local b, a = keys[1], cmsgpack.unpack(args[1])
    local me = b .. ':worker:' .. a.worker
    if redis.call('EXISTS', me) == 0 then
        return answer('NOTFOUND')
    end
    redis.call('HSET', me, 'quiet', a.on and 1 or 0)
    return answer('OK')
end

------------------------------------------------------------------------------------------------------- the timer

-- A job whose worker was not heard of for a whole lease.
local function orphan(b, t, id)
    local job = job_of(b, id, 'worker', 'stop')
    if not job or job.state ~= 'running' then
        redis.call('ZREM', b .. ':lease', id)
        return
    end
    count(b, 'n_expired')
    free_worker(b, job)
    local deaths = redis.call('HINCRBY', b .. ':job:' .. id, 'deaths', 1)
    local text = 'worker ' .. (job.worker or '?') .. ' was not heard of any more'
    if job.stop and job.stop ~= '0' then
        finish_stopped(b, t, id, job, 'expire')
    elseif deaths >= DEATHS_MAX then
        text = text .. '; ' .. deaths .. ' workers died with this job, so it is not tried again'
        set_error(b, id, 'INTERNAL', text)
        finish(b, t, id, 'failed', job.attempt, 'expire', {code = 'INTERNAL', why = text, worker = job.worker})
    else
        requeue(b, id)
        event(b, t, id, 'expire', 'queued', job.attempt, {why = text, worker = job.worker})
    end
end

-- A deadline has come: to obey a stop, to run, or to start. What is not due (or not true any more) is put right.
local function clock_due(b, t, id)
    local job = job_of(b, id, 'stop', 'stop_at', 'start', 'dr', 'ds', 'sub', 'worker')
    redis.call('ZREM', b .. ':clock', id)
    if not job or STATES_ENDED[job.state] then
        return
    end
    if job.state ~= 'running' then
        if tonumber(job.ds) > 0 and not job.start then
            local text = 'the job did not start within its deadline_start_s'
            set_error(b, id, 'TIMEOUT', text)
            finish(b, t, id, 'timed_out', job.attempt, 'expire', {code = 'TIMEOUT', why = text})
        end
    elseif job.stop and job.stop ~= '0' then
        free_worker(b, job)
        finish_stopped(b, t, id, job, 'expire')
    else
        redis.call('HSET', b .. ':job:' .. id, 'stop', 2, 'stop_at', t)
        redis.call('ZADD', b .. ':clock', t + OBEY_MS, id)
        event(b, t, id, 'expire', 'running', job.attempt, {why = 'deadline_run_s is over: the worker is asked to stop'})
    end
end

local function due(b, set, t, max)
    return redis.call('ZRANGEBYSCORE', b .. set, '-inf', t, 'LIMIT', 0, max)
end

-- While Redis was away nobody could renew: that is no worker's death.
local function in_grace(b, t)
    local ticked, grace = unpack(redis.call('HMGET', b .. ':meta', 'ticked', 'grace'))
    redis.call('HSET', b .. ':meta', 'ticked', t)
    if t - tonumber(ticked or t) > GAP_MS then
        grace = t + GRACE_MS
        redis.call('HSET', b .. ':meta', 'grace', grace)
    end
    return t < tonumber(grace or 0)
end

local function expire(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local leases = in_grace(b, t) and {} or due(b, ':lease', t, a.max)
    local retries, deadlines = due(b, ':delayed', t, a.max), due(b, ':clock', t, a.max)
    for _, id in ipairs(leases) do
        orphan(b, t, id)
    end
    for _, id in ipairs(retries) do
        local job = job_of(b, id)
        if job then
            requeue(b, id)
            event(b, t, id, 'expire', 'queued', job.attempt, {why = 'the next attempt is due'})
        else
            redis.call('ZREM', b .. ':delayed', id)
        end
    end
    for _, id in ipairs(deadlines) do
        clock_due(b, t, id)
    end
    local waiting = redis.call('ZCARD', b .. ':wait')
    if waiting > 0 and redis.call('LLEN', b .. ':wake') == 0 then
        wake(b) -- a token that was lost with the worker that took it
    end
    return answer('OK', {leases = #leases, retries = #retries, deadlines = #deadlines, waiting = waiting,
        forget = due(b, ':ended', t, a.max)})
end
