// Reports what the console of this page says to the page's own host, in small batches. Every wrapped function
// does what it did, and this element leaves the document before anything else looks at it. One thing a page can
// tell: a failed fetch that nobody waits for counts as handled.
(() => {
  "use strict";
  const element = document.currentScript;
  const door = element.src.replace(/\.js.*$/, "");
  element.remove();
  if (window.__consoleReports) return;
  Object.defineProperty(window, "__consoleReports", { value: true });

  const MAX_TEXT = 4000;
  const MAX_BATCH = 50;
  const MAX_BODY = 48000;
  const MAX_WAITING = 200;
  const FLUSH_MS = 500;
  /** Entries a minute; what is more is counted only. */
  const MAX_PER_MINUTE = 300;

  const nativeFetch = window.fetch;
  const beacon = navigator.sendBeacon && navigator.sendBeacon.bind(navigator);
  const bytes = new TextEncoder();
  let waiting = [];
  let dropped = 0;
  let timer = null;
  let spent = 0;
  let minute = 0;

  const cut = (text, max) => (text.length > max ? `${text.slice(0, max)}…` : text);
  /** Without query and fragment, which may hold secrets. */
  const bare = (url) => {
    try {
      const parsed = new URL(String(url), location.href);
      const own = parsed.origin === location.origin;
      return cut(
        /^https?:$/.test(parsed.protocol) ? (own ? "" : parsed.origin) + parsed.pathname : parsed.protocol,
        1000,
      );
    } catch {
      return null;
    }
  };

  function describe(value, depth, seen) {
    if (typeof value === "string") return depth === 0 ? value : JSON.stringify(cut(value, 500));
    if (typeof value === "function") return `[function ${value.name || "anonymous"}]`;
    if (typeof value === "bigint") return `${value}n`;
    if (typeof value !== "object" || value === null) return String(value);
    if (value instanceof Error)
      return depth === 0 ? errorText(value) : `[${value.name}: ${cut(value.message, 500)}]`;
    if (typeof Node === "function" && value instanceof Node)
      return value.nodeType === 1
        ? `<${value.nodeName.toLowerCase()}${value.id ? ` id=${value.id}` : ""}>`
        : `[${value.nodeName}]`;
    if (seen.includes(value)) return "[circular]";
    const isList = Array.isArray(value);
    if (depth >= 3) return isList ? `[list of ${value.length}]` : "{…}";
    const next = [...seen, value];
    const parts = [];
    // Getters are the page's own code: what they do when they are read is not ours to set off.
    for (const key of Object.keys(value).slice(0, 30)) {
      const { value: own, get } = Object.getOwnPropertyDescriptor(value, key) ?? {};
      const text = get ? "[getter]" : describe(own, depth + 1, next);
      parts.push(isList ? text : `${key}: ${text}`);
    }
    if (Object.keys(value).length > 30) parts.push("…");
    const name =
      !isList && value.constructor && value.constructor !== Object ? `${value.constructor.name} ` : "";
    return isList ? `[${parts.join(", ")}]` : `${name}{${parts.join(", ")}}`;
  }
  const errorText = (error) => `${error.name}: ${error.message}`;
  const safely = (value) => {
    try {
      return cut(describe(value, 0, []), MAX_TEXT);
    } catch {
      return "[unreadable]";
    }
  };

  /** The first argument may hold %s, %d, %i, %f, %o, %O, %j and %c. */
  function format(args) {
    const rest = [...args];
    let text = "";
    if (typeof rest[0] === "string" && rest[0].includes("%")) {
      text = rest.shift().replace(/%[sdifoOjc%]/g, (mark) => {
        if (mark === "%%") return "%";
        if (rest.length === 0) return mark;
        const value = rest.shift();
        if (mark === "%c") return "";
        if (mark === "%d" || mark === "%i") return String(parseInt(value, 10));
        return mark === "%f" ? String(parseFloat(value)) : safely(value);
      });
      if (rest.length > 0) text += " ";
    }
    return cut(text + rest.slice(0, 20).map(safely).join(" "), MAX_TEXT);
  }

  function add(entry) {
    const now = Math.floor(Date.now() / 60000);
    if (now !== minute) [minute, spent] = [now, 0];
    if (++spent > MAX_PER_MINUTE || waiting.length >= MAX_WAITING) {
      dropped++;
    } else waiting.push({ page: bare(location.href), ...entry });
    timer ??= setTimeout(flush, FLUSH_MS);
  }

  function take() {
    const entries = [];
    let size = 0;
    while (waiting.length > 0 && entries.length < MAX_BATCH) {
      size += bytes.encode(JSON.stringify(waiting[0])).length + 1;
      if (entries.length > 0 && size > MAX_BODY) break;
      entries.push(waiting.shift());
    }
    const body = JSON.stringify({ entries, dropped });
    dropped = 0;
    return body;
  }

  function send(body) {
    if (beacon && beacon(door, body)) return;
    nativeFetch.call(window, door, { method: "POST", body, keepalive: true }).catch(() => {
      // Nobody is there to hear that nobody can be told.
    });
  }

  function flush() {
    timer = null;
    if (waiting.length === 0 && dropped === 0) return;
    send(take());
    if (waiting.length > 0) timer = setTimeout(flush, FLUSH_MS);
  }
  function flushAll() {
    while (waiting.length > 0 || dropped > 0) send(take());
  }
  addEventListener("pagehide", flushAll);
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden") flushAll();
  });

  const guarded = (work) => {
    try {
      work();
    } catch {
      // A page must never fail for being listened to.
    }
  };
  const stackOf = (error) => (error && typeof error.stack === "string" ? cut(error.stack, MAX_TEXT) : null);

  for (const level of ["error", "warn", "info", "log", "debug"]) {
    const native = console[level];
    if (typeof native !== "function") continue;
    console[level] = new Proxy(native, {
      apply(target, self, args) {
        guarded(() => {
          const error = args.find((one) => one instanceof Error);
          add({ level, kind: "console", text: format(args), stack: stackOf(error) });
        });
        return Reflect.apply(target, self, args);
      },
    });
  }
  const nativeAssert = console.assert;
  console.assert = new Proxy(nativeAssert, {
    apply(target, self, args) {
      guarded(() => {
        if (args[0]) return;
        add({ level: "error", kind: "console", text: `Assertion failed: ${format(args.slice(1))}` });
      });
      return Reflect.apply(target, self, args);
    },
  });

  addEventListener(
    "error",
    (event) =>
      guarded(() => {
        const { target } = event;
        if (target && target !== window && target.nodeName) {
          const source = bare(target.src || target.href || "");
          const text = `<${target.nodeName.toLowerCase()}> did not load${source ? `: ${source}` : ""}`;
          add({ level: "error", kind: "resource", text, source });
          return;
        }
        const { error, message, filename, lineno, colno } = event;
        const text = cut(error instanceof Error ? errorText(error) : String(message), MAX_TEXT);
        const place = {
          source: filename ? bare(filename) : null,
          line: lineno || null,
          column: colno || null,
        };
        add({ level: "error", kind: "exception", text, ...place, stack: stackOf(error) });
      }),
    true,
  );
  addEventListener("unhandledrejection", ({ reason }) =>
    guarded(() => add({ level: "error", kind: "rejection", text: safely(reason), stack: stackOf(reason) })),
  );

  const failed = (method, url, status, why) => {
    const source = bare(url);
    const text = `${method} ${source}: ${status === null ? `no answer (${why})` : status}`;
    add({ level: "error", kind: "request", text: cut(text, MAX_TEXT), source, method, status });
  };
  if (nativeFetch)
    window.fetch = new Proxy(nativeFetch, {
      apply(target, self, args) {
        const answer = Reflect.apply(target, self, args);
        guarded(() => {
          const [input, init] = args;
          const isRequest = typeof Request === "function" && input instanceof Request;
          const method = String(init?.method ?? (isRequest ? input.method : "GET")).toUpperCase();
          const url = isRequest ? input.url : input;
          answer.then(
            (response) => guarded(() => response.status >= 400 && failed(method, url, response.status)),
            // Cancelled by the page itself: no failure.
            (error) =>
              guarded(() => error?.name !== "AbortError" && failed(method, url, null, safely(error))),
          );
        });
        return answer;
      },
    });
  const nativeXhr = window.XMLHttpRequest;
  if (nativeXhr) {
    const asked = new WeakMap();
    const { open } = nativeXhr.prototype;
    nativeXhr.prototype.open = new Proxy(open, {
      apply(target, self, args) {
        guarded(() => {
          const isKnown = asked.has(self);
          asked.set(self, { method: String(args[0]).toUpperCase(), url: args[1] });
          if (isKnown) return;
          self.addEventListener("load", () =>
            guarded(() => {
              const { method, url } = asked.get(self);
              if (self.status >= 400) failed(method, url, self.status);
            }),
          );
          for (const why of ["error", "timeout"])
            self.addEventListener(why, () =>
              guarded(() => failed(asked.get(self).method, asked.get(self).url, null, why)),
            );
        });
        return Reflect.apply(target, self, args);
      },
    });
  }
})();
