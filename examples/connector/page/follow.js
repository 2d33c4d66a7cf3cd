// Following a command: its row, and its events as they come. EventSource itself comes back after a connection that broke,
// and says with Last-Event-ID what it has had; where the service refuses it gives up, and then this begins anew.

const again = 3000; // ms

// follow tells to what it hears of a command, until the function that it returns is called.
export function follow(id, to) {
  let source = null;
  let timer = 0;
  let stopped = false;
  begin();
  return stop;

  function stop() {
    stopped = true;
    clearTimeout(timer);
    source?.close();
  }

  async function begin() {
    to.clear();
    let response;
    try {
      response = await fetch(`/commands/${encodeURIComponent(id)}?from=2147483647`); // the row, and no chunks
    } catch {
      return later("The service cannot be reached.");
    }
    if (stopped) {
      return;
    }
    const answer = await response.json().catch(() => ({}));
    if (stopped) {
      return;
    }
    if (!response.ok) {
      const message = `${response.status}: ${answer.error?.message ?? response.statusText}`;
      return response.status >= 500 ? later(message + ".") : to.failed(new Error(message)); // a proxy's 502 too
    }
    to.failed(null);
    to.record(answer);
    listen();
  }

  function listen() {
    let lost = false;
    source = new EventSource(`/commands/${encodeURIComponent(id)}/events`);
    source.onopen = () => {
      if (lost) {
        to.state("Connected to the service again.");
      }
      lost = false;
    };
    source.onmessage = (message) => {
      const event = JSON.parse(message.data, exactly);
      if (event.event === "response") {
        to.chunk(event);
        return;
      }
      source.close();
      to.end(event);
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) {
        later("The service does not let this page follow now.");
      } else if (!lost) {
        lost = true;
        to.state("The connection to the service is lost. Trying again.");
      }
    };
  }

  // later begins anew after a while.
  function later(reason) {
    if (!stopped) {
      to.failed(new Error(reason + " Trying again."));
      timer = setTimeout(begin, again);
    }
  }
}

// exactly keeps numbers as they were sent that JavaScript cannot hold, where the browser knows how.
function exactly(_, value, context) {
  const inexact = typeof value === "number" && context?.source !== undefined && String(value) !== context.source;
  return inexact && JSON.rawJSON ? JSON.rawJSON(context.source) : value;
}
