// The page: a form that runs a command, and the answer of the command that the address names (/?command=<id>).
import { follow } from "./follow.js";
import { Attempts } from "./attempts.js";

const byId = (id) => document.getElementById(id);
const attempts = new Attempts({ list: byId("attempts"), none: byId("no-attempts"), changed: showAttempts });

const hints = {
  ReadDTC: "The fault memory, in three chunks.",
  ReadDataByID: "One value, in two chunks.",
  ClearDTC: "Clears the fault memory.",
};

let stop = () => {}; // following
let expected = null; // the next sequence number
let counts;
let ended; // the last event has been shown

byId("command").addEventListener("change", showFields);
byId("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = byId("run");
  button.disabled = true;
  try {
    const { command_id: id } = await ask("POST", "/commands", command());
    history.pushState(null, "", "/?command=" + id);
    show();
  } catch (err) {
    complain(err);
  } finally {
    button.disabled = false;
    button.focus();
  }
});
byId("cut")?.addEventListener("click", () => {
  complain(null);
  ask("POST", "/link/cut").then(() => say("The link has been cut."), complain);
});
if (navigator.clipboard) {
  byId("copy").hidden = false;
  byId("copy").addEventListener("click", () => {
    navigator.clipboard.writeText(byId("share").href).then(() => say("The link is copied."), complain);
  });
}
addEventListener("popstate", show);
showFields();
show();

// command is what the form asks for.
function command() {
  const name = byId("command").value;
  return {
    vehicle_id: byId("vehicle").value.trim(),
    command_name: name,
    command_params: name === "ReadDataByID" ? { dataId: byId("data-id").value.trim() } : {},
  };
}

// showFields shows the fields that the chosen command has.
function showFields() {
  const name = byId("command").value;
  byId("command-hint").textContent = hints[name] ?? "The faults' snapshots: a long answer, worth cutting the link for.";
  for (const [field, input, of] of [["data-id-field", "data-id", "ReadDataByID"], ["clear-field", "clear", "ClearDTC"]]) {
    byId(field).hidden = byId(input).disabled = name !== of;
  }
  byId("clear").checked = false;
}

// show follows the command that the address names, from its first chunk.
function show() {
  stop();
  attempts.stop();
  complain(null);
  const id = new URLSearchParams(location.search).get("command");
  byId("follow").hidden = !id;
  if (!id) {
    return;
  }
  byId("share").href = "/?command=" + encodeURIComponent(id);
  clear();
  attempts.start(id);
  stop = follow(id, { clear, record: showRecord, chunk: showChunk, end: showEnd, state: say, failed: complain });
}

function clear() {
  ended = false;
  expected = null;
  counts = { chunks: 0, missing: 0, repeated: 0 };
  byId("chunks").replaceChildren();
  byId("follow-title").textContent = "Answer";
  byId("chunk-count").textContent = byId("missing").textContent = byId("repeated").textContent = "0";
  byId("attempt-count").textContent = byId("replayed").textContent = "–";
  setStatus("pending");
  say("");
}

function showRecord(record) {
  byId("follow-title").textContent = record.command_name;
  setStatus(record.status);
}

function showChunk(chunk) {
  const seq = chunk.sequence_number;
  if (expected !== null && seq < expected) {
    counts.repeated++;
  } else {
    counts.missing += expected === null ? Math.max(seq - 1, 0) : seq - expected; // answers begin with 0 or with 1
    expected = seq + 1;
  }
  counts.chunks++;
  byId("chunk-count").textContent = counts.chunks;
  byId("missing").textContent = counts.missing;
  byId("repeated").textContent = counts.repeated;
  byId("chunks").append(row(chunk));
}

// row shows a chunk: a line of its payload, and when it is opened all of it. Texts of vehicles only ever become text.
function row(chunk) {
  const number = document.createElement("b");
  number.textContent = chunk.sequence_number;
  const line = document.createElement("code");
  line.textContent = JSON.stringify(chunk.response_payload);
  const summary = document.createElement("summary");
  summary.append(number, line);
  const whole = document.createElement("pre");
  whole.textContent = JSON.stringify(chunk.response_payload, null, 2);
  const details = document.createElement("details");
  details.append(summary, whole);
  const item = document.createElement("li");
  item.dataset.seq = chunk.sequence_number;
  attempts.mark(item, chunk.sequence_number);
  item.append(details);
  return item;
}

function showEnd(event) {
  ended = true;
  setStatus(event.status);
  const inOrder = counts.missing + counts.repeated === 0 ? "each once and in order" : "not each once and in order";
  if (event.status === "completed") {
    say(`Completed: ${counts.chunks} ${counts.chunks === 1 ? "chunk" : "chunks"}, ${inOrder}.`);
  } else {
    say("Failed: " + (event.error_message || "without a reason"));
  }
}

// showAttempts shows the sums of the attempts, and says when the link was lost and found again.
function showAttempts({ news, number, outcome }) {
  byId("attempt-count").textContent = outcome ? outcome.attempts : number;
  byId("replayed").textContent = outcome ? outcome.replayed : attempts.replayed;
  if (news && !outcome && !ended) { // what is asked for before the end may be answered after it
    say(news);
  }
  for (const item of byId("chunks").children) {
    attempts.mark(item, Number(item.dataset.seq));
  }
}

function setStatus(status) {
  byId("status").textContent = status.replace("_", " ");
  byId("status").dataset.status = status;
}

function say(text) {
  byId("news").textContent = text;
}

// complain shows an error; null takes it away.
function complain(err) {
  byId("problem").textContent = err ? err.message : "";
}

// ask asks the service and gives its answer; its errors have a text to show.
async function ask(method, path, body) {
  complain(null);
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body && JSON.stringify(body),
    });
  } catch {
    throw new Error("The service cannot be reached.");
  }
  if (response.status === 204) {
    return null;
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Error(`${response.status}: ${answer.error?.message ?? response.statusText}`);
  }
  return answer;
}
