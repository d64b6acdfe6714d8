// Block Kit as DOM nodes. `act(element, chosen)` is called when a person uses an interactive element.
import { element, link, markdown, mrkdwn, plain } from "/mrkdwn.js";

const words = (text, names) => (text.type === "mrkdwn" ? mrkdwn(text.text, names) : element("div", { class: "lines" }, plain(text.text)));

// Returns whether the person accepted the element's confirm dialog; true where there is none.
function confirmed(confirm, names) {
  if (!confirm) return true;
  return new Promise((answer) => {
    const dialog = element("dialog", { class: "confirm", "aria-label": plain(confirm.title.text), onclose: () => { dialog.remove(); answer(dialog.returnValue === "yes"); } },
      element("form", { method: "dialog" }, element("h2", {}, plain(confirm.title.text)), words(confirm.text, names),
        element("footer", {}, element("button", { value: "no" }, plain(confirm.deny?.text || "Cancel")),
          element("button", { value: "yes", class: confirm.style || "primary", autofocus: true }, plain(confirm.confirm?.text || "Yes")))));
    document.body.append(dialog);
    dialog.showModal();
  });
}

function interactive(item, names, act) {
  const use = async (event, chosen) => {
    const pressed = event.currentTarget;
    if (!(await confirmed(item.confirm, names))) {
      if (pressed.tagName === "SELECT") pressed.value = initial ?? "";
      return;
    }
    pressed.disabled = true;
    try { await act(item, chosen); } finally { pressed.disabled = false; }
  };
  const initial = item.initial_option?.value ?? item.initial_user;
  const marks = { "data-action-id": item.action_id };
  if (item.type === "button") {
    // A click on a button with a URL is reported to the app as well.
    if (item.url) return link(item.url, { ...marks, class: `button ${item.style || ""}`, onclick: () => act(item, {}) }, plain(item.text.text));
    return element("button", { ...marks, type: "button", class: `button ${item.style || ""}`, onclick: (event) => use(event, {}) }, plain(item.text.text));
  }
  const options = item.options || (item.option_groups || []).flatMap((group) => group.options);
  if (item.type === "users_select") options.push(...names.people().map((user) => ({ text: { text: user.name }, value: user.id })));
  if (item.type.endsWith("select") || item.type === "overflow") {
    const change = (event) => {
      const chosen = event.currentTarget.value;
      if (item.type === "overflow") event.currentTarget.value = "";
      return use(event, { selected: chosen });
    };
    return element("select", { ...marks, class: item.type, "aria-label": plain(item.placeholder?.text || (item.type === "overflow" ? "More" : "Choose")), onchange: change },
      initial ? null : element("option", { value: "" }, item.type === "overflow" ? "⋯" : plain(item.placeholder?.text || "Choose…")),
      ...options.map((option) => element("option", { value: option.value, selected: option.value === initial }, plain(option.text.text))));
  }
  if (item.type === "checkboxes" || item.type === "radio_buttons") {
    return choices(item, names, (event, box) => act(item, { selected: item.type === "checkboxes" ? [...box.querySelectorAll("input:checked")].map((one) => one.value) : event.currentTarget.value }));
  }
  if (item.type in PICKERS) return element("input", { ...marks, type: PICKERS[item.type], value: item.initial_date || item.initial_time, "aria-label": plain(item.placeholder?.text || "Choose"), onchange: (event) => use(event, { selected: event.currentTarget.value }) });
  if (item.type === "image") return element("img", { src: item.image_url, alt: item.alt_text });
  return element("span", { class: "hint" }, `(${item.type})`);
}

function choices(item, names, onchange) {
  const initial = (item.initial_options || [item.initial_option]).filter(Boolean).map((option) => option.value);
  const name = `${item.action_id}-${Math.random()}`;
  const box = element("div", { class: "choices", "data-action-id": item.action_id }, ...item.options.map((option) => element("label", {},
    element("input", { type: item.type === "checkboxes" ? "checkbox" : "radio", name, value: option.value, checked: initial.includes(option.value), onchange: (event) => onchange(event, box) }),
    element("span", {}, words(option.text, names), option.description ? element("span", { class: "hint" }, words(option.description, names)) : null))));
  return box;
}

function rich(node, names) {
  if (node.type === "text") {
    const tags = Object.entries({ code: "code", strike: "del", italic: "em", bold: "strong" }).filter(([style]) => node.style?.[style]).map(([, tag]) => tag);
    return tags.reduce((inner, tag) => element(tag, {}, inner), element("span", { class: "lines" }, node.text));
  }
  if (node.type === "link") return link(node.url, {}, node.text || node.url);
  if (node.type === "user") return element("span", { class: "mention" }, "@" + (names.user(node.user_id) || node.user_id));
  if (node.type === "channel") return element("span", { class: "mention" }, "#" + (names.channel(node.channel_id) || node.channel_id));
  if (node.type === "usergroup" || node.type === "broadcast") return element("span", { class: "mention" }, "@" + (names.group(node.usergroup_id) || node.usergroup_id || node.range));
  if (node.type === "emoji") return document.createTextNode(plain(`:${node.name}:`));
  const tag = { rich_text_list: node.style === "ordered" ? "ol" : "ul", rich_text_preformatted: "pre", rich_text_quote: "blockquote" }[node.type] || "div";
  return element(tag, {}, ...(node.elements || []).map((child) => (tag === "ul" || tag === "ol" ? element("li", {}, rich(child, names)) : rich(child, names))));
}

// The browser's input types for Slack's inputs. Numbers are text, so that the workspace reports errors in them.
const PICKERS = { datepicker: "date", timepicker: "time" };
const TEXTS = { plain_text_input: "text", email_text_input: "email", url_text_input: "url", number_input: "text" };

function field(block, names) {
  const item = block.element;
  let input;
  if (item.type in TEXTS) {
    input = element(item.multiline ? "textarea" : "input", { "data-action-id": item.action_id, placeholder: plain(item.placeholder?.text), type: item.multiline ? null : TEXTS[item.type], maxlength: item.max_length, rows: item.multiline ? 3 : null, inputmode: item.type === "number_input" ? "decimal" : null, autocapitalize: "off", spellcheck: item.multiline ? null : "false" });
    if (item.initial_value) input.value = item.initial_value;
  } else if (item.type === "checkboxes" || item.type === "radio_buttons") input = choices(item, names, () => {});
  else input = interactive(item, names, () => {});
  const id = `input-${block.block_id}`;
  input.setAttribute("aria-labelledby", id);
  input.setAttribute("aria-describedby", `${id}-wrong`);
  if (input.className === "choices") input.setAttribute("role", "group");
  return element(input.className === "choices" ? "div" : "label", { class: "field", "data-block-id": block.block_id },
    element("b", { id }, plain(block.label.text), block.optional ? element("span", { class: "hint" }, " (optional)") : null), input,
    block.hint ? element("div", { class: "hint" }, plain(block.hint.text)) : null, element("div", { class: "wrong", id: `${id}-wrong`, role: "alert" }));
}

export function block(one, names, act) {
  const box = (name, ...children) => element("div", { class: `block ${name}` }, ...children);
  switch (one.type) {
    case "section": return box("section", element("div", {}, one.text ? words(one.text, names) : null,
      one.fields ? element("div", { class: "fields" }, ...one.fields.map((text) => words(text, names))) : null), one.accessory ? interactive(one.accessory, names, act) : null);
    case "header": return box("header", plain(one.text.text));
    case "context": return box("context", ...one.elements.map((item) => (item.type === "image" ? element("img", { src: item.image_url, alt: item.alt_text }) : words(item, names))));
    case "actions": return box("actions", ...one.elements.map((item) => interactive(item, names, act)));
    case "divider": return element("hr");
    case "image": return box("image", one.title ? element("div", { class: "hint" }, plain(one.title.text)) : null, element("img", { class: "picture", src: one.image_url || one.slack_file.url || `/files/${one.slack_file.id}/picture`, alt: one.alt_text }));
    case "input": return field(one, names);
    case "markdown": return box("markdown", markdown(one.text, names));
    case "rich_text": return box("rich", ...one.elements.map((node) => rich(node, names)));
    case "table": return box("table", element("table", {}, ...one.rows.map((row, place) => element("tr", {}, ...row.map((cell) => element(place ? "td" : "th", {}, cell.text ?? rich(cell, names)))))));
    default: return box("unknown", element("span", { class: "hint" }, `(${one.type})`));
  }
}
