
-- queue_client.lua -- what clients and operators ask for.
------------------------------------------------------------------------------------------------------- ends

local function set_error(b, id, code, text)
    set_job(b, id, 'code', code, 'error', text)
end

local function finish(b, t, id, job, state, what, more)
    if job.state == 'delayed' then
        redis.call('HDEL', b .. ':job:' .. id, 'retry')
    end
    if job.state ~= 'running' and job.ds > 0 then
        redis.call('ZREM', b .. ':clock', id)
    end
    leave(b, t, id, job)
    set_job(b, id, 'state', state, 'fin', t, 'exp', t + job.ttl)
    redis.call('ZADD', b .. ':ended', t + job.ttl, id)
    if state == 'failed' then
        redis.call('ZADD', b .. ':dead', t, id)
    end
    job.state = state
    count(b, 'n_' .. state)
    event(b, t, id, what, state, job.attempt, more)
    hook(b, t, id, job, 'end')
end

-- What a job that was asked to stop becomes.
local function finish_stopped(b, t, id, job, what)
    local state, code, text = 'cancelled', 'CANCEL', 'the job was cancelled'
    if job.stop == 2 then
        state, code, text = 'timed_out', 'TIMEOUT', 'the job ran longer than its deadline_run_s allows'
    end
    set_error(b, id, code, text)
    if job.stop == 1 then
        observe(b, 'cancel', t - tonumber(redis.call('HGET', b .. ':job:' .. id, 'stop_at') or t))
    end
    finish(b, t, id, job, state, what, {code = code, why = text})
    return state
end

local AGAIN_MS = 3600000
local TRASH_MS = 60000 -- who deletes removes the files too; who died over it is followed by another after so long
local OBEY_MS = 30000 -- a worker that was asked to stop has so long

local function stopping(job)
    return job.stop and job.stop ~= 0
end

------------------------------------------------------------------------------------------------------- submit

local function idem_key(b, tenant, key)
    return b .. ':idem:' .. tenant .. ':' .. key
end

-- The job that an idempotency key stands for: id, or nil and whether the key means another body.
local function idem_lookup(b, a)
    local held = a.idem ~= '' and redis.call('GET', idem_key(b, a.tenant, a.idem))
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

-- A DONE job that answers the same request, made by the weights that are in use.
local function cache_lookup(b, a)
    local id = a.cache ~= '' and redis.call('GET', b .. ':cache:' .. a.cache)
    if not id then
        return nil
    end
    local state, weights = unpack(redis.call('HMGET', b .. ':job:' .. id, 'state', 'weights'))
    local used = redis.call('HGET', b .. ':model', 'weights:' .. a.gen)
    if state == 'done' and (not used or not weights or used == weights) then
        return id
    end
end

-- Seconds until the queue has moved on by one job.
local function move_s(b)
    local mean = mean_run_ms(b)
    return math.max(1, math.ceil(mean / 1000 / math.max(1, redis.call('ZCARD', b .. ':workers'))))
end

local TENANT_LIMITS = {'limited', 'max_queued', 'n_wait', 'rate', 'burst', 'tokens', 'tokens_t'}

-- Why a tenant may submit nothing more now, as an answer; nil when it may: a token is then taken.
local function tenant_refusal(b, t, a)
    local key = b .. ':tenant:' .. a.tenant
    local f = redis.call('HMGET', key, unpack(TENANT_LIMITS))
    if not f[1] then -- never seen
        redis.call('HSET', key, 'limited', 0)
        redis.call('ZADD', b .. ':tenants', t, a.tenant)
    end
    if f[1] ~= '1' then
        return nil
    end
    local max, rate, burst = tonumber(f[2] or 0), tonumber(f[4] or 0), tonumber(f[5] or 0)
    if max > 0 and tonumber(f[3] or 0) >= max then
        return answer('LIMIT', {what = 'tenant', wait_s = move_s(b), max = max})
    end
    if rate > 0 then
        burst = math.max(1, burst)
        local tokens = math.min(burst, tonumber(f[6] or burst) + (t - tonumber(f[7] or t)) * rate / 60000)
        if tokens < 1 then
            return answer('LIMIT', {what = 'rate', wait_s = math.max(1, math.ceil((1 - tokens) * 60 / rate)), max = burst})
        end
        redis.call('HSET', key, 'tokens', string.format('%.6f', tokens - 1), 'tokens_t', t)
    end
end

local function refusal(b, t, a, class)
    if redis.call('ZCARD', b .. ':wait') + redis.call('ZCARD', b .. ':delayed') >= a.max then
        return answer('LIMIT', {what = 'queue', wait_s = move_s(b), max = a.max})
    end
    if redis.call('HLEN', b .. ':classes') >= CLASSES_MAX and redis.call('HEXISTS', b .. ':classes', class) == 0 then
        return answer('LIMIT', {what = 'classes', wait_s = move_s(b), max = CLASSES_MAX})
    end
    return tenant_refusal(b, t, a)
end

local function accepted(b, id, job, fields)
    fields.id, fields.state = id, job.state
    fields.pos = position(b, id, job)
    fields.fitting = workers_for(b, parse_class(job.cls))
    return answer('OK', fields)
end

local function submit_new(b, t, a, class)
    local job = {prio = a.prio, cls = class, tenant = a.tenant, gen = a.gen, gflop = a.gflop, hook = a.hook, attempt = 0}
    local state = a.due > t and 'delayed' or 'queued'
    job.cost = state == 'queued' and predict_ms(b, a.gen, a.gflop) or 0
    set_job(b, a.id, 'rec', a.rec, 'state', state, 'cost', job.cost, 'attempt', 0, 'fails', 0, 'deaths', 0, 'prio', a.prio,
        'gen', a.gen, 'gflop', a.gflop, 'tenant', a.tenant, 'cls', class, 'ds', a.ds, 'dr', a.dr, 'ttl', a.ttl, 'sub', t,
        'idem', a.idem, 'cache', a.cache, 'hook', a.hook)
    if a.idem ~= '' then
        redis.call('SET', idem_key(b, a.tenant, a.idem), a.fp .. ' ' .. a.id, 'PX', IDEM_MS)
    end
    if a.ds > 0 then
        redis.call('ZADD', b .. ':clock', t + a.ds, a.id)
    end
    redis.call('ZADD', b .. ':all', t, a.id)
    if a.tenant ~= '' then
        redis.call('ZADD', b .. ':of:' .. a.tenant, t, a.id)
    end
    if state == 'delayed' then
        delay(b, a.id, job, a.due)
        set_job(b, a.id, 'due', a.due)
        job.state = 'delayed'
    else
        join_line(b, t, a.id, job, false)
    end
    count(b, 'n_submitted')
    event(b, t, a.id, 'submit', job.state, 0)
    hook(b, t, a.id, job, 'queued')
    return job
end

local function submit(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    a.rec = args[2]
    if a.delay > 0 then
        a.due = math.max(a.due, t + a.delay)
    end
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
        return accepted(b, id, job_of(b, id), {again = true, cached = false})
    end
    id = cache_lookup(b, a)
    if id then
        count(b, 'n_cached')
        return accepted(b, id, job_of(b, id), {again = false, cached = true})
    end
    local class = class_of(a)
    local no = refusal(b, t, a, class)
    if no then
        count(b, 'n_refused')
        return no
    end
    return accepted(b, a.id, submit_new(b, t, a, class), {again = false, cached = false})
end

------------------------------------------------------------------------------------------------------- control

local function cancel_one(b, t, id, job, who)
    local text = 'cancelled by ' .. who
    if job.state == 'running' then
        if not stopping(job) then
            set_job(b, id, 'stop', 1, 'stop_at', t)
            redis.call('ZADD', b .. ':clock', t + OBEY_MS, id)
            event(b, t, id, 'cancel', 'running', job.attempt, {why = text})
        end
        return
    end
    set_error(b, id, 'CANCEL', text)
    finish(b, t, id, job, 'cancelled', 'cancel', {code = 'CANCEL', why = text})
end

local function cancel(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = job_of(b, a.id)
    if not job then
        return answer('NOTFOUND')
    end
    if job.state == 'cancelled' then
        return answer('OK', {state = 'cancelled', stopping = false})
    end
    if STATES_ENDED[job.state] then
        return answer('CONFLICT', {state = job.state})
    end
    local running = job.state == 'running'
    cancel_one(b, t, a.id, job, a.who)
    return answer('OK', {state = running and 'running' or 'cancelled', stopping = running})
end

local function purge(keys, args)
    local b, a, t, n = keys[1], cmsgpack.unpack(args[1]), now(), 0
    for _, set in ipairs({':wait', ':delayed'}) do
        for _, id in ipairs(redis.call('ZRANGE', b .. set, 0, a.max - n - 1)) do
            cancel_one(b, t, id, job_of(b, id), 'purge')
            n = n + 1
        end
        if n >= a.max then
            break
        end
    end
    return answer('OK', {n = n})
end

-- An ended job to the front of its line, its counts at zero.
local function revive(b, t, id, job)
    redis.call('HDEL', b .. ':job:' .. id, 'stop', 'stop_at', 'code', 'error', 'start', 'fin', 'exp')
    set_job(b, id, 'fails', 0, 'deaths', 0)
    requeue(b, t, id, job, true)
    if job.ds > 0 then
        redis.call('ZADD', b .. ':clock', t + job.ds, id)
    end
    count(b, 'n_retried')
    event(b, t, id, 'retry', 'queued', job.attempt, {why = 'asked for'})
end

local function retry(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = job_of(b, a.id)
    if not job then
        return answer('NOTFOUND')
    end
    if job.state == 'done' then
        return answer('CONFLICT', {state = job.state})
    end
    if STATES_ENDED[job.state] then
        revive(b, t, a.id, job)
    end
    return answer('OK', {state = job.state})
end

-- The record goes first, so that nobody can take the job up again while its files go: these are trash until somebody
-- says that they are gone.
local function delete_job(b, t, id, job)
    local idem, cache = redis.call('HGET', b .. ':job:' .. id, 'idem'), job.cache
    local key = idem and idem ~= '' and idem_key(b, job.tenant, idem)
    local held = key and redis.call('GET', key)
    if held and held:match('(%S+)$') == id then
        redis.call('DEL', key)
    end
    if cache and cache ~= '' and redis.call('GET', b .. ':cache:' .. cache) == id then
        redis.call('DEL', b .. ':cache:' .. cache)
    end
    leave(b, t, id, job)
    hooks_forget(b, id)
    redis.call('ZREM', b .. ':all', id)
    if job.tenant ~= '' then
        redis.call('ZREM', b .. ':of:' .. job.tenant, id)
    end
    redis.call('DEL', b .. ':job:' .. id, b .. ':log:' .. id, b .. ':hooklog:' .. id)
    redis.call('ZADD', b .. ':trash', t + TRASH_MS, id)
    event(b, t, id, 'delete', job.state, job.attempt)
end

local function delete(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local job = job_of(b, a.id)
    if not job then
        return answer('OK')
    end
    if not STATES_ENDED[job.state] then
        return answer('CONFLICT', {state = job.state})
    end
    delete_job(b, t, a.id, job)
    return answer('OK')
end

-- The files are gone. Once more, an hour later, somebody looks: a worker that did not know of the deletion may have published
-- and died before it heard.
local function forgot(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    if redis.call('ZREM', b .. ':trash', a.id) == 1 then
        redis.call('ZADD', b .. ':again', t + AGAIN_MS, a.id)
    end
    return answer('OK')
end

-- Does a tenant have anything that can close it? Otherwise nobody looks.
local function set_limited(b, name)
    local f = redis.call('HMGET', b .. ':tenant:' .. name, 'max_running', 'max_queued', 'gpu_day_ms', 'rate')
    local limited = redis.call('SISMEMBER', b .. ':paused', 'tenant:' .. name)
    for i = 1, 4 do
        limited = tonumber(f[i] or 0) > 0 and 1 or limited
    end
    redis.call('HSET', b .. ':tenant:' .. name, 'limited', limited)
end

local function pause(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local word = a.scope == 'queue' and 'queue' or a.scope .. ':' .. a.name
    redis.call(a.on and 'SADD' or 'SREM', b .. ':paused', word)
    if a.scope == 'tenant' then
        if a.on then
            redis.call('HSET', b .. ':tenant:' .. a.name, 'limited', 1)
        end
        redis.call('ZADD', b .. ':tenants', 'NX', t, a.name)
        refresh_tenant(b, t, a.name)
        set_limited(b, a.name)
    elseif not a.on then
        wake(b)
    end
    return answer('OK')
end

local function tenant(keys, args)
    local b, a, t = keys[1], cmsgpack.unpack(args[1]), now()
    local key = b .. ':tenant:' .. a.name
    redis.call('HSET', key, 'weight', a.weight, 'max_running', a.max_running, 'max_queued', a.max_queued, 'gpu_day_ms',
        math.floor(a.gpu_s_day * 1000), 'rate', a.rate, 'burst', a.burst, 'limited', 1)
    redis.call('ZADD', b .. ':tenants', 'NX', t, a.name)
    refresh_tenant(b, t, a.name)
    set_limited(b, a.name)
    return answer('OK')
end

------------------------------------------------------------------------------------------------------- reading

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
    local job = job_of(b, a.id)
    if not job then
        return answer('NOTFOUND')
    end
    local f, ms = read_fields(b, a.id), 0
    f.now, f.start_s = now(), -1
    f.pos, ms = position(b, a.id, job)
    if job.state == 'queued' then
        local fit = workers_for(b, parse_class(job.cls))
        f.start_s = start_s(b, job, ms, fit)
    end
    local record, late = unpack(redis.call('HMGET', b .. ':job:' .. a.id, 'rec', 'late'))
    f.late = late and cmsgpack.unpack(late) or nil
    if a.history then
        f.history = {}
        for i, bytes in ipairs(redis.call('LRANGE', b .. ':log:' .. a.id, 0, -1)) do
            f.history[i] = cmsgpack.unpack(bytes)
        end
    end
    return answer('OK', f, record)
end

local FILTERS = {'tenant', 'gen', 'code', 'worker', 'state'}

local function chosen(f, a)
    for _, name in ipairs(FILTERS) do
        if a[name] and f[name] ~= a[name] then
            return false
        end
    end
    return f.state ~= nil
end

-- A page of ids after the cursor "score:id", newest first.
local function list_page(b, set, score, after)
    local flat = redis.call('ZREVRANGEBYSCORE', b .. set, score, '-inf', 'WITHSCORES', 'LIMIT', 0, 1000)
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
    local mine = a.tenant and a.tenant ~= '' and ':of:' .. a.tenant
    local page, seen = list_page(b, a.state == 'failed' and ':dead' or mine or ':all', score or '+inf', after or '')
    local jobs, cursor = {}, ''
    for i, item in ipairs(page) do
        local f = read_fields(b, item.id)
        if chosen(f, a) then
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

local function redrive(keys, args)
    local b, a, t, n = keys[1], cmsgpack.unpack(args[1]), now(), 0
    local all = redis.call('ZRANGE', b .. ':dead', 0, -1)
    a.state = 'failed'
    for i = #all, 1, -1 do -- each goes to the front: the first one to fail is the first again
        if n >= a.max then
            break
        elseif chosen(read_fields(b, all[i]), a) then
            revive(b, t, all[i], job_of(b, all[i]))
            n = n + 1
        end
    end
    return answer('OK', {n = n})
end
