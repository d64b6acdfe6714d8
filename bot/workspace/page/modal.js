// The stack of one person's modals: the top one is shown, and typed input is kept until its view is gone.
import { block } from "/blocks.js";
import { element, plain } from "/mrkdwn.js";

const inputs = (view) => view.blocks.filter((one) => one.type === "input");
const held = (form, one) => form.querySelector(`[data-block-id="${CSS.escape(one.block_id)}"]`);

function typed(form, one) {
  const input = held(form, one).querySelector("[data-action-id]");
  const ticked = [...input.querySelectorAll("input:checked")].map((box) => box.value);
  return { checkboxes: ticked, radio_buttons: ticked[0] }[one.element.type] ?? input.value ?? "";
}

function fill(form, one, value) {
  const input = held(form, one).querySelector("[data-action-id]");
  if (Array.isArray(value) || one.element.type === "radio_buttons") input.querySelectorAll("input").forEach((box) => { box.checked = [value].flat().includes(box.value); });
  else input.value = value;
}

export function modals(dialog, names, ask, toast) {
  let drawn = new Map(); // view id -> { view, form }
  let person = "";

  function draw(view, before) {
    const act = async (item, chosen) => {
      const answer = await ask("click", { view_id: view.id, action_id: item.action_id, value: item.value, ...chosen });
      if (!answer.ok) toast(answer.error);
    };
    const submit = view.submit ? element("button", { class: "primary", type: "submit" }, plain(view.submit.text)) : null;
    const form = element("form", { novalidate: true, "data-view-id": view.id },
      element("h2", { id: "dialog-title" }, plain(view.title.text)), element("div", { class: "fields-of-view" }, ...view.blocks.map((one) => block(one, names, act))),
      element("footer", {}, element("button", { type: "button", class: "close", onclick: () => ask("close", { view_id: view.id }) }, plain(view.close?.text || "Close")), submit));
    for (const one of inputs(view)) {
      const old = before?.view.blocks.find((each) => each.block_id === one.block_id);
      if (old?.element?.action_id === one.element.action_id && old.element.type === one.element.type) fill(form, one, typed(before.form, old));
    }
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!submit || submit.disabled) return;
      const values = Object.fromEntries(inputs(view).map((one) => [one.block_id, { [one.element.action_id]: typed(form, one) }]));
      submit.disabled = true;
      const answer = await ask("submit", { view_id: view.id, values });
      submit.disabled = false;
      complain(form, view, answer.errors || {});
      if (!answer.ok && !answer.errors) toast(answer.error);
    });
    return { view, form };
  }

  function complain(form, view, errors) {
    for (const one of inputs(view)) {
      const field = held(form, one);
      field.querySelector(".wrong").textContent = plain(errors[one.block_id]);
      field.classList.toggle("is-wrong", one.block_id in errors);
      field.querySelector("[data-action-id]").setAttribute("aria-invalid", String(one.block_id in errors));
    }
    form.querySelector(".is-wrong :is(input, textarea, select)")?.focus();
  }

  dialog.setAttribute("aria-labelledby", "dialog-title");
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    dialog.querySelector(".close")?.click();
  });

  return (who, views) => {
    if (who !== person) drawn = new Map();
    person = who;
    const next = new Map();
    for (const view of views) {
      const before = drawn.get(view.id);
      next.set(view.id, before?.view.hash === view.hash ? before : draw(view, before));
    }
    drawn = next;
    const top = drawn.get(views.at(-1)?.id);
    if (!top) { dialog.close(); dialog.replaceChildren(); return; }
    if (dialog.firstChild === top.form) return;
    dialog.replaceChildren(top.form);
    if (!dialog.open) dialog.showModal();
    top.form.querySelector("[data-block-id] :is(input, textarea, select)")?.focus();
  };
}
