// Everything here is an extra: each page works without it.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const token = document.body.dataset.token;
const signedIn = "signedIn" in document.body.dataset;
const say = (text) => { $("#said").textContent = text; };
const alarm = (text) => { $("#alarm").textContent = text; };
const store = {
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { /* a private window */ } },
};

for (const el of $$("[data-hide]")) el.hidden = true;
for (const el of $$("[data-show], [data-do], [data-copy]")) el.hidden = false;

// ---- Times: relative, in the reader's own zone ----
const relative = new Intl.RelativeTimeFormat(document.documentElement.lang, { numeric: "auto" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "short" });
function tellTimes(root = document) {
  const now = Date.now();
  for (const el of $$("time[datetime]", root)) {
    const at = new Date(el.dateTime);
    const minutes = Math.round((at - now) / 60000);
    el.title = full.format(at);
    const days = Math.round((new Date(at).setHours(0, 0, 0, 0) - new Date(now).setHours(0, 0, 0, 0)) / 864e5);
    el.textContent = Math.abs(minutes) < 60 ? relative.format(minutes, "minute")
      : days === 0 ? clock.format(at)
      : Math.abs(days) < 7 ? relative.format(days, "day")
      : day.format(at);
  }
}
tellTimes();
setInterval(tellTimes, 30000);

// ---- Menus: Esc and a press outside close them ----
addEventListener("click", (event) => {
  for (const menu of $$("details.menu[open], details.help[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
addEventListener("blur", () => {
  // The frame took the focus: the press was outside.
  if (document.activeElement?.tagName === "IFRAME") for (const m of $$("details.menu[open]")) m.open = false;
});
// So does walking out of them: what they cover is next.
addEventListener("focusout", (event) => {
  const menu = event.target.closest?.("details.menu[open], details.help[open]");
  if (menu && event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of $$("details[open]")) { menu.open = false; $("summary", menu).focus(); }
  if (document.body.classList.contains("full")) leaveFull();
});

// ---- Forms: a second press does nothing twice ----
addEventListener("submit", (event) => {
  if (event.defaultPrevented) return;
  if (event.target.dataset.sent) { event.preventDefault(); return; }
  event.target.dataset.sent = "1";
  event.submitter?.setAttribute("aria-busy", "true");
  // Back brings the page as it was; a request that came to nothing leaves it standing. Not before a
  // slow network's answer can be there: a second press would make a second grain.
  setTimeout(() => { delete event.target.dataset.sent; event.submitter?.removeAttribute("aria-busy"); }, 30000);
});
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const form of $$("form[data-sent]")) delete form.dataset.sent;
  for (const el of $$("[aria-busy]")) el.removeAttribute("aria-busy");
  connect();
  refresh("all");
});

// ---- Acts of the page itself ----
const acts = {
  rename: () => rename(),
  reconnect: () => connect(),
  fullscreen: () => enterFull(),
  "cancel-upload": () => uploading?.abort(),
  palette: () => palette(),
  wait: (el) => waitOn(el),
};
addEventListener("click", (event) => {
  const el = event.target.closest?.("[data-do], [data-copy]");
  if (!el || (el.dataset.do && !acts[el.dataset.do])) return;
  event.preventDefault();
  for (const menu of $$("details.menu[open]")) menu.open = false;
  if (el.dataset.do) acts[el.dataset.do](el);
  else copy(el.dataset.copy || location.href.split("#")[0]);
});
async function copy(text) {
  try { await navigator.clipboard.writeText(text); toast("The address is copied."); }
  catch { prompt("Copy the address:", text); }
}
function toast(text, tone = "good") {
  const el = document.createElement("output");
  el.className = `notice ${tone}`;
  el.textContent = text;
  $("#notices")?.append(el);
  say(text);
  setTimeout(() => el.remove(), 10000);
}
function told(notice) {
  // Ten seconds, but not under the focus or the pointer.
  const go = () => notice.matches(":hover, :focus-within") ? setTimeout(go, 2000) : notice.remove();
  setTimeout(go, 10000);
  say($("span", notice)?.textContent.trim() ?? notice.textContent.trim());
}
for (const notice of $$("#notices .notice")) told(notice);

// ---- The list: changed in place by search and news, so nothing here may hold on to its elements ----
// Chosen, but not among the rows that a search left.
const kept = new Set();
const idIn = (row) => $("input[name=grain]", row).value;
function count() {
  const list = $("#list");
  if (!list) return;
  // What an act is done to is what the form holds, and what the count tells.
  for (const el of $$("input.kept", list)) el.remove();
  for (const value of kept) {
    list.append(Object.assign(document.createElement("input"), { type: "hidden", name: "grain", className: "kept", value }));
  }
  const chosen = $$("input[name=grain]:checked", list).length + kept.size;
  $("#chosen").textContent = `${chosen} chosen${kept.size ? `, ${kept.size} of them not shown` : ""}`;
}
addEventListener("change", (event) => { if (event.target.name === "grain") count(); });
addEventListener("reset", (event) => { if (event.target.id === "list") { kept.clear(); setTimeout(count); } });
count();
// An act on the list and its undo: the page stays, so that ticks, place and focus do. One after the other.
let acting = 0, lastAct = Promise.resolve();
function onList(action, fields, place, gone, button) {
  const from = document.activeElement;
  if (acting++) say("One moment");
  button?.setAttribute("aria-busy", "true");
  // One that breaks down must not keep the later ones from their turn.
  lastAct = lastAct.then(() => onListNow(action, fields, place, gone, from)).catch(reportError).finally(() => {
    acting--;
    button?.removeAttribute("aria-busy");
  });
}
async function onListNow(action, fields, place, gone, from) {
  let answer, text;
  try {
    // A network that went dead must not keep every later button waiting.
    const signal = AbortSignal.timeout(30000);
    answer = await fetch(action, { method: "POST", body: fields, headers: { accept: "text/html" }, signal });
    text = await answer.text();
  } catch {
    toast("The server did not answer. Load the page again to see what it did.", "bad");
    return;
  }
  const page = new DOMParser().parseFromString(text, "text/html");
  if (!answer.ok && (answer.status !== 403 || "signedIn" in page.body.dataset)) {
    const why = $$("main h1, main .problem > p", page).map((el) => el.textContent.trim()).join(" ");
    toast(why || "The server could not do this. Try again.", "bad");
    return;
  }
  // Signed out: the page that says so is better than words of ours.
  if (!$("#count", page)) { location.reload(); return; }
  gone?.remove();
  const before = new Set($$(".grains li").map(idIn)), done = new Set(fields.getAll("grain"));
  // Nothing else shall happen to these by the next button.
  for (const el of $$("#list input[name=grain]:checked")) el.checked = !done.has(el.value);
  for (const id of done) kept.delete(id);
  const fresh = $$("#notices .notice", page);
  $("#notices").append(...fresh);
  if (searching || here() !== fields.get("to")) {
    // The list is the answer to another question by now.
    count();
    reloadList();
  } else {
    const back = $$(".grains li", page).map(idIn).find((id) => !before.has(id));
    // Whoever has gone elsewhere meanwhile stays there.
    const stayed = [from, placed, document.body, null].includes(document.activeElement);
    swap($("main"), $("main", page), stayed ? { place: place ?? back ?? "" } : {});
    swap($(".rail"), $(".rail", page));
  }
  for (const notice of fresh) told(notice);
}
const here = () => location.pathname + location.search;
addEventListener("submit", (event) => {
  const form = event.target, act = event.submitter?.value;
  // What asks first is a page of its own.
  const list = form.id === "list" && act !== "destroy", undo = form.closest("#notices") && $("#count");
  if (!list && !undo) return;
  event.preventDefault();
  const fields = new URLSearchParams(new FormData(form, event.submitter));
  fields.set("to", here());
  onList(form.action, fields, list ? fields.get("grain") : undefined, undo && form.closest(".notice"), event.submitter);
}, true);
addEventListener("pointerdown", (event) => {
  const row = event.target.closest?.("a[data-wake]");
  // The press wakes the grain; by the time the page is there it may be up.
  if (row && event.button === 0) post(`/grains/${row.dataset.wake}/act`, { act: "wake" });
});
function post(path, fields) {
  return fetch(path, { method: "POST", keepalive: true, body: new URLSearchParams({ token, ...fields }) });
}
// Where the list of places is a row of chips, the one that is lit may be out of sight.
const lit = $(".rail [aria-current]");
if (lit) {
  const rail = lit.closest(".rail"), seen = rail.getBoundingClientRect(), at = lit.getBoundingClientRect();
  if (at.left < seen.left || at.right > seen.right) rail.scrollLeft += at.left - seen.left - 16;
}

// ---- Search as typed ----
const box = $("#q");
let searching = false;
if (box && $("#count")) {
  let timer, asked = 0;
  const search = (after, entered = false) => {
    clearTimeout(timer);
    searching = true;
    const mine = ++asked;
    timer = setTimeout(async () => {
      const url = new URL("/", location.origin);
      const here = new URL(location.href);
      for (const key of ["show", "app", "sort"]) if (here.searchParams.get(key)) url.searchParams.set(key, here.searchParams.get(key));
      if (box.value.trim()) url.searchParams.set("q", box.value);
      const page = await fetchPage(url);
      if (mine !== asked) return;
      searching = false;
      // The page itself says what is the matter.
      if (!page) { if (entered) box.form.submit(); return; }
      swap($("main"), $("main", page), { narrowed: true });
      history.replaceState(null, "", url);
      say(`${$("#count").textContent} found${kept.size && $("#list") ? `. ${$("#chosen").textContent}` : ""}`);
    }, after);
  };
  box.addEventListener("input", () => search(150));
  // Loading the page would lose the ticks.
  box.form.addEventListener("submit", (event) => { event.preventDefault(); search(0, true); });
}
// Says that only a part of the page is wanted: news waits for a page on which it is seen.
const part = { headers: { accept: "text/html", "x-sandstorm-part": "1" } };
async function fetchPage(url) {
  try {
    const answer = await fetch(url, part);
    if (!answer.ok || answer.redirected) return null;
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch { return null; }
}
// `narrowed`: by another question, so what is chosen and not in its answer stays chosen. `place`: the
// row in whose place the focus belongs.
function swap(old, next, { narrowed = false, place } = {}) {
  if (!old || !next) return;
  const had = old.contains(document.activeElement) ? document.activeElement : null;
  const ids = $$(".grains li", old).map(idIn);
  const chosen = new Set($$("input[name=grain]:checked", old).map((el) => el.value));
  // What just happened stays to be read, and to be undone.
  const news = $("#notices", old);
  if (news) $("#notices", next)?.replaceWith(news);
  old.replaceChildren(...next.childNodes);
  if (old.id === "main") {
    if (narrowed) for (const id of chosen) kept.add(id);
    for (const el of $$("input[type=checkbox][name=grain]", old)) el.checked = kept.delete(el.value) || chosen.has(el.value);
  }
  for (const el of $$("[data-show], [data-do]", old)) el.hidden = false;
  count();
  tellTimes(old);
  if (place === undefined && !had) return;
  // The same link, box or button, made anew, has the focus again; else what stands in its row's place.
  const same = (el) => el.tagName === had.tagName && el.className === had.className && el.id === had.id
    && el.name === had.name && el.value === had.value && el.getAttribute("href") === had.getAttribute("href");
  const again = place !== undefined ? null : $$("h1, a, button, input, summary, select", old).find(same);
  if (again && (again.checkVisibility?.() ?? true)) { again.focus({ preventScroll: true }); if (placed === had) placed = again; return; }
  const row = place ?? (had.closest("li") && $("input[name=grain]", had.closest("li"))?.value);
  if (row === undefined) return;
  const at = ids.indexOf(row);
  const near = [row, ...(at < 0 ? [] : [...ids.slice(at + 1), ...ids.slice(0, at).reverse()])];
  const rows = new Map($$(".grains li", old).map((li) => [idIn(li), li]));
  const found = rows.get(near.find((id) => rows.has(id)));
  placed = found ? handle(found) : $("h1", old);
  placed?.focus();
}
// Where we put the focus ourselves, it is no sign that somebody is at work there.
let placed;
// In the trash nothing opens.
const handle = (row) => $("a.open", row) ?? $("input", row);

// ---- Live ----
let socket, wait = 1000, lostAt = 0, lostTimer, over = false;
const frame = $("#frame");
const grain = $(".bar")?.dataset.grain;
function connect() {
  if (!signedIn || over || socket?.readyState <= 1) return;
  clearTimeout(lostTimer);
  const url = new URL("/live", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  if (grain) url.searchParams.set("grain", grain);
  const steps = $("#steps")?.dataset.on;
  if (steps) url.searchParams.set("install", steps.slice("install:".length));
  socket = new WebSocket(url);
  socket.onopen = () => { wait = 1000; if (lostAt) { lostAt = 0; showLost(false); } refresh("all"); };
  socket.onmessage = (event) => refresh(event.data);
  socket.onclose = (event) => {
    // 4029: a newer tab has this one's place, until somebody looks at this one.
    if (over || event.code === 4029) return;
    lostAt ||= Date.now();
    wait = Math.min(wait * 1.7, 15000);
    const again = Date.now() + wait;
    const tick = () => {
      if (Date.now() >= again) return connect();
      showLost(Date.now() - lostAt > 5000, Math.ceil((again - Date.now()) / 1000));
      lostTimer = setTimeout(tick, 500);
    };
    tick();
  };
}
function showLost(on, seconds) {
  const made = $("#lost-strip");
  if (!on) { made?.remove(); return; }
  const template = $("#lost");
  if (!template) return;
  if (!made) {
    const strip = template.content.firstElementChild.cloneNode(true);
    strip.id = "lost-strip";
    $(".bar").after(strip);
    alarm("Connection lost");
  }
  $("#lost-strip [data-slot=wait]").textContent = `Trying in ${seconds} s.`;
}
const pending = new Map();
function refresh(what) {
  if (over) return;
  if (what === "signed-out") return ended();
  for (const el of $$("[data-live]")) {
    const on = el.dataset.on;
    if (what !== "all" && what !== on) continue;
    if (pending.has(el)) { pending.set(el, true); continue; }
    pending.set(el, false);
    load(el);
  }
  if (what === "account" || (what.startsWith("grain:") && !grain)) reloadList();
}
async function load(el) {
  try {
    const answer = await fetch(el.dataset.live, part);
    if (over) return;
    if (answer.ok && !answer.redirected) {
      const html = await answer.text();
      const page = new DOMParser().parseFromString(html, "text/html");
      const focus = document.activeElement;
      const state = answer.headers.get("x-state");
      const stillSlow = $(".slow", el) && !loaded && (state === "running" || state === "starting");
      const step = $("#step", el), next = $("#step", page);
      if (stillSlow) {
        // The error stays until something came.
      } else if ($("[data-trashed]", el) && state !== "trash") {
        // Restored elsewhere; but this frame's way in ended, and the strip has the button for a new one.
      } else if (step && next) {
        // Still waking: only the words change, so that nothing flickers.
        step.textContent = next.textContent;
      } else if (step && state === "running") {
        // It runs, and its page is on the way: the frame says when.
        step.textContent = "Loading what the app shows";
      } else if (!(el.contains(focus) && focus !== el && el.id !== "state")) {
        el.replaceChildren(...page.body.childNodes);
        for (const extra of $$("[data-show], [data-do]", el)) extra.hidden = false;
        tellTimes(el);
      }
      stateOf(el, state);
      const title = answer.headers.get("x-title");
      if (title) setTitle(decodeURIComponent(title));
    } else if (answer.status === 403) ended();
    // Deleted for good: the page that is there now says so.
    else if (answer.status === 404 && grain) location.reload();
  } catch { /* the socket tells when the server is back */ }
  setTimeout(() => {
    const again = pending.get(el);
    pending.delete(el);
    if (again) { pending.set(el, false); load(el); }
  }, 300);
}
const dot = "• ";
let dotted = false;
let reload;
function reloadList() {
  if (!$("#count")) return;
  clearTimeout(reload);
  reload = setTimeout(async () => {
    if (acting) return reloadList();
    const at = document.activeElement;
    if ($("main").contains(at) && at.id !== "main" && at !== placed) return;
    // A search that is under way brings a fresh list itself, and its answer is the newer question's.
    const { href } = location;
    const page = searching ? null : await fetchPage(href);
    if (page && !searching && location.href === href) { swap($("main"), $("main", page)); swap($(".rail"), $(".rail", page)); }
  }, 300);
}
// ---- Waiting for an app: after a minute it is an error, with ways out ----
let loaded = false, slow;
function lateSoon() {
  clearTimeout(slow);
  slow = setTimeout(async () => {
    const panel = $("#state .waking");
    if (!panel || loaded) return;
    const answer = await fetch(`${$("#state").dataset.live}?slow=true`, part).catch(() => null);
    if (!answer?.ok || answer.headers.get("x-state") !== "slow" || loaded) return;
    $("#state").innerHTML = await answer.text();
    alarm("The app does not answer");
  }, 60000);
}
if ($("#state .waking")) lateSoon();
function waitOn(el) {
  const late = el.closest(".late");
  if (late) {
    // It comes back by itself.
    late.classList.remove("late");
    void late.offsetWidth;
    late.classList.add("late");
  } else el.closest(".panel").remove();
  frame?.focus();
  lateSoon();
}
function stateOf(el, state) {
  if (el.id === "steps") {
    const go = $("[data-go]", el);
    if (go) location.replace(go.href);
    return;
  }
  if (el.id !== "state") return;
  // Asleep, too: Back brings the frame out of the browser's memory, and nothing wakes for it.
  if ((state === "running" || state === "asleep") && loaded) reveal();
  if (state === "crashed") unseen("The app stopped.");
  if (state === "trash") unseen("It was moved to the trash.");
}
// A dot in the tab, until somebody looks.
function unseen(text) {
  alarm(text);
  if (document.hidden && !dotted) { dotted = true; document.title = dot + document.title; }
}
addEventListener("visibilitychange", () => {
  if (!document.hidden && dotted) { dotted = false; document.title = document.title.slice(dot.length); }
});
// What loaded may be our own page about a failed start: ask before the panel goes.
frame?.addEventListener("load", () => { loaded = true; refresh("all"); });
// It may have loaded before this script: then the browser has timed it.
loaded ||= Boolean(frame && performance.getEntriesByName(frame.src, "resource").length);
function reveal() {
  document.body.classList.add("shown");
  $("#state .waking, #state .slow")?.remove();
  if (document.activeElement === document.body || document.activeElement === null) frame.focus();
}
function ended() {
  over = true;
  socket?.close();
  const template = $("#ended");
  if (!template) { location.reload(); return; }
  frame?.remove();
  $("#state").replaceChildren(template.content.cloneNode(true));
  document.body.classList.remove("shown");
  alarm("You are signed out");
}
connect();
// Where no socket gets through, ask.
setInterval(() => { if (signedIn && socket?.readyState !== 1 && !document.hidden) refresh("all"); }, 15000);
document.addEventListener("visibilitychange", () => { if (!document.hidden && !lostAt) connect(); });
addEventListener("online", () => { wait = 1000; connect(); });

// ---- The grain's bar ----
function enterFull() {
  for (const menu of $$("details.menu[open]")) menu.open = false;
  document.body.classList.add("full");
  const leave = document.createElement("button");
  leave.id = "leave-full";
  leave.title = "Leave full screen (Esc)";
  leave.setAttribute("aria-label", leave.title);
  leave.textContent = "×";
  leave.onclick = leaveFull;
  document.body.append(leave);
  frame?.focus();
  document.documentElement.requestFullscreen?.().catch(() => { /* the bar is gone all the same */ });
}
function leaveFull() {
  document.body.classList.remove("full");
  $("#leave-full")?.remove();
  if (document.fullscreenElement) document.exitFullscreen();
}
document.addEventListener("fullscreenchange", () => { if (!document.fullscreenElement) leaveFull(); });
// Title and star change without a load: the frame may hold text that is not saved.
const titleForm = $("#title-form");
function rename() {
  if (!titleForm) return;
  titleForm.hidden = false;
  $(".title-menu").hidden = true;
  $("#new-title").value = $("#title").textContent;
  $("#new-title").select();
}
function renamed() {
  const had = titleForm.contains(document.activeElement);
  titleForm.hidden = true;
  $(".title-menu").hidden = false;
  if (!had) return;
  // On the page itself the next letter would be one of its shortcuts.
  frame?.focus();
  if (document.activeElement !== frame || !frame) $(".title-menu summary").focus();
}
function setTitle(title) {
  if ($("#title").textContent === title) return;
  // Not by a pattern: "$&" is a title like any other.
  const shown = document.title, old = $("#title").textContent;
  const at = shown.indexOf(old, dotted ? dot.length : 0);
  if (at >= 0) document.title = shown.slice(0, at) + title + shown.slice(at + old.length);
  $("#title").textContent = title;
  if (frame) frame.title = title;
  const waking = $(".waking bdi");
  if (waking) waking.textContent = title;
}
const stay = (form, fields = {}) => {
  const body = new URLSearchParams(new FormData(form));
  for (const [name, value] of Object.entries(fields)) body.set(name, value);
  // The answer leads to a page; that it does is all we want to know.
  return fetch(form.action, { method: "POST", body, redirect: "manual" })
    .then((answer) => answer.type === "opaqueredirect", () => false);
};
titleForm?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const title = $("#new-title").value.trim();
  if (title && title !== $("#title").textContent) {
    if (!await stay(titleForm)) { alarm("The title was not saved."); toast("The title was not saved. Try again.", "bad"); return; }
    setTitle(title);
    say("Renamed");
  }
  renamed();
});
titleForm?.addEventListener("keydown", (event) => { if (event.key === "Escape") renamed(); });
// Leaving the field saves. But an app that starts up behind it may pull the focus into its frame by
// script, and what the person is typing would go there: then it is taken back. A press in the frame
// is the person's wish; it shows as an activation of this page that no key just typed explains.
let lastKey = -1e9, takenBack = 0;
titleForm?.addEventListener("keydown", (event) => { lastKey = event.timeStamp; });
titleForm?.addEventListener("focusout", (event) => {
  if (titleForm.contains(event.relatedTarget)) return;
  // Only a moment later it is known where the focus went; to another window is no leaving.
  setTimeout(() => {
    const now = document.activeElement;
    if (titleForm.hidden || titleForm.contains(now)) return;
    // An empty title cannot be saved, and asking for one would bring the focus back for ever.
    if (!$("#new-title").value.trim()) { renamed(); return; }
    const pressed = navigator.userActivation?.isActive !== false && performance.now() - lastKey > 700;
    if (now === frame && !pressed && takenBack++ < 5) $("#new-title").focus();
    else titleForm.requestSubmit();
  }, 50);
});
$("[data-star]")?.closest("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = $("[data-star]");
  const on = button.value === "star";
  if (!await stay(event.target, { act: button.value })) {
    alarm("The star was not saved.");
    toast("The star was not saved. Try again.", "bad");
    refresh("all");
    return;
  }
  button.value = on ? "unstar" : "star";
  button.setAttribute("aria-pressed", String(on));
  const use = $("use", button);
  use.setAttribute("href", use.getAttribute("href").replace(/#.*/, on ? "#star-on" : "#star"));
});
if (location.hash === "#title-field") $("#title-field")?.select();
if (grain && location.hash === "#new") {
  history.replaceState(null, "", location.pathname + location.search);
  rename();
}

// ---- Upload: from its form, or dropped on any page but a grain's ----
let uploading;
const form = $("#upload");
form?.addEventListener("submit", (event) => {
  const file = $("#file").files[0];
  if (!file) return;
  event.preventDefault();
  upload(file);
});
function upload(file) {
  if (uploading) return;
  if (!form) uploadDialog();
  // fetch tells nothing about how much is sent.
  const request = uploading = new XMLHttpRequest();
  const started = Date.now();
  const button = form && $("button.main", form);
  if (button) button.disabled = true;
  $("#upload-error")?.remove();
  $("#uploading").hidden = false;
  $("#upload-name").textContent = file.name;
  const mb = (n) => `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} MB`;
  request.upload.onprogress = (event) => {
    const share = event.total ? event.loaded / event.total : 0;
    $("#upload-bar").value = share * 100;
    const left = share > 0.02 ? Math.round((Date.now() - started) / share * (1 - share) / 1000) : 0;
    $("#upload-figures").textContent =
      `${mb(event.loaded)} of ${mb(event.total)}${left > 4 ? `, about ${left} s left` : ""}`;
  };
  const fail = (text) => {
    uploading = null;
    $("#uploading").hidden = true;
    if (button) button.disabled = false;
    const strip = document.createElement("div");
    strip.id = "upload-error";
    strip.className = "strip bad";
    strip.append(Object.assign(document.createElement("span"), { textContent: text }));
    (form || $("#uploading")).before(strip);
    alarm(text);
  };
  request.onload = () => {
    if (request.status === 200) location.assign(`/install/${request.responseText.trim()}`);
    // Why it was not taken comes as plain text; a page is not for this.
    else if (request.getResponseHeader("content-type")?.startsWith("text/plain")) fail(request.responseText);
    else fail("The server did not take the file. Load the page again.");
  };
  request.onerror = () => fail("The connection ended before the file was whole. Send it again.");
  request.onabort = () => fail("Cancelled. Nothing was installed.");
  request.open("POST", "/upload");
  request.setRequestHeader("x-sandstorm-token", token);
  request.send(file);
  say(`Uploading ${file.name}`);
}
function uploadDialog() {
  // One that was cancelled, with what became of it.
  $("#uploading")?.closest("dialog").remove();
  const dialog = makeDialog("Install an app");
  const box = Object.assign(document.createElement("div"), { id: "uploading" });
  const cancel = Object.assign(document.createElement("button"), { textContent: "Cancel" });
  cancel.dataset.do = "cancel-upload";
  const name = Object.assign(document.createElement("strong"), { id: "upload-name" });
  const bar = Object.assign(document.createElement("progress"), { id: "upload-bar", max: 100 });
  bar.setAttribute("aria-label", "Uploading");
  box.append(name, bar, Object.assign(document.createElement("p"), { id: "upload-figures", className: "figures" }), cancel);
  dialog.append(box);
  dialog.addEventListener("close", () => uploading?.abort());
  dialog.showModal();
}
if ("member" in document.body.dataset && !grain) {
  let depth = 0;
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  const drag = (on) => document.body.classList.toggle("dragging", on);
  addEventListener("dragenter", (event) => { if (isFile(event)) { depth++; drag(true); } });
  addEventListener("dragleave", (event) => { if (isFile(event) && --depth <= 0) drag(false); });
  addEventListener("dragover", (event) => { if (isFile(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    depth = 0;
    drag(false);
    const file = event.dataTransfer.files[0];
    if (!file) return;
    if (form) $("#file").files = event.dataTransfer.files;
    upload(file);
  });
}

// ---- The log ----
const log = $("#log[data-stream]");
if (log) {
  (async () => {
    try {
      const answer = await fetch(log.dataset.stream, part);
      if (!answer.ok || answer.redirected) return;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let first = true;
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        if (first) { log.textContent = ""; first = false; }
        log.append(value);
        while (log.childNodes.length > 2000) log.firstChild.remove();
        if ($("#follow").checked) log.scrollTop = log.scrollHeight;
      }
    } catch { /* what is there stays */ }
  })();
  log.scrollTop = log.scrollHeight;
}

// ---- Keys ----
const letters = $("#keys");
if (letters) {
  letters.checked = store.get("keys") !== "off";
  letters.onchange = () => store.set("keys", letters.checked ? "on" : "off");
}
let goTo = -Infinity;
addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k" && signedIn) { event.preventDefault(); palette(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const typing = event.target.closest?.("input:not([type=checkbox]), textarea, select, [contenteditable]");
  if (event.key === "F2" && titleForm) { event.preventDefault(); rename(); return; }
  if (typing || $("dialog[open]") || !signedIn) return;
  const row = document.activeElement?.closest?.(".grains li");
  const rows = $$(".grains li");
  const move = (by) => {
    const next = rows[Math.max(0, Math.min(rows.length - 1, row ? rows.indexOf(row) + by : 0))];
    handle(next).focus();
    event.preventDefault();
  };
  if (event.key === "ArrowDown" && rows.length) return move(1);
  if (event.key === "ArrowUp" && row) return move(-1);
  if (event.key === "F2" && row) {
    const more = $(".more", row);
    if (more) { event.preventDefault(); location.assign(`${more.href}#title-field`); }
    return;
  }
  if (event.key === "Delete" && row && $("#list [value=trash]")) {
    // This row, whatever is chosen; a key that is held down is one press.
    if (event.repeat) return;
    const id = idIn(row);
    onList($("#list").action, new URLSearchParams({ token, act: "trash", to: here(), grain: id }), id);
    return;
  }
  if (store.get("keys") === "off") return;
  // Whoever types beside the app meant the app: no letter may take its text away.
  if (frame?.isConnected && document.body.classList.contains("shown") && event.key !== "?") return;
  if (event.timeStamp - goTo < 1500) {
    goTo = -Infinity;
    const to = { h: "/", a: "/apps", s: "/you" }[event.key];
    if (to) location.assign(to);
    return;
  }
  const act = {
    "/": () => (box ? box.focus() : location.assign("/")),
    n: () => location.assign("/new"),
    g: () => { goTo = event.timeStamp; },
    x: () => { if (row) { $("input", row).click(); } },
    "?": () => help(),
  }[event.key];
  if (act) { event.preventDefault(); act(); }
});
function help() {
  const keys = [["Ctrl K", "Go to or make anything"], ["/", "Search"], ["n", "New"], ["g h", "Grains"], ["g a", "Apps"],
    ["g s", "You"], ["↑ ↓", "Move in a list"], ["x", "Choose"], ["Delete", "Move to trash"], ["F2", "Rename"], ["Esc", "Close"]];
  const dialog = makeDialog("Shortcuts");
  const dl = document.createElement("dl");
  dl.className = "facts";
  for (const [key, what] of keys) {
    const dt = document.createElement("dt");
    dt.append(Object.assign(document.createElement("kbd"), { textContent: key }));
    dl.append(dt, Object.assign(document.createElement("dd"), { textContent: what }));
  }
  dialog.append(dl);
  dialog.showModal();
}
function makeDialog(title) {
  const dialog = document.createElement("dialog");
  const head = Object.assign(document.createElement("h2"), { textContent: title, id: "made-title" });
  dialog.setAttribute("aria-labelledby", "made-title");
  const close = Object.assign(document.createElement("button"), { textContent: "Close" });
  close.onclick = () => dialog.close();
  dialog.append(head, close);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  return dialog;
}

// ---- Palette: grains, new things, places, in one box ----
function palette() {
  if ($("dialog[open]")) return;
  const dialog = makeDialog("Go to");
  dialog.classList.add("palette");
  const input = Object.assign(document.createElement("input"), { type: "text", autocomplete: "off" });
  for (const [name, value] of [["role", "combobox"], ["aria-expanded", "true"], ["aria-controls", "found"], ["aria-labelledby", "made-title"], ["aria-autocomplete", "list"]]) input.setAttribute(name, value);
  const found = document.createElement("ul");
  found.id = "found";
  found.setAttribute("role", "listbox");
  found.setAttribute("aria-label", "Found");
  const none = Object.assign(document.createElement("p"), { className: "hint", textContent: "Nothing found.", hidden: true });
  dialog.append(input, found, none);
  let at = 0, asked = 0, shown, timer;
  const light = () => {
    [...found.children].forEach((el, i) => el.setAttribute("aria-selected", String(i === at)));
    const el = found.children[at];
    if (el) { input.setAttribute("aria-activedescendant", el.id); el.scrollIntoView({ block: "nearest" }); }
    else input.removeAttribute("aria-activedescendant");
  };
  const go = (el) => {
    if (!el) return;
    if (el.dataset.make) makeNew(el.dataset.make); else location.assign(el.dataset.href);
  };
  const ask = async () => {
    const mine = ++asked, wanted = input.value;
    const answer = await fetch(`/palette?q=${encodeURIComponent(wanted)}`, part).catch(() => null);
    if (mine !== asked || !answer?.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    found.replaceChildren(...$$("li", page));
    const n = found.children.length;
    none.hidden = n > 0;
    if (shown !== undefined) say(n ? `${n} found` : "Nothing found");
    shown = wanted;
    at = 0;
    light();
  };
  // What is lit may still be the answer to fewer letters.
  const enter = async () => {
    if (shown !== input.value) {
      clearTimeout(timer);
      await ask();
      if (shown !== input.value) return;
    }
    go(found.children[at]);
  };
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, 100); });
  input.addEventListener("keydown", (event) => {
    const n = found.children.length || 1;
    if (event.key === "ArrowDown") at = (at + 1) % n;
    else if (event.key === "ArrowUp") at = (at + n - 1) % n;
    else if (event.key === "Enter") { event.preventDefault(); enter(); return; }
    else return;
    event.preventDefault();
    light();
  });
  found.addEventListener("click", (event) => go(event.target.closest("li")));
  dialog.showModal();
  input.focus();
  ask();
}
function makeNew(make) {
  const made = document.createElement("form");
  made.method = "post";
  made.action = "/new";
  for (const [name, value] of Object.entries({ token, make })) {
    made.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
  }
  document.body.append(made);
  made.submit();
}
