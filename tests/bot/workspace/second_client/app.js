// Connects by Socket Mode to the Slack at SLACK_API_URL and prints "ready".
const { App } = require("@slack/bolt");

const app = new App({
  token: process.env.SLACK_BOT_TOKEN,
  appToken: process.env.SLACK_APP_TOKEN,
  socketMode: true,
  clientOptions: { slackApiUrl: process.env.SLACK_API_URL },
});

const plain = (text) => ({ type: "plain_text", text });

app.command("/mautic", async ({ ack, command, say, client }) => {
  if (command.text === "form") {
    await ack();
    await client.views.open({
      trigger_id: command.trigger_id,
      view: {
        type: "modal",
        callback_id: "form",
        title: plain("A form"),
        submit: plain("Send"),
        private_metadata: command.channel_id,
        blocks: [
          {
            type: "input",
            block_id: "tenant",
            label: plain("Tenant"),
            element: { type: "plain_text_input", action_id: "name" },
          },
        ],
      },
    });
    return;
  }
  await ack(`heard ${command.text}`);
  await say({
    text: "press",
    blocks: [
      {
        type: "actions",
        elements: [{ type: "button", action_id: "press", text: plain("Press"), value: "v1" }],
      },
    ],
  });
});

app.action("press", async ({ ack, body, action, respond, client }) => {
  await ack();
  await respond({ text: `only you: ${action.value}`, response_type: "ephemeral" });
  await client.chat.update({
    channel: body.channel.id,
    ts: body.message.ts,
    text: `pressed by ${body.user.id}`,
    blocks: [],
  });
});

app.view("form", async ({ ack, view, client }) => {
  const name = view.state.values.tenant.name.value;
  if (name === "bad") {
    await ack({ response_action: "errors", errors: { tenant: "That name is taken." } });
    return;
  }
  await ack();
  await client.chat.postMessage({ channel: view.private_metadata, text: `asked for ${name}` });
});

app.message("hello", async ({ message, say }) => {
  await say({ text: `hello <@${message.user}>`, thread_ts: message.ts });
});

app.event("app_mention", async ({ event, say }) => {
  await say({ text: "you called?", thread_ts: event.ts });
});

app.start().then(() => console.log("ready"));
