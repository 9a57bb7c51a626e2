"use strict";
/* The page: a form, the job being watched, and the jobs before it. No libraries; everything the server says is put in
 * as text, never as markup. The event stream is the only thing that drives the stage; lists are looked at now and then.
 */

const $ = (id) => document.getElementById(id);
const STAGES = ["fetch", "probe", "load", "condition", "denoise", "decode", "encode", "publish"];
const FINAL = ["done", "failed", "cancelled", "timed_out"];
const STATE_TEXT = {
  queued: "Waiting", delayed: "Waiting for another try", running: "Running", done: "Done", failed: "Failed",
  cancelled: "Cancelled", timed_out: "Timed out",
};

/* ---- small helpers ---- */

function make(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

function duration(s) {
  s = Math.max(0, Math.round(s));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

function ago(text) {
  const s = (Date.now() - Date.parse(text)) / 1000;
  return s < 5 ? "just now" : `${duration(s < 3600 ? s : Math.round(s / 60) * 60)} ago`;
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

async function api(path, options) {
  const answer = await fetch(path, options);
  if (answer.status === 401) askKey();
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(body.detail || `The server answered ${answer.status}.`), body);
  return body;
}

function askKey() {
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

$("key-form").addEventListener("submit", () => {
  document.cookie = `troupe_key=${encodeURIComponent($("key").value)}; Path=/; SameSite=Strict; Max-Age=31536000`;
  location.reload();
});

/* ---- the form ---- */

let fields = [];

function fieldInput(f) {
  const id = `f-${f.name}`;
  const shown = f.default === null ? "" : String(f.default);
  if (f.choices) {
    const select = make("select", { id, name: f.name });
    for (const c of f.choices) select.append(make("option", { value: c, textContent: c, selected: c === shown }));
    return select;
  }
  if (f.type === "boolean") return make("input", { id, name: f.name, type: "checkbox", checked: f.default === true });
  if (f.type === "text" && f.max_bytes > 1000) {
    return make("textarea", { id, name: f.name, rows: 2, placeholder: shown });
  }
  const number = f.type === "integer" || f.type === "number";
  const input = make("input", { id, name: f.name, type: number ? "number" : "text", placeholder: shown });
  if (number) Object.assign(input, { min: f.min, max: f.max, step: f.type === "integer" ? 1 : "any" });
  return input;
}

function showFields(generator) {
  fields = generator.fields;
  for (const f of fields) {
    if (f.type === "media" || f.name === "prompt" || (f.queue && f.name !== "priority")) continue;
    const input = fieldInput(f);
    const label = make("label", { className: f.type === "boolean" ? "field check" : "field", htmlFor: input.id });
    const name = f.name.replaceAll("_", " ");
    label.append(name[0].toUpperCase() + name.slice(1), input, make("small", { textContent: f.help }));
    if (input.tagName === "TEXTAREA") label.classList.add("wide-field");
    $("fields").append(label);
  }
}

function problem(text, field) {
  $("problem").textContent = text || "";
  $("problem").hidden = !text;
  for (const n of document.querySelectorAll(".bad")) n.classList.remove("bad");
  if (!field) return;
  const input = $("form").elements[field];
  const box = input && input.closest(".drop, .field");
  if (!box) return;
  box.classList.add("bad");
  if (box.closest("details")) box.closest("details").open = true;
  input.focus();
}

function drop(kind) {
  const box = $(`drop-${kind}`);
  const input = box.querySelector("input");
  const name = box.querySelector(".drop-name");
  const picture = box.querySelector("img");
  let url = null;

  function show() {
    const file = input.files[0];
    if (url) URL.revokeObjectURL(url);
    url = file ? URL.createObjectURL(file) : null;
    box.classList.toggle("full", !!file);
    box.classList.remove("bad");
    name.hidden = !file;
    name.textContent = file ? `${file.name} · ${size(file.size)}` : "";
    if (picture) {
      picture.hidden = !file;
      if (file) picture.src = url;
    } else {
      $("heard").hidden = !file;
      if (file) $("heard").src = url;
    }
  }
  input.addEventListener("change", show);
  for (const type of ["dragenter", "dragover"]) {
    box.addEventListener(type, (e) => { e.preventDefault(); box.classList.add("over"); });
  }
  for (const type of ["dragleave", "drop"]) box.addEventListener(type, () => box.classList.remove("over"));
  box.addEventListener("drop", (e) => {
    e.preventDefault();
    if (e.dataTransfer.files.length) { input.files = e.dataTransfer.files; show(); }
  });
}

function formData() {
  const data = new FormData();
  const texts = new Map();
  for (const input of $("form").elements) {
    if (!input.name) continue;
    if (input.type === "file") {
      if (input.files[0]) data.append(input.name, input.files[0], input.files[0].name);
    } else if (input.type === "checkbox") {
      const f = fields.find((x) => x.name === input.name);
      if (input.checked !== (f && f.default === true)) texts.set(input.name, String(input.checked));
    } else if (input.value.trim() !== "") {
      const f = fields.find((x) => x.name === input.name);
      if (!f || String(f.default) !== input.value) texts.set(input.name, input.value);
    }
  }
  for (const [k, v] of texts) data.append(k, v);
  return data;
}

/* XMLHttpRequest, for fetch tells nothing of an upload's progress. */
function send(data) {
  return new Promise((resolve, reject) => {
    const x = new XMLHttpRequest();
    x.open("POST", "/v1/jobs");
    x.setRequestHeader("Idempotency-Key", crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`);
    x.responseType = "json";
    x.upload.onprogress = (e) => { if (e.lengthComputable) $("upload").value = e.loaded / e.total; };
    x.onerror = () => reject(new Error("The server cannot be reached. Is it running?"));
    x.onload = () => {
      if (x.status === 401) askKey();
      if (x.status === 201 || x.status === 200) resolve(x.response);
      else reject(Object.assign(new Error((x.response && x.response.detail) || `The server answered ${x.status}.`),
                                x.response || {}));
    };
    x.send(data);
  });
}

$("form").addEventListener("submit", async (e) => {
  e.preventDefault();
  problem("");
  for (const kind of ["image", "audio"]) {
    if (!$("form").elements[kind].files[0]) {
      return problem(kind === "image" ? "A portrait is needed: drop a picture on the first box."
                                      : "A recording is needed: drop speech on the second box.", kind);
    }
  }
  $("submit").disabled = true;
  $("upload").hidden = false;
  $("upload").value = 0;
  try {
    const job = await send(formData());
    watch(job.id, $("form").elements.image.files[0]);
    $("stage").scrollIntoView({ behavior: "smooth", block: "nearest" });
    listJobs();
  } catch (err) {
    problem(err.message, err.field);
  } finally {
    $("submit").disabled = false;
    $("upload").hidden = true;
  }
});

/* ---- the job being watched ---- */

const stage = { id: null, source: null, job: null, progress: null, heardAt: 0, picture: null, furthest: 0 };

function startsIn(job) {
  if (typeof job.start_s !== "number") return "";
  return job.start_s < 1 ? "starts in a moment" : `starts in about ${duration(job.start_s)}`;
}

function stageText() {
  const job = stage.job;
  if (!job) return "";
  const p = stage.progress || {};
  if (job.state === "queued") {
    return [job.position === null ? "Waiting" : job.position === 0 ? "Next in line"
            : `${job.position} ${job.position === 1 ? "job is" : "jobs are"} before this one`, startsIn(job)]
      .filter(Boolean).join(" · ");
  }
  if (job.state === "delayed") return `Trying again soon. ${job.error ? job.error.detail : ""}`;
  if (job.state === "running") {
    if (job.stopping) return "Stopping…";
    const parts = [p.stage ? p.stage[0].toUpperCase() + p.stage.slice(1) : "Starting"];
    if (p.total > 1) parts.push(`step ${p.step} of ${p.total}`);
    if (typeof p.eta_s === "number" && p.eta_s >= 0) {
      const left = p.eta_s - (Date.now() - stage.heardAt) / 1000;
      parts.push(left > 1 ? `about ${duration(left)} left` : "nearly there");
    }
    return parts.join(" · ");
  }
  if (job.state === "done") {
    const r = job.result || {};
    const took = job.started_at ? (Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000 : 0;
    return [r.width ? `${r.width} × ${r.height}` : "", r.seconds ? `${r.seconds.toFixed(1)} s` : "",
            r.seed !== undefined ? `seed ${r.seed}` : "", took ? `made in ${duration(took)}` : ""]
      .filter(Boolean).join(" · ");
  }
  return job.error ? job.error.detail : STATE_TEXT[job.state];
}

/* By time, once the worker can tell how long it will need; null before. The bar never goes back within an attempt. */
function fraction() {
  const p = stage.progress;
  if (stage.job.state !== "running" || !p) {
    stage.furthest = 0;
    return null;
  }
  const started = Date.parse(stage.job.started_at);
  if (typeof p.eta_s === "number" && p.eta_s >= 0 && started) {
    const gone = Math.max(0, (Date.now() - started) / 1000);
    const left = Math.max(0, p.eta_s - (Date.now() - stage.heardAt) / 1000);
    stage.furthest = Math.max(stage.furthest, Math.min(0.99, gone / (gone + left + 0.01)));
  }
  return stage.furthest || null;
}

function drawSteps() {
  const running = stage.job.state === "running" && stage.progress && stage.progress.stage;
  const at = running ? STAGES.indexOf(stage.progress.stage) : -1;
  $("steps").hidden = at < 0;
  if (at < 0) return;
  $("steps").replaceChildren(...STAGES.map((name, i) =>
    make("li", { textContent: name, className: i < at ? "past" : i === at ? "now" : "" })));
}

function tickStage() {
  if (!stage.job) return;
  const job = stage.job;
  const f = FINAL.includes(job.state) ? 1 : fraction();
  const waiting = f === null;
  const text = stageText();
  if ($("stage-text").textContent !== text) $("stage-text").textContent = text;
  $("bar").classList.toggle("waiting", waiting);
  $("bar").classList.toggle("bad", job.state === "failed" || job.state === "timed_out");
  $("bar").hidden = job.state === "cancelled" || job.state === "done";
  $("bar").firstElementChild.style.width = waiting ? "" : `${(f * 100).toFixed(1)}%`;
  if (waiting) $("bar").removeAttribute("aria-valuenow");
  else $("bar").setAttribute("aria-valuenow", Math.round(f * 100));
}

function drawMedia() {
  const video = $("stage-video"), image = $("stage-image"), job = stage.job;
  const playable = job.state === "done" && job.links.video;
  if (playable && video.dataset.job !== job.id) {
    video.dataset.job = job.id;
    if (job.links.thumbnail) video.poster = job.links.thumbnail;
    video.src = job.links.video;
  }
  video.hidden = !playable;
  if (!playable) {
    video.pause();
    video.removeAttribute("src");
    video.dataset.job = "";
  }
  image.hidden = playable || !stage.picture;
  if (!image.hidden && image.src !== stage.picture) image.src = stage.picture;
  $("stage-view").hidden = video.hidden && image.hidden;
}

function drawStage() {
  const job = stage.job;
  $("stage").hidden = false;
  $("stage-title").textContent = STATE_TEXT[job.state] || job.state;
  $("stage-cancel").hidden = FINAL.includes(job.state) || job.stopping;
  drawMedia();
  drawSteps();
  const links = [];
  if (job.links.video) {
    links.push(make("a", { href: `${job.links.video}?download=1`, textContent: "Download the video" }));
    if (job.links.report) links.push(make("a", { href: job.links.report, textContent: "How it was made" }));
  }
  $("stage-links").replaceChildren(...links);
  const warnings = (job.result && job.result.warnings) || [];
  $("stage-warnings").replaceChildren(...warnings.map((w) => make("li", { textContent: w })));
  tickStage();
}

function closeStream() {
  if (stage.source) stage.source.close();
  stage.source = null;
}

function watch(id, picture) {
  closeStream();
  if (stage.picture) URL.revokeObjectURL(stage.picture);
  Object.assign(stage, {
    id, job: null, progress: null, furthest: 0, picture: picture ? URL.createObjectURL(picture) : null,
  });
  openStream(id, "");
}

/* The browser itself comes back after a lost connection, but gives up after an answer that is an error (503 while Redis
 * is away): then we come back, and say what was seen last. */
function openStream(id, last) {
  const source = new EventSource(`/v1/jobs/${encodeURIComponent(id)}/events${last ? `?last_event_id=${last}` : ""}`);
  stage.source = source;
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED || source !== stage.source) return;
    if (stage.job && FINAL.includes(stage.job.state)) return;
    setTimeout(() => { if (source === stage.source) openStream(id, last); }, 2000);
  });
  source.addEventListener("job", (e) => {
    const before = stage.job && stage.job.state;
    stage.job = JSON.parse(e.data);
    if (stage.job.state === "running" && stage.job.progress.stage) {
      stage.progress = stage.job.progress;
      stage.heardAt = Date.now();
    }
    drawStage();
    if (before !== stage.job.state) listJobs();
  });
  source.addEventListener("progress", (e) => {
    stage.progress = JSON.parse(e.data);
    stage.heardAt = Date.now();
    last = e.lastEventId || last;
    if (!stage.job) return;
    if (stage.job.state !== "running") Object.assign(stage.job, { state: "running", started_at: stage.progress.time });
    drawStage();
  });
  source.addEventListener("state", (e) => {
    const event = JSON.parse(e.data);
    if (!stage.job || FINAL.includes(event.state)) return; /* the whole job follows */
    if (event.state !== "running") stage.progress = null;
    if (event.event === "claim") stage.job.started_at = event.time;
    if (event.event === "cancel" && event.state === "running") stage.job.stopping = true;
    stage.job.state = event.state;
    drawStage();
    listJobs();
  });
  source.addEventListener("end", () => { closeStream(); listJobs(); });
}

$("stage-cancel").addEventListener("click", () => cancel(stage.id));

async function cancel(id) {
  try {
    await api(`/v1/jobs/${encodeURIComponent(id)}/cancel`, { method: "POST" });
    listJobs();
  } catch (err) {
    problem(err.message);
  }
}

/* ---- the jobs before ---- */

let shown = 8;

function jobLine(j) {
  if (j.state === "running" && j.stage) return `${j.stage}${j.total > 1 ? ` ${j.step} of ${j.total}` : ""}`;
  if (j.state === "failed" || j.state === "timed_out") return j.error || STATE_TEXT[j.state];
  return [STATE_TEXT[j.state] || j.state, j.state === "queued" ? startsIn(j) : "", ago(j.finished_at || j.submitted_at)]
    .filter(Boolean).join(" · ");
}

function thumb(j) {
  const mark = { running: "◐", queued: "○" }[j.state] || "–";
  const fallback = () => make("span", { className: "thumb", textContent: mark });
  if (!j.links || !j.links.thumbnail) return fallback();
  const img = make("img", { className: "thumb", src: j.links.thumbnail, alt: "", loading: "lazy" });
  img.addEventListener("error", () => img.replaceWith(fallback()));
  return img;
}

function jobRow(j) {
  const when = new Date(j.submitted_at).toLocaleString([],
    { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" });
  const open = make("button", { type: "button", className: "open-job" },
                    make("b", { textContent: when }), make("span", { textContent: jobLine(j) }));
  open.addEventListener("click", () => {
    watch(j.id);
    $("stage").scrollIntoView({ behavior: "smooth", block: "nearest" });
  });
  const acts = make("div", { className: "acts" });
  if (!FINAL.includes(j.state)) {
    const stop = make("button", { type: "button", className: "plain", textContent: "Cancel" });
    stop.addEventListener("click", () => cancel(j.id));
    acts.append(stop);
  } else if (j.state !== "done") {
    const again = make("button", { type: "button", className: "plain", textContent: "Retry" });
    again.addEventListener("click", () => retry(j.id));
    acts.append(again);
  }
  const row = make("li", {}, thumb(j), open, acts);
  if (j.id === stage.id) row.classList.add("open");
  if (j.state === "failed" || j.state === "timed_out") row.classList.add("failed");
  return row;
}

async function retry(id) {
  try {
    await api(`/v1/jobs/${encodeURIComponent(id)}/retry`, { method: "POST" });
    watch(id);
    listJobs();
  } catch (err) {
    problem(err.message);
  }
}

const STARTS_SHOWN = 8; /* the list does not say when a job will start; those that are first in it are asked */

async function foresee(j) {
  const job = await api(`/v1/jobs/${encodeURIComponent(j.id)}`).catch(() => null);
  if (!job || job.state !== "queued") return;
  j.start_s = typeof job.start_s === "number" ? Math.round(job.start_s) : null;
  if (stage.job && stage.id === j.id && stage.job.state === "queued") {
    Object.assign(stage.job, { start_s: job.start_s, position: job.position });
    tickStage();
  }
}

let drawn = "";

async function listJobs() {
  try {
    const list = await api(`/v1/jobs?limit=${shown}`);
    await Promise.all(list.jobs.filter((j) => j.state === "queued").slice(-STARTS_SHOWN).map(foresee));
    const key = JSON.stringify([list, stage.id, Math.floor(Date.now() / 30000)]);
    if (key === drawn) return;
    drawn = key;
    const at = document.activeElement && [...$("jobs").querySelectorAll("button")].indexOf(document.activeElement);
    $("jobs").replaceChildren(...list.jobs.map(jobRow));
    if (at >= 0 && $("jobs").querySelectorAll("button")[at]) $("jobs").querySelectorAll("button")[at].focus();
    $("jobs-empty").hidden = list.jobs.length > 0;
    $("more").hidden = !list.cursor || shown >= 100;
  } catch {
    /* the queue line says that the server is away */
  }
}

$("more").addEventListener("click", () => { shown = Math.min(100, shown + 16); listJobs(); });

async function queueLine() {
  try {
    const q = await api("/v1/queue");
    const workers = q.workers === 0 ? "no worker is running" : `${q.workers} ${q.workers === 1 ? "worker" : "workers"}`;
    $("queue-line").textContent =
      (q.paused ? "Paused · " : "") + `${q.waiting} waiting · ${q.running} running · ${workers}`;
  } catch (err) {
    $("queue-line").textContent = err.status === 403 ? "" : err.status ? err.message : "The server cannot be reached";
  }
}

/* ---- start ---- */

drop("image");
drop("audio");
api("/v1/generators").then((g) => showFields(g.generators[0])).catch((err) => problem(err.message));
listJobs();
queueLine();
setInterval(tickStage, 500);
setInterval(() => { if (!document.hidden) { queueLine(); listJobs(); } }, 4000);
const wanted = new URLSearchParams(location.search).get("job");
if (wanted) watch(wanted);
