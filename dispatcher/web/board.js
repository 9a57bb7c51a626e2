"use strict";
/* The operator's tab: the queue in numbers, who works, what failed, and the buttons that go with them. It asks the server
 * every two seconds while it is shown; a list is rebuilt only when its answer changed, and keeps the focus.
 */

const BOARD_MS = 2000;
const DEAD_SHOWN = 20;
const board = { timer: null, stats: null, drawn: new Map() };

/* ---- helpers ---- */

function quantile(h, q) {
  const total = h ? h.n.reduce((s, n) => s + n, 0) : 0;
  if (!total) return null;
  let seen = 0, from = 0;
  for (let i = 0; i < h.le.length; i++) {
    if (h.n[i] > 0 && seen + h.n[i] >= q * total) return from + (h.le[i] - from) * (q * total - seen) / h.n[i];
    seen += h.n[i];
    from = h.le[i];
  }
  return from;
}

function span(s) {
  return s === null || s === undefined || s < 0 ? "–" : s < 0.05 ? "< 0.1 s" : s < 9.95 ? `${s.toFixed(1)} s` : duration(s);
}

function plural(n, one, many) {
  return `${n} ${n === 1 ? one : many}`;
}

function boardProblem(text) {
  $("board-problem").textContent = text || "";
  $("board-problem").hidden = !text;
}

/* Rebuilds the list `id` from items when they changed; a focused button stays focused. */
function fill(id, items, row) {
  const key = JSON.stringify(items), list = $(id);
  if (board.drawn.get(id) === key) return;
  board.drawn.set(id, key);
  const at = [...list.querySelectorAll("button")].indexOf(document.activeElement);
  list.replaceChildren(...items.map(row));
  const again = list.querySelectorAll("button")[at];
  if (again) again.focus();
  if ($(`${id}-empty`)) $(`${id}-empty`).hidden = items.length > 0;
}

/* A button that posts, and draws what came of it. */
function act(text, label, path, ask) {
  const button = make("button", { type: "button", className: "plain", textContent: text });
  button.setAttribute("aria-label", label);
  button.addEventListener("click", async () => {
    if (ask && !await confirmed(ask)) return;
    post(button, path);
  });
  return button;
}

/* Once at a time; the button is not disabled, for that would take the focus from it. */
async function post(button, path) {
  if (button.dataset.busy) return;
  button.dataset.busy = "yes";
  try {
    await api(path, { method: "POST" });
    boardProblem("");
  } catch (err) {
    boardProblem(err.message);
  }
  delete button.dataset.busy;
  await showBoard();
}

function confirmed(question) {
  const dialog = $("ask-dialog");
  [$("ask-title").textContent, $("ask-text").textContent] = question;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

function progressBar(share, label) {
  const bar = make("div", { className: "bar" }, make("i"));
  bar.firstElementChild.style.width = `${(Math.min(1, Math.max(0, share)) * 100).toFixed(1)}%`;
  if (label) {
    bar.setAttribute("role", "progressbar");
    bar.setAttribute("aria-label", label);
    bar.setAttribute("aria-valuenow", Math.round(share * 100));
  } else {
    bar.setAttribute("aria-hidden", "true");
  }
  return bar;
}

/* ---- the parts ---- */

function tile(name, value, note, warm) {
  const box = make("div", { className: warm ? "warm" : "" }, make("dt", { textContent: name }),
                   make("dd", { textContent: value }));
  if (note) box.lastElementChild.append(make("small", { textContent: note }));
  return box;
}

function showNumbers(q) {
  const wait = q.hist && q.hist.wait, run = q.hist && q.hist.run;
  const tiles = [
    ["Waiting", String(q.waiting), q.waiting ? `oldest ${span(q.oldest_ms / 1000)}` : "", false],
    ["Running", String(q.running), plural(q.workers, "worker", "workers"), q.workers === 0],
    ["Work ahead", span(q.backlog_s), "predicted", false],
    ["Delayed", String(q.delayed), "", false],
    ["Failed", String(q.dead), "", q.dead > 0],
    ["Waits", span(quantile(wait, 0.5)), `9 of 10 under ${span(quantile(wait, 0.9))}`, false],
    ["Runs", span(quantile(run, 0.5)), `9 of 10 under ${span(quantile(run, 0.9))}`, false],
  ];
  if (!quantile(wait, 0.5)) tiles[5][2] = "";
  if (!quantile(run, 0.5)) tiles[6][2] = "";
  fill("tiles", tiles, (t) => tile(...t));
  $("pause-all").textContent = q.paused ? "Resume" : "Pause";
  $("pause-all").setAttribute("aria-label", q.paused ? "Resume the queue" : "Pause the queue");
  fill("chips", [...(q.paused_list || [])].sort(), chip);
  fill("levels", (q.levels || []).map((l) => [l.priority, l.waiting, Math.round(l.waiting_s),
    l.waiting / Math.max(...q.levels.map((x) => x.waiting))]), levelRow);
}

function chip(what) {
  const [scope, name] = [what.split(":")[0], what.slice(what.indexOf(":") + 1)];
  const text = scope === "queue" ? "The queue is paused" : `${scope} ${name || "(none)"} is paused`;
  const path = "/v1/queue/resume" + (scope === "queue" ? "" : `?${scope}=${encodeURIComponent(name)}`);
  return make("li", {}, make("span", { textContent: text[0].toUpperCase() + text.slice(1) }),
              act("Resume", `Resume ${scope === "queue" ? "the queue" : `${scope} ${name}`}`, path));
}

function levelRow([priority, waiting, seconds, share]) {
  return make("li", {}, make("b", { textContent: priority }), progressBar(share),
              make("span", { textContent: `${plural(waiting, "job", "jobs")}, ${duration(seconds)}` }));
}

function tenantRow(t) {
  const name = t.name || "(no name)";
  const held = { running: "as many run as may", budget: "today's seconds are used", paused: "paused" }[t.held];
  const facts = [`${t.waiting} waiting`, `${t.running} running`, `${duration(t.used_s_day)} today`];
  if (t.weight !== 1) facts.push(`weight ${t.weight}`);
  if (t.max_running) facts.push(`at most ${t.max_running} running`);
  if (t.gpu_s_day) facts.push(`at most ${duration(t.gpu_s_day)} a day`);
  if (held) facts.push(held);
  const query = `tenant=${encodeURIComponent(t.name)}`;
  return make("li", {}, make("div", {}, make("b", { textContent: name }), make("span", { textContent: facts.join(" · ") })),
              t.paused ? act("Resume", `Resume tenant ${name}`, `/v1/queue/resume?${query}`)
                       : act("Pause", `Pause tenant ${name}`, `/v1/queue/pause?${query}`));
}

function workerRow(w) {
  const path = `/v1/workers/${encodeURIComponent(w.name)}/quiet`;
  const doing = !w.job ? w.quiet ? "Told to take nothing more" : "Idle"
    : [w.stage || "starting", w.total > 1 ? `step ${w.step} of ${w.total}` : "", w.eta ? `about ${duration(w.eta)} left` : "",
       w.quiet ? "then nothing more" : ""].filter(Boolean).join(" · ");
  const row = make("li", {}, make("div", {}, make("b", { textContent: w.name }),
                                  make("span", { textContent: `${doing} — ${w.device}` })),
                   w.quiet ? act("Work on", `Let ${w.name} take jobs again`, `${path}?off=1`)
                           : act("Quiet", `Let ${w.name} take no more jobs`, path));
  if (w.job) row.append(progressBar(w.total > 0 ? w.step / w.total : 0, `Stage of ${w.name}`));
  return row;
}

function deadRow(j) {
  const tries = [j.fails ? `failed ${j.fails} times` : "", j.deaths ? `lost its worker ${j.deaths} times` : ""];
  const facts = [j.error_code, j.when, ...tries, j.tenant ? `tenant ${j.tenant}` : "", j.worker ? `on ${j.worker}` : ""];
  const open = make("a", { href: `/?job=${encodeURIComponent(j.id)}`, textContent: `…${j.id.slice(-8)}`, title: j.id });
  return make("li", {}, make("div", {}, make("b", { className: "why", textContent: j.error || "Failed" }),
                             make("span", {}, open, ` · ${facts.filter(Boolean).join(" · ")}`)),
              act("Retry", `Retry job ${j.id}`, `/v1/jobs/${encodeURIComponent(j.id)}/retry`));
}

/* ---- asking ---- */

function joinWorkers(workers, running) {
  const jobs = new Map(running.map((j) => [j.id, j]));
  return workers.map((w) => {
    const j = jobs.get(w.job) || {};
    return { name: w.name, device: w.device || "", quiet: w.quiet, job: w.job || "", stage: j.stage, step: j.step,
             total: j.total, eta: typeof j.eta_s === "number" && j.eta_s > 0 ? Math.round(j.eta_s) : 0 };
  }).sort((a, b) => !a.job - !b.job || a.name.localeCompare(b.name));
}

async function showBoard() {
  try {
    const [q, workers, running, dead, tenants] = await Promise.all([
      api("/v1/queue"), api("/v1/workers"), api("/v1/jobs?state=running&limit=100"),
      api(`/v1/queue/dead?limit=${DEAD_SHOWN}`), api("/v1/tenants")]);
    board.stats = q;
    showNumbers(q);
    fill("workers", joinWorkers(workers.workers, running.jobs), workerRow);
    fill("dead", dead.jobs.map((j) => ({ ...j, when: ago(j.finished_at) })), deadRow);
    $("redrive-all").hidden = q.dead < 2;
    $("redrive-all").textContent = `Retry all ${q.dead}`;
    const named = tenants.tenants.filter((t) => t.name || tenants.tenants.length > 1);
    $("tenants-card").hidden = named.length === 0;
    fill("tenants", named, tenantRow);
    if (board.lost) boardProblem("");
    board.lost = false;
  } catch (err) {
    board.lost = true;
    boardProblem(err.status ? err.message : "The server cannot be reached. Is it running?");
  }
}

$("pause-all").addEventListener("click", () => post($("pause-all"), `/v1/queue/${board.stats && board.stats.paused
  ? "resume" : "pause"}`));
$("redrive-all").addEventListener("click", async () => {
  const n = board.stats ? board.stats.dead : 0;
  if (await confirmed([`Retry ${plural(n, "failed job", "failed jobs")}?`, "They go to the front of their lines."])) {
    post($("redrive-all"), "/v1/queue/redrive");
  }
});

/* ---- which tab ---- */

function showTab() {
  const on = location.hash === "#board";
  $("board").hidden = !on;
  $("make").hidden = on;
  for (const [id, here] of [["tab-board", on], ["tab-make", !on]]) {
    if (here) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
  clearInterval(board.timer);
  if (!on) return;
  showBoard();
  board.timer = setInterval(() => { if (!document.hidden) showBoard(); }, BOARD_MS);
}

window.addEventListener("hashchange", showTab);
showTab();
