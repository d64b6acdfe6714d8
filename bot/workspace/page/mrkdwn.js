// Slack's mrkdwn as DOM nodes. Nothing is ever parsed as HTML: content of messages becomes text nodes.
const EMOJI = { white_check_mark: "✅", heavy_check_mark: "✔️", x: "❌", warning: "⚠️", hourglass: "⌛", hourglass_flowing_sand: "⏳", gear: "⚙️",
  raised_hand: "✋", checkered_flag: "🏁", no_entry: "⛔", no_entry_sign: "🚫", tada: "🎉", rocket: "🚀", package: "📦", camera: "📷", file_cabinet: "🗄️", rotating_light: "🚨",
  leftwards_arrow_with_hook: "↩️", arrows_counterclockwise: "🔄", arrow_forward: "▶️", arrow_right: "➡️", white_small_square: "▫️", black_small_square: "▪️",
  large_green_circle: "🟢", large_orange_circle: "🟠", large_yellow_circle: "🟡", red_circle: "🔴", white_circle: "⚪", large_blue_circle: "🔵",
  ballot_box_with_check: "☑️", test_tube: "🧪", twisted_rightwards_arrows: "🔀", bell: "🔔", no_bell: "🔕", mag: "🔍", lock: "🔒", unlock: "🔓", key: "🔑",
  bar_chart: "📊", chart_with_upwards_trend: "📈", sunny: "☀️", zzz: "💤", wrench: "🔧", hammer_and_wrench: "🛠️", truck: "🚚", house: "🏠", eyes: "👀",
  thumbsup: "👍", "+1": "👍", thumbsdown: "👎", "-1": "👎", wave: "👋", fire: "🔥", bulb: "💡", information_source: "ℹ️", question: "❓", grey_question: "❔", exclamation: "❗",
  calendar: "📅", clock1: "🕐", alarm_clock: "⏰", floppy_disk: "💾", computer: "💻", globe_with_meridians: "🌐", point_right: "👉", snowflake: "❄️", broom: "🧹", shield: "🛡️",
  bookmark: "🔖", satellite: "🛰️", frame_with_picture: "🖼️", double_vertical_bar: "⏸️", rewind: "⏪", black_square_for_stop: "⏹️", wastebasket: "🗑️",
  left_right_arrow: "↔️" };

const decode = (text) => text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
export const emoji = (text) => text.replace(/:([a-z0-9_+-]+):/g, (all, name) => EMOJI[name] || all);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

// Only web and mail addresses become links; any other scheme stays text.
export function link(address, attributes, ...children) {
  if (!/^(https?:|mailto:)/i.test(address)) return element("span", attributes, ...children);
  return element("a", { ...attributes, href: address, target: "_blank", rel: "noreferrer noopener" }, ...children);
}

function date(moment, format) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(moment).setHours(0, 0, 0, 0)) / 864e5);
  const near = { "-1": "tomorrow", 0: "today", 1: "yesterday" }[days];
  const short = moment.toLocaleDateString("en", { month: "short", day: "numeric", year: "numeric" });
  const long = moment.toLocaleDateString("en", { weekday: "long", month: "long", day: "numeric", year: "numeric" });
  return format.replace(/\{(\w+)\}/g, (all, token) => ({ date_num: moment.toLocaleDateString("sv"), date: long, date_short: short, date_long: long,
    date_pretty: near || long, date_short_pretty: near || short, date_long_pretty: near || long, time: moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }),
    time_secs: moment.toLocaleTimeString() })[token] ?? all);
}

function reference(inner, names) {
  const [target, label] = inner.split(/\|(.*)/s);
  if (target.startsWith("@")) return element("span", { class: "mention" }, "@" + (names.user(target.slice(1)) || label || target.slice(1)));
  if (target.startsWith("#")) return element("span", { class: "mention" }, "#" + (names.channel(target.slice(1)) || label || target.slice(1)));
  if (target.startsWith("!date^")) {
    const [, at, format] = target.split("^");
    const moment = new Date(at * 1000);
    if (isNaN(moment) || !format) return document.createTextNode(decode(label || ""));
    return element("time", { datetime: moment.toISOString(), title: moment.toString() }, date(moment, decode(format)));
  }
  if (target.startsWith("!subteam^")) return element("span", { class: "mention" }, "@" + (names.group(target.slice(9)) || label || target.slice(9)));
  if (target.startsWith("!")) return element("span", { class: "mention" }, "@" + (label || target.slice(1).split("^")[0]));
  return link(decode(target), {}, decode(label || target));
}

const MARKS = [["*", "strong"], ["_", "em"], ["~", "del"]];
function inline(text, names) {
  const parts = [];
  // Code comes first, because nothing inside it is markup; then references, bare links, and the marks.
  const pattern = /`([^`\n]+)`|<([^<>\n]+)>|(https?:\/\/[^\s<>|]+[^\s<>|.,;:!?)])|(?<![\w*])\*(?=\S)([^*\n]*[^*\s])\*(?![\w*])|(?<![\w_])_(?=\S)([^_\n]*[^_\s])_(?![\w_])|(?<![\w~])~(?=\S)([^~\n]*[^~\s])~(?![\w~])/g;
  let last = 0;
  for (const found of text.matchAll(pattern)) {
    parts.push(emoji(decode(text.slice(last, found.index))));
    last = found.index + found[0].length;
    if (found[1]) parts.push(element("code", {}, ...code(found[1], names)));
    else if (found[2]) parts.push(reference(found[2], names));
    else if (found[3]) parts.push(link(decode(found[3]), {}, decode(found[3])));
    else MARKS.forEach(([, tag], place) => { if (found[4 + place]) parts.push(element(tag, {}, ...inline(found[4 + place], names))); });
  }
  parts.push(emoji(decode(text.slice(last))));
  return parts;
}
const code = (text, names) => text.split(/(<[@#][^<>]+>)/).map((part) => (/^<[@#]/.test(part) ? reference(part.slice(1, -1), names) : decode(part)));

export function mrkdwn(text, names) {
  const box = element("div");
  for (const [place, part] of String(text).split("```").entries()) {
    if (place % 2) { box.append(element("pre", {}, decode(part.replace(/^\n/, "")))); continue; }
    // A quote and a code block end their own line.
    const lines = (place ? part.replace(/^\n/, "") : part).split("\n");
    for (const [row, line] of lines.entries()) {
      const quote = line.match(/^(?:&gt;|>) ?(.*)/);
      if (row && !quote && box.lastChild?.tagName !== "BLOCKQUOTE") box.append(element("br"));
      if (quote && box.lastChild?.tagName === "BLOCKQUOTE") box.lastChild.append(element("br"), ...inline(quote[1], names));
      else box.append(...(quote ? [element("blockquote", {}, ...inline(quote[1], names))] : inline(line, names)));
    }
  }
  return box;
}

// Converts standard Markdown, as far as the bot uses Slack's markdown block, to mrkdwn and renders that.
export function markdown(text, names) {
  const escaped = String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const parts = escaped.split("```").map((part, place) => (place % 2 ? part.replace(/^\w*\n/, "") : part
    .replace(/(^|[^*])\*([^*\s][^*\n]*)\*(?!\*)/gm, "$1_$2_").replace(/\*\*([^\n]+?)\*\*/g, "*$1*").replace(/~~([^\n]+?)~~/g, "~$1~")
    .replace(/^#{1,6} +(.*)$/gm, (all, title) => `*${title.replace(/\*/g, "")}*`).replace(/^(\s*)[-*+] +/gm, "$1• ")
    .replace(/\[([^\]\n]+)\]\(([^)\s]+)\)/g, "<$2|$1>")));
  return mrkdwn(parts.join("```"), names);
}
export const plain = (text) => emoji(text || "");
