const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (value) => String(value ?? "").replace(/[&<>"']/g, (character) => escapes[character]);

export const stylesheet = `
:root { color-scheme: light dark; --accent: #0f6b5c; --line: #cfd8d6; --card: #fff; --page: #f3f7f6; --text: #16211f; --muted: #52625f; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --accent: #6fd3c0; --line: #33423f; --card: #17211f; --page: #0e1513; --text: #e6efed; --muted: #9fb2ae; --bad: #ff9a91; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 1rem/1.55 system-ui, sans-serif; }
header, main, footer { max-width: 46rem; margin: 0 auto; padding: 1rem 1.25rem; }
header { display: flex; gap: 1.5rem; align-items: baseline; flex-wrap: wrap; }
h1 { font-size: 1.35rem; margin: 0; }
nav { display: flex; gap: 1rem; }
a { color: var(--accent); }
a[aria-current] { font-weight: 600; text-decoration: none; color: var(--text); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.25rem; }
.card + .card { margin-top: .75rem; }
label { display: block; font-weight: 600; margin-top: 1rem; }
label:first-of-type { margin-top: 0; }
.hint { color: var(--muted); font-weight: 400; }
input, textarea { width: 100%; margin-top: .3rem; padding: .65rem .75rem; font: inherit; color: inherit; background: transparent; border: 1px solid var(--line); border-radius: 8px; }
[aria-invalid="true"] { border-color: var(--bad); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.error { color: var(--bad); margin: .3rem 0 0; }
button { margin-top: 1.25rem; padding: .7rem 1.4rem; font: inherit; font-weight: 600; color: #fff; background: #0f6b5c; border: 0; border-radius: 8px; cursor: pointer; }
ul { list-style: none; margin: 0; padding: 0; }
.meta { color: var(--muted); font-size: .9rem; margin: 0; }
.reason { margin: .4rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
footer { color: var(--muted); font-size: .85rem; }
.visually-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
`;

/** Adds each new form on top of the list, and connects again after a drop. */
export const liveScript = `
const list = document.querySelector("#forms");
const state = document.querySelector("#live");
let failures = 0;
function connect() {
  const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/live");
  socket.onopen = () => { failures = 0; state.textContent = "Live"; };
  socket.onmessage = (event) => {
    const { html, id } = JSON.parse(event.data);
    if (!html || document.getElementById("form-" + id)) return;
    document.querySelector("#none")?.remove();
    list.insertAdjacentHTML("afterbegin", html);
  };
  socket.onclose = () => {
    state.textContent = "Reconnecting";
    setTimeout(connect, Math.min(10000, 500 * 2 ** failures++));
  };
}
connect();
`;

function layout({ title, path, version, body }) {
  const link = (href, text) => `<a href="${href}"${href === path ? ' aria-current="page"' : ""}>${text}</a>`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/style.css">
</head>
<body>
<header><h1>Clinic intake</h1><nav aria-label="Pages">${link("/", "New form")}${link("/intakes", "Received")}</nav></header>
<main>${body}</main>
<footer>Version ${escape(version)}</footer>
</body>
</html>
`;
}

const fields = [
  { name: "patient_name", label: "Patient's name", type: "text", autocomplete: "name", required: true },
  { name: "date_of_birth", label: "Date of birth", type: "date", autocomplete: "bday", required: true },
  { name: "phone", label: "Phone", type: "tel", autocomplete: "tel", required: false },
  { name: "reason", label: "Reason for the visit", type: "textarea", autocomplete: "off", required: true },
];

function fieldMarkup(field, value, error) {
  const shared = `id="${field.name}" name="${field.name}" autocomplete="${field.autocomplete}"${field.required ? " required" : ""}${
    error ? ` aria-invalid="true" aria-describedby="${field.name}-error"` : ""
  }`;
  const control =
    field.type === "textarea"
      ? `<textarea ${shared} rows="4" maxlength="2000">${escape(value)}</textarea>`
      : `<input ${shared} type="${field.type}" value="${escape(value)}">`;
  const hint = field.required ? "" : ' <span class="hint">(optional)</span>';
  const message = error ? `<p class="error" id="${field.name}-error">${escape(error)}</p>` : "";
  return `<label for="${field.name}">${field.label}${hint}</label>${control}${message}`;
}

export function formPage({ version, values = {}, errors = {} }) {
  const wrong = Object.keys(errors).length > 0;
  const summary = wrong ? '<p class="error" role="alert">Please correct the marked fields.</p>' : "";
  const inputs = fields.map((field) => fieldMarkup(field, values[field.name], errors[field.name])).join("\n");
  return layout({
    title: wrong ? "Please correct the form" : "New intake form",
    path: "/",
    version,
    // The server's messages are the ones shown, so that every browser says the same.
    body: `<form class="card" method="post" action="/intake" novalidate>${summary}${inputs}<button>Send form</button></form>`,
  });
}

export function rowMarkup(row) {
  const when = new Date(row.created_at).toISOString();
  const phone = row.phone ? ` · ${escape(row.phone)}` : "";
  return `<li class="card" id="form-${escape(row.id)}"><strong>${escape(row.patient_name)}</strong>
<p class="meta">born ${escape(row.date_of_birth)}${phone} · received <time datetime="${when}">${when.slice(0, 16).replace("T", " ")} UTC</time></p>
<p class="reason">${escape(row.reason)}</p></li>`;
}

export function listPage(rows, version) {
  const none = rows.length === 0 ? '<p id="none">No form has arrived yet.</p>' : "";
  return layout({
    title: "Received forms",
    path: "/intakes",
    version,
    body: `<p class="meta" role="status" id="live">Connecting</p>${none}<ul id="forms" aria-live="polite">${rows.map(rowMarkup).join("")}</ul>
<script type="module" src="/live.js"></script>`,
  });
}

export function messagePage(title, text, version) {
  return layout({
    title,
    path: "",
    version,
    body: `<div class="card"><h2>${escape(title)}</h2><p>${escape(text)}</p></div>`,
  });
}
