// The chat page: one person's view of the local workspace, which uses only /_control/.
import { block } from "/blocks.js";
import { modals } from "/modal.js";
import { element, mrkdwn, plain } from "/mrkdwn.js";

const $ = (id) => document.getElementById(id);
const store = { users: [], channels: [], commands: [], me: "", channel: "", thread: "", seen: {}, latest: {}, groups: {}, mentions: {}, home: false, homeDrawn: "", notes: [], drawn: new Map() };
const onPhone = matchMedia("(max-width: 760px)");

async function ask(what, body) {
  try {
    const answer = await fetch(`/_control/${what}`, body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {});
    return await answer.json();
  } catch {
    return { ok: false, error: "The workspace does not answer. Trying again…" };
  }
}
const get = (what, query) => ask(`${what}?${new URLSearchParams(query)}`);
const names = {
  user: (id) => store.users.find((user) => user.id === id)?.name,
  channel: (id) => store.channels.find((channel) => channel.id === id)?.name,
  group: (id) => store.groups[id],
  people: () => store.users.filter((user) => !user.is_bot),
};
const me = () => store.users.find((user) => user.name === store.me);

let hiding;
function toast(text) {
  $("toast").textContent = plain(text || "That did not work.");
  $("toast").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { $("toast").hidden = true; }, 6000);
}

// The page's address holds the person and the place, so that two tabs can be two people.
function remember() {
  const place = new URLSearchParams({ as: store.me, in: store.home ? "home" : store.channel, ...(store.thread ? { thread: store.thread } : {}) });
  history.replaceState(null, "", `/#${place}`);
}
function recall() {
  const link = location.pathname.match(/^\/archives\/(\w+)\/p(\d+)(\d{6})$/);
  const place = new URLSearchParams(location.hash.slice(1));
  store.me = place.get("as") || localStorage.getItem("person") || "account-manager";
  if (!me()) store.me = "account-manager";
  store.home = place.get("in") === "home";
  const first = store.channels.find((channel) => channel.name === "mautic-ops") || store.channels[0];
  store.channel = link?.[1] || (place.get("in") && !store.home ? place.get("in") : first.id);
  store.thread = link ? `${link[2]}.${link[3]}` : place.get("thread") || "";
}

function color(id) {
  let sum = 0;
  for (const letter of id) sum = (sum * 31 + letter.charCodeAt(0)) % 360;
  return `hsl(${sum} 45% 42%)`;
}

const initials = (user) => (user.is_bot ? user.name.slice(0, 1) : user.name.slice(0, 2)).toUpperCase();

function act(message) {
  return async (item, chosen) => {
    const answer = await ask("click", { user: store.me, channel: store.channel, ts: message.ts, action_id: item.action_id, value: item.value, ...chosen });
    if (!answer.ok) toast(answer.error);
  };
}

// Shows a message of Slack itself to one person in the current place; it is gone with the page.
function note(text, thread) {
  store.notes.push({ channel: store.channel, thread, me: store.me, text: text.replace(/&/g, "&amp;").replace(/</g, "&lt;"), ts: (Date.now() / 1000).toFixed(6), user: "USLACKBOT", username: "Slackbot", is_ephemeral: true });
  refresh();
}
const withNotes = (messages, thread) => [...messages, ...store.notes.filter((one) => one.me === store.me && one.channel === store.channel && one.thread === thread)].sort((one, other) => one.ts - other.ts);

function drawMessage(message, inThread) {
  const by = store.users.find((user) => user.id === (message.user || "")) || { id: "U0BOT", name: message.username || "mautic", real_name: "", is_bot: true };
  const at = new Date(Number(message.ts) * 1000);
  const content = element("div", { class: "content" });
  if (!inThread && message.subtype === "thread_broadcast") content.append(element("button", { class: "replies", type: "button", onclick: () => openThread(message.thread_ts) }, "↳ replied to a thread"));
  if (message.blocks?.length) content.append(...message.blocks.map((one) => block(one, names, act(message))));
  else if (message.text) content.append(mrkdwn(message.text, names));
  for (const attachment of message.attachments || []) {
    content.append(element("div", { style: `border-left:4px solid #${(attachment.color || "ddd").replace("#", "")};padding-left:10px` },
      ...(attachment.blocks ? attachment.blocks.map((one) => block(one, names, act(message))) : [mrkdwn(attachment.text || attachment.fallback || "", names)])));
  }
  for (const file of message.files || []) {
    const address = file.url_private || file.permalink;
    const picture = /^image\//.test(file.mimetype || "");
    content.append(element("div", { class: "file" }, picture ? element("div", { class: "hint" }, file.title || file.name) : null,
      element("a", { href: address, target: "_blank" }, picture ? element("img", { src: address, alt: file.alt_txt || file.title || file.name }) : `📄 ${file.name}`)));
  }
  if (message.reactions?.length) content.append(element("div", { class: "hint" }, plain(message.reactions.map((one) => `:${one.name}: ${one.count}`).join("  "))));
  if (!inThread && message.reply_count) content.append(element("button", { class: "replies", type: "button", onclick: () => openThread(message.ts) }, `💬 ${message.reply_count} ${message.reply_count > 1 ? "replies" : "reply"}`));
  return element("article", { class: `message ${message.is_ephemeral ? "whisper" : ""}`, "data-ts": message.ts },
    element("div", { class: "avatar", style: `background:${color(by.id)}`, "aria-hidden": "true" }, initials(by)),
    element("div", {}, element("div", { class: "by" }, element("b", {}, by.name), by.is_bot ? element("span", { class: "app" }, "APP") : null,
      element("small", { title: at.toString() }, at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })),
      message.is_ephemeral ? element("small", {}, "👁 Only visible to you") : null, message.edited && !by.is_bot ? element("small", {}, "(edited)") : null,
      !inThread && !message.is_ephemeral ? element("button", { class: "button reply-here", type: "button", "aria-label": "Reply in thread", onclick: () => openThread(message.thread_ts || message.ts) }, "Reply") : null), content));
}

// Redraws only what changed, so that nothing flickers and a half-read list keeps its position.
function drawInto(box, messages, inThread) {
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  const wanted = messages.map((message) => {
    const key = `${store.me} ${store.channel} ${inThread} ${message.ts}`;
    const body = JSON.stringify(message);
    const known = store.drawn.get(key);
    if (known?.body === body) return known.node;
    const node = drawMessage(message, inThread);
    store.drawn.set(key, { body, node });
    return node;
  });
  if (!wanted.length) wanted.push(store.drawn.get("empty") || store.drawn.set("empty", element("div", { class: "empty" }, "Nothing here yet. Try /mautic help below.")).get("empty"));
  wanted.forEach((node, place) => { if (box.children[place] !== node) box.insertBefore(node, box.children[place] || null); });
  while (box.children.length > wanted.length) box.lastChild.remove();
  if (atEnd || box.dataset.of !== `${store.me}${store.channel}${store.thread}`) {
    const toEnd = () => { box.scrollTop = box.scrollHeight; };
    toEnd();
    // A picture takes up space only once it is loaded.
    for (const picture of box.querySelectorAll("img")) if (!picture.complete) picture.addEventListener("load", toEnd, { once: true });
  }
  box.dataset.of = `${store.me}${store.channel}${store.thread}`;
}

async function refresh() {
  const asked = `${store.me}${store.channel}${store.thread}${store.home}`;
  const same = () => asked === `${store.me}${store.channel}${store.thread}${store.home}`;
  if (store.home) {
    const { view } = await get("home", { user: store.me });
    if (!same()) return;
    const click = async (item, chosen) => {
      const answer = await ask("click", { user: store.me, view_id: view.id, action_id: item.action_id, value: item.value, ...chosen });
      if (!answer.ok) toast(answer.error);
    };
    const shown = JSON.stringify([store.me, view]);
    if (view !== undefined && shown !== store.homeDrawn) $("home").replaceChildren(...(view ? view.blocks.map((one) => block(one, names, click)) : [element("div", { class: "empty" }, "The app has not made this Home yet.")]));
    if (view !== undefined) store.homeDrawn = shown;
  } else {
    const { messages, error } = await get("messages", { channel: store.channel, user: store.me });
    if (!same()) return;
    if (error === "channel_not_found") $("messages").replaceChildren(element("div", { class: "empty" }, `${store.me} is not in this channel.`));
    else if (messages) drawInto($("messages"), withNotes(messages), false);
    if (messages?.length) store.seen[store.channel] = messages.at(-1).ts;
    if (store.thread) {
      const thread = await get("messages", { channel: store.channel, user: store.me, thread_ts: store.thread });
      if (same() && thread.messages) drawInto($("thread-messages"), withNotes(thread.messages, store.thread), true);
    }
  }
  const who = store.me;
  const { views } = await get("views", { user: who });
  if (views && who === store.me) showModals(who, views);
}
const showModals = modals($("dialog"), names, (what, body) => ask(what, { user: store.me, ...body }).then((answer) => { refresh(); return answer; }), toast);

function drawFrame() {
  const channel = store.channels.find((one) => one.id === store.channel);
  const mine = store.channels.filter((one) => one.members.includes(me().id));
  const row = (label, on, open, unread, called) => element("button", { type: "button", class: `${on ? "on" : ""} ${unread || called ? "unread" : ""}`, "aria-current": on ? "page" : null, onclick: () => { open(); if (!onPhone.matches && !store.home) $("composer").focus(); } }, label, called ? element("span", { class: "badge", "aria-label": `${called} mention${called > 1 ? "s" : ""}` }, called) : unread ? element("span", { class: "dot", role: "img", "aria-label": "unread" }, "●") : null);
  const unread = (one) => store.latest[one.id] && store.latest[one.id] > (store.seen[one.id] || "") && one.id !== store.channel;
  $("sidebar").replaceChildren(
    row("🏠 Mautic Home", store.home, () => go({ home: true })), element("h2", {}, "Channels"),
    ...mine.filter((one) => !one.is_im).map((one) => row(`${one.is_private ? "🔒" : "#"} ${one.name}${one.is_ext_shared ? " ⇄" : ""}`, !store.home && one.id === store.channel, () => go({ channel: one.id }), unread(one), store.mentions[one.id]?.length)),
    ...(mine.some((one) => one.is_im) ? [element("h2", {}, "Direct messages")] : []),
    ...mine.filter((one) => one.is_im).map((one) => row(`@ ${one.members.filter((id) => id !== me().id).map(names.user).join(", ") || "mautic"}`, !store.home && one.id === store.channel, () => go({ channel: one.id }), unread(one))));
  $("title").replaceChildren(element("strong", {}, store.home ? "Mautic · Home" : channel?.is_im ? "@ direct message" : `# ${channel?.name || "?"}`),
    element("small", {}, store.home ? "as the app shows it to " + store.me : channel?.is_ext_shared ? "shared with another organisation" : ""));
  $("messages").hidden = $("composer-form").hidden = store.home;
  $("home").hidden = !store.home;
  $("thread").hidden = !store.thread || store.home;
  document.body.classList.toggle("with-thread", !$("thread").hidden);
  document.body.classList.remove("menu");
  $("broadcast-to").textContent = channel?.is_im ? "Also send as direct message" : `Also send to #${channel?.name || ""}`;
  $("composer").placeholder = `Message #${channel?.name || ""} — or /mautic …`;
  $("me").textContent = initials(me());
  $("me").style.background = color(me().id);
  $("person").replaceChildren(...names.people().map((user) => element("option", { value: user.name, selected: user.name === store.me, title: user.title }, `${user.name}${user.title ? ` — ${user.title}` : ""}`)));
}

async function go(to) {
  Object.assign(store, { home: false, thread: "" }, to);
  if (!store.home) delete store.mentions[store.channel];
  remember();
  drawFrame();
  if (store.home) await ask("home", { user: store.me });
  await refresh();
}
function openThread(ts) {
  store.thread = ts;
  delete store.mentions[store.channel];
  remember();
  drawFrame();
  refresh().then(() => { if (!onPhone.matches) $("reply").focus(); });
}

// The composer, which completes slash commands.
let choice = -1;
function completions() {
  const text = $("composer").value;
  if (!text.startsWith("/")) return [];
  const found = [];
  for (const command of store.commands) {
    if (!text.includes(" ") && command.command.startsWith(text)) found.push({ insert: `${command.command} `, title: `${command.command} ${command.usage_hint || ""}`, summary: command.description });
    if (!text.startsWith(`${command.command} `)) continue;
    const rest = text.slice(command.command.length).trimStart();
    for (const sub of command.subcommands || []) {
      if (sub.name.startsWith(rest) || rest.startsWith(`${sub.name} `)) found.push({ insert: rest.startsWith(sub.name) ? null : `${command.command} ${sub.name} `, title: `${command.command} ${sub.usage}`, summary: sub.summary });
    }
  }
  return found;
}
const offered = () => ($("completions").hidden ? [] : completions());
function drawCompletions() {
  const found = completions();
  choice = Math.min(choice, found.length - 1);
  $("completions").hidden = !found.length;
  $("composer").setAttribute("aria-expanded", String(Boolean(found.length)));
  $("completions").replaceChildren(...found.map((one, place) => element("li", { id: `completion-${place}`, role: "option", "aria-selected": String(place === choice), onmousedown: (event) => { event.preventDefault(); complete(one); } }, one.title, element("small", {}, one.summary))));
  if (choice >= 0) $("composer").setAttribute("aria-activedescendant", `completion-${choice}`);
  else $("composer").removeAttribute("aria-activedescendant");
  $("completions").children[choice]?.scrollIntoView({ block: "nearest" });
}
function complete(one) {
  if (one.insert) $("composer").value = one.insert;
  choice = -1;
  $("composer").focus();
  drawCompletions();
}
function hideCompletions() {
  $("completions").hidden = true;
  $("composer").setAttribute("aria-expanded", "false");
}
async function send() {
  const text = $("composer").value.trim();
  if (!text) return;
  $("composer").value = "";
  drawCompletions();
  const answer = await ask(text.startsWith("/") ? "command" : "message", { user: store.me, channel: store.channel, text });
  if (answer.ok) return;
  note(answer.error);
  if (!$("composer").value) $("composer").value = text;
}
$("composer").addEventListener("input", () => {
  // The beginning of a word selects the first match; an empty word selects nothing, so that Enter sends.
  choice = /\S$/.test($("composer").value) ? 0 : -1;
  drawCompletions();
});
$("composer").addEventListener("keydown", (event) => {
  const found = offered();
  const whole = found[choice]?.insert?.trim() === $("composer").value.trim();
  if (found.length && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    choice = event.key === "ArrowDown" ? (choice + 1) % found.length : (Math.max(choice, 0) + found.length - 1) % found.length;
    event.preventDefault();
    drawCompletions();
  } else if (event.key === "Tab" && !event.shiftKey && found[Math.max(choice, 0)]?.insert) {
    event.preventDefault();
    complete(found[Math.max(choice, 0)]);
  } else if (event.key === "Enter" && !event.shiftKey && found[choice]?.insert && !whole) {
    event.preventDefault();
    complete(found[choice]);
  } else if (event.key === "Escape" && found.length) {
    event.preventDefault();
    hideCompletions();
  } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
$("composer").addEventListener("blur", hideCompletions);
$("composer-form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
async function reply() {
  const text = $("reply").value.trim();
  if (!text) return;
  if (/^\/[a-z]/.test(text)) { note(`${text.split(/\s/)[0]} is not supported in threads. Sorry!`, store.thread); return; }
  $("reply").value = "";
  const answer = await ask("message", { user: store.me, channel: store.channel, text, thread_ts: store.thread, broadcast: $("broadcast").checked });
  if (answer.ok) { $("broadcast").checked = false; return; }
  toast(answer.error);
  if (!$("reply").value) $("reply").value = text;
}
$("reply-form").addEventListener("submit", (event) => { event.preventDefault(); reply(); });
$("reply").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); reply(); } });
$("close-thread").addEventListener("click", () => go({ thread: "" }));
$("menu").addEventListener("click", () => document.body.classList.toggle("menu"));
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (document.body.classList.contains("menu")) document.body.classList.remove("menu");
  else if (store.thread) go({ thread: "" });
});
$("person").addEventListener("change", (event) => {
  store.me = event.target.value;
  store.mentions = {};
  localStorage.setItem("person", store.me);
  const channel = store.channels.find((one) => one.id === store.channel);
  const first = store.channels.find((one) => one.members.includes(me().id));
  watch();
  go({ home: store.home, channel: channel?.members.includes(me().id) ? store.channel : first?.id, thread: channel?.members.includes(me().id) ? store.thread : "" });
});

// Tells the person of a mention, also in a thread, at once and by a count at the channel until they look there. Returns
// false, and tells nothing, where they are looking at the message already.
function called(change) {
  const looking = !store.home && change.channel === store.channel && (change.thread_ts || change.ts) === (change.thread_ts ? store.thread : change.ts);
  if (looking) return false;
  (store.mentions[change.channel] ||= []).push(change.ts);
  toast(`You are mentioned in #${names.channel(change.channel) || "a conversation"}.`);
  return true;
}

let stream, due;
function watch() {
  stream?.close();
  stream = new EventSource(`/_control/events?user=${encodeURIComponent(store.me)}`);
  stream.onopen = () => { $("offline").hidden = true; refresh(); };
  stream.onerror = () => {
    $("offline").hidden = false;
    // The browser reconnects by itself, unless the answer was not a stream.
    if (stream.readyState === EventSource.CLOSED) setTimeout(watch, 2000);
  };
  stream.onmessage = async (event) => {
    const change = JSON.parse(event.data);
    if (change.channel && change.ts) {
      store.latest[change.channel] = change.ts;
      if (!store.channels.some((one) => one.id === change.channel)) store.channels = (await get("channels", {})).channels;
      const heard = change.mentions?.includes(me().id) && called(change);
      if (heard || change.channel !== store.channel || store.home) drawFrame();
    }
    // Many changes arrive in bursts, so one refresh shows them all.
    clearTimeout(due);
    due = setTimeout(refresh, 30);
  };
}

[store.users, store.channels, store.commands] = await Promise.all([get("users", {}), get("channels", {}), get("commands", {})]).then((all) => { store.groups = all[0].groups; return [all[0].users, all[1].channels, all[2].commands]; });
recall();
watch();
await go({ home: store.home, thread: store.thread });
if (!onPhone.matches) $("composer").focus();
