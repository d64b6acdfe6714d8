// Block Kit as DOM nodes. `act(element, chosen)` is called when a person uses an interactive element.
import { element, mrkdwn, plain } from "/mrkdwn.js";

const words = (text, names) => (text.type === "mrkdwn" ? mrkdwn(text.text, names) : element("div", {}, plain(text.text)));

async function confirmed(confirm) {
  return !confirm || window.confirm(`${plain(confirm.title?.text)}\n\n${plain(confirm.text?.text)}`);
}

function interactive(item, names, act) {
  const use = async (event, chosen) => {
    if (!(await confirmed(item.confirm))) return;
    const pressed = event.currentTarget;
    pressed.disabled = true;
    try { await act(item, chosen); } finally { pressed.disabled = false; }
  };
  const marks = { "data-action-id": item.action_id };
  if (item.type === "button") {
    if (item.url) return element("a", { class: "button", href: item.url, target: "_blank", rel: "noreferrer noopener" }, plain(item.text.text));
    return element("button", { ...marks, type: "button", class: `button ${item.style || ""}`, onclick: (event) => use(event, {}) }, plain(item.text.text));
  }
  const options = item.options || (item.option_groups || []).flatMap((group) => group.options) || [];
  if (item.type === "users_select") options.push(...names.people().map((user) => ({ text: { text: user.name }, value: user.id })));
  if (item.type.endsWith("select") || item.type === "overflow") {
    const initial = item.initial_option?.value ?? item.initial_user;
    return element("select", { ...marks, "aria-label": plain(item.placeholder?.text || "Choose"), onchange: (event) => use(event, { selected: event.currentTarget.value }) },
      initial ? null : element("option", { value: "" }, item.type === "overflow" ? "⋯" : plain(item.placeholder?.text || "Choose…")),
      ...options.map((option) => element("option", { value: option.value, selected: option.value === initial }, plain(option.text.text))));
  }
  if (item.type === "checkboxes" || item.type === "radio_buttons") return choices(item, (event) => use(event, { selected: event.currentTarget.value }));
  if (item.type === "image") return element("img", { src: item.image_url, alt: item.alt_text });
  return element("span", { class: "hint" }, `(${item.type})`);
}

function choices(item, onchange) {
  const initial = (item.initial_options || [item.initial_option]).filter(Boolean).map((option) => option.value);
  const name = `${item.action_id}-${Math.random()}`;
  return element("div", { "data-action-id": item.action_id }, ...item.options.map((option) => element("label", { style: "display:block" },
    element("input", { type: item.type === "checkboxes" ? "checkbox" : "radio", name, value: option.value, checked: initial.includes(option.value), onchange }), " ", plain(option.text.text))));
}

function rich(node, names) {
  if (node.type === "text") return element(node.style?.code ? "code" : node.style?.bold ? "b" : node.style?.italic ? "em" : "span", {}, node.text);
  if (node.type === "link") return element("a", { href: node.url, target: "_blank", rel: "noreferrer noopener" }, node.text || node.url);
  if (node.type === "user") return element("span", { class: "mention" }, "@" + names.user(node.user_id));
  if (node.type === "emoji") return document.createTextNode(plain(`:${node.name}:`));
  const tag = { rich_text_list: node.style === "ordered" ? "ol" : "ul", rich_text_preformatted: "pre", rich_text_quote: "blockquote" }[node.type] || "div";
  return element(tag, {}, ...(node.elements || []).map((child) => (tag === "ul" || tag === "ol" ? element("li", {}, rich(child, names)) : rich(child, names))));
}

export function field(block, names, wrong) {
  const item = block.element;
  let input;
  if (item.type === "plain_text_input") {
    input = element(item.multiline ? "textarea" : "input", { "data-action-id": item.action_id, placeholder: plain(item.placeholder?.text), maxlength: item.max_length, rows: item.multiline ? 3 : null, value: item.initial_value });
    if (item.initial_value) input.value = item.initial_value;
  } else if (item.type === "checkboxes" || item.type === "radio_buttons") input = choices(item, () => {});
  else if (item.type === "datepicker") input = element("input", { type: "date", "data-action-id": item.action_id, value: item.initial_date });
  else input = interactive(item, names, () => {});
  return element("label", { class: "field", "data-block-id": block.block_id }, element("b", {}, plain(block.label.text), block.optional ? element("span", { class: "hint" }, " (optional)") : null), input,
    block.hint ? element("div", { class: "hint" }, plain(block.hint.text)) : null, wrong ? element("div", { class: "wrong", role: "alert" }, plain(wrong)) : null);
}

export function block(one, names, act, wrong) {
  const box = (name, ...children) => element("div", { class: `block ${name}` }, ...children);
  switch (one.type) {
    case "section": return box("section", element("div", {}, one.text ? words(one.text, names) : null,
      one.fields ? element("div", { class: "fields" }, ...one.fields.map((text) => words(text, names))) : null), one.accessory ? interactive(one.accessory, names, act) : null);
    case "header": return box("header", plain(one.text.text));
    case "context": return box("context", ...one.elements.map((item) => (item.type === "image" ? element("img", { src: item.image_url, alt: item.alt_text }) : words(item, names))));
    case "actions": return box("actions", ...one.elements.map((item) => interactive(item, names, (used, chosen) => act(used, chosen, one))));
    case "divider": return element("hr");
    case "image": return box("image", element("img", { class: "picture", src: one.image_url || one.slack_file?.url, alt: one.alt_text }));
    case "input": return field(one, names, wrong);
    case "markdown": return box("markdown", mrkdwn(one.text.replace(/\*\*(.+?)\*\*/g, "*$1*"), names));
    case "rich_text": return box("rich", ...one.elements.map((node) => rich(node, names)));
    case "table": return box("table", element("table", {}, ...one.rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell.text ?? rich(cell, names)))))));
    default: return box("unknown", element("span", { class: "hint" }, `(${one.type})`));
  }
}
