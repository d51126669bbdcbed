// Calls to the server that this page came from. The key, if one is needed, lives as long as the tab.

const KEY = "hope-api-key";

/** An answer of status 400 or above, or an error inside a stream. */
export class ApiError extends Error {
  constructor(status, detail, { retry = false, waitMs = 0 } = {}) {
    super(detail?.message ?? `the server answered ${status}`);
    this.name = "ApiError";
    this.status = status;
    this.code = detail?.code ?? "";
    this.retry = retry;
    this.waitMs = waitMs;
  }
}

/** Nobody answered, or the answer broke off. */
export class ConnectionLost extends Error {
  constructor(message) {
    super(message);
    this.name = "ConnectionLost";
  }
}

const getKey = () => sessionStorage.getItem(KEY);
export const forgetKey = () => sessionStorage.removeItem(KEY);
export const setKey = (key) => sessionStorage.setItem(KEY, key);

let keyAsker = null;
let asking = null;

/** `ask()` is to get a key from the person and `setKey` it; it is called when the server wants one. */
export function onKeyNeeded(ask) {
  keyAsker = ask;
}

/** The response to a request; asks for a key when the server wants one. Raises ApiError, ConnectionLost. */
export async function request(method, path, { body, headers = {}, signal } = {}) {
  for (;;) {
    const key = getKey();
    const response = await send(method, path, body, { ...headers, ...bearer(key) }, signal);
    if (response.ok) return response;
    const error = await failure(response);
    if (response.status !== 401 || keyAsker === null) throw error;
    if (getKey() === key) {
      forgetKey();
      asking ??= Promise.resolve(keyAsker(error)).finally(() => { asking = null; });
      await asking;
    }
  }
}

/** The JSON of an answer. */
async function call(method, path, options) {
  const response = await request(method, path, options);
  try {
    return await response.json();
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    throw new ConnectionLost("the answer broke off");
  }
}

const bearer = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

async function send(method, path, body, headers, signal) {
  const options = { method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  try {
    return await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new ConnectionLost("the server does not answer");
  }
}

async function failure(response) {
  let detail = null;
  try {
    detail = (await response.json()).error;
  } catch {
    // Something between here and the server answered.
  }
  const waitMs = Number(response.headers.get("retry-after-ms")) || 0;
  return new ApiError(response.status, detail, {
    retry: response.headers.get("x-should-retry") === "true" || (detail === null && response.status >= 500),
    waitMs,
  });
}

const sessionPath = (id) => `/v1/sessions/${encodeURIComponent(id)}`;

export const sessions = {
  /** All of them, the newest first. */
  async list() {
    const found = [];
    for (let after = ""; ;) {
      const page = await call("GET", `/v1/sessions?limit=1000${after && `&after=${encodeURIComponent(after)}`}`);
      found.push(...page.data);
      if (!page.has_more) return found.reverse();
      after = page.last_id;
    }
  },
  create: (name) => call("POST", "/v1/sessions", { body: { name } }),
  get: (id) => call("GET", sessionPath(id)),
  rename: (id, name) => call("PATCH", sessionPath(id), { body: { name } }),
  remove: (id) => call("DELETE", sessionPath(id)),
  fork: (id, seq, name) => call("POST", `${sessionPath(id)}/fork`, { body: { seq, name } }),
  rollback: (id, seq) => call("POST", `${sessionPath(id)}/rollback`, { body: { seq } }),
  levels: (id, signal) => call("GET", `${sessionPath(id)}/levels`, { signal }),
  loss: (id, signal) => call("GET", `${sessionPath(id)}/loss`, { signal }),
  /** The messages behind the journal entry `after`. */
  async messages(id, after = 0, signal = undefined) {
    const found = [];
    for (;;) {
      const page = await call("GET", `${sessionPath(id)}/messages?after=${after}&limit=1000`, { signal });
      found.push(...page.data);
      if (!page.has_more) return found;
      after = found.at(-1).last_seq;
    }
  },
};

/** What the server serves. */
export async function model() {
  return (await call("GET", "/v1/models")).data[0].id;
}
