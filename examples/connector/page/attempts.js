// The attempts at a command: what each of them brought, asked for again and again while the command runs.

const pause = 250; // ms
const most = 150; // cells of an attempt that are drawn

export class Attempts {
  #list;
  #none;
  #changed;
  #timer = 0;
  #id = null;
  #known = []; // {number, from, to}: what each attempt was the first to bring
  #shown = "";
  replayed = 0;

  // changed is told {news, number, outcome} when something has.
  constructor({ list, none, changed }) {
    this.#list = list;
    this.#none = none;
    this.#changed = changed;
  }

  start(id) {
    this.stop();
    this.#id = id;
    this.#known = [];
    this.#shown = "";
    this.replayed = 0;
    this.#list.replaceChildren();
    this.#none.hidden = true;
    this.#look(id);
  }

  stop() {
    this.#id = null;
    clearTimeout(this.#timer);
  }

  // mark gives an element the number of the attempt that first brought a chunk.
  mark(element, seq) {
    const by = this.#known.find(({ from, to }) => from <= seq && seq <= to);
    if (by) {
      element.dataset.attempt = (by.number - 1) % 4;
    }
  }

  async #look(id) {
    let response, answer;
    try {
      response = await fetch(`/commands/${encodeURIComponent(id)}/attempts`);
      answer = await response.json();
    } catch {
      answer = null; // the service is away: who follows the answer says so
    }
    if (this.#id !== id) {
      return;
    }
    if (response?.status === 404) {
      this.#none.textContent = "They are known to the process that runs the command, and not for long.";
      this.#none.hidden = false;
      return;
    }
    if (response?.ok && answer) {
      this.#show(answer);
      if (answer.outcome) {
        return;
      }
    }
    this.#timer = setTimeout(() => this.#look(id), pause);
  }

  #show(answer) {
    const text = JSON.stringify(answer);
    if (text === this.#shown) {
      return;
    }
    this.#shown = text;
    this.#known = [];
    this.replayed = 0;
    let next = 0; // the first chunk that no attempt so far has brought
    const items = answer.attempts.map((attempt, i) => {
      const last = i === answer.attempts.length - 1;
      const item = lane(attempt, next, last && !answer.outcome);
      if (attempt.chunks > 0) {
        const fresh = Math.max(attempt.first_chunk, next);
        this.replayed += Math.max(0, Math.min(attempt.last_chunk + 1, next) - attempt.first_chunk);
        this.#known.push({ number: attempt.attempt, from: fresh, to: attempt.last_chunk });
        next = Math.max(next, attempt.last_chunk + 1);
      }
      return item;
    });
    this.#list.replaceChildren(...items);
    this.#changed({ news: news(answer.attempts), number: answer.attempts.length, outcome: answer.outcome });
  }
}

// news says how it stands with the link; nothing while the first attempt goes well.
function news(attempts) {
  const latest = attempts.at(-1);
  if (!latest) {
    return "";
  }
  if (latest.code && latest.code !== "OK") {
    return `Attempt ${latest.attempt} broke off (${latest.code}).`;
  }
  if (attempts.length > 1) {
    return latest.chunks > 0 ? `Attempt ${latest.attempt} goes on with the answer.` : `Attempt ${latest.attempt} has begun.`;
  }
  return "";
}

// lane draws an attempt: a cell for each chunk that it brought, those below next for the second time.
function lane(attempt, next, open) {
  const title = document.createElement("b");
  title.textContent = `Attempt ${attempt.attempt}`;
  const text = document.createElement("span");
  text.textContent = story(attempt, next, open);
  const item = document.createElement("li");
  item.dataset.attempt = (attempt.attempt - 1) % 4;
  item.append(title, text);
  if (attempt.chunks > 0 && attempt.last_chunk - attempt.first_chunk < most) {
    const cells = document.createElement("div");
    cells.className = "cells";
    cells.ariaHidden = "true"; // the story has it in words
    for (let seq = attempt.first_chunk; seq <= attempt.last_chunk; seq++) {
      const cell = document.createElement("i");
      cell.textContent = seq;
      cell.className = seq < next ? "again" : "";
      cells.append(cell);
    }
    if (attempt.code && attempt.code !== "OK") {
      const end = document.createElement("i");
      end.className = "broken";
      end.textContent = "✕";
      cells.append(end);
    }
    item.append(cells);
  }
  return item;
}

// story is an attempt in words.
function story(attempt, next, open) {
  const parts = [];
  if (attempt.resume_from !== undefined) {
    parts.push(`asked from ${attempt.resume_from} on`);
  }
  if (attempt.chunks > 0) {
    parts.push(`chunks ${range(attempt.first_chunk, attempt.last_chunk)}`);
  }
  const last = Math.min(next - 1, attempt.last_chunk ?? -1);
  if (attempt.first_chunk < next) {
    parts.push(`${range(attempt.first_chunk, last)} again: compared and dropped`);
  }
  if (attempt.code && attempt.code !== "OK") {
    parts.push(`broke off: ${attempt.code}`);
  } else if (open && attempt.chunks === 0) {
    parts.push("waiting for the vehicle");
  }
  return parts.join("; ");
}

function range(first, last) {
  return first === last ? `${first}` : `${first} to ${last}`;
}
