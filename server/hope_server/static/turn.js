// One turn, sent until its fate is certain: the same request and the same Idempotency-Key each time, so that
// it is learned once, whatever happens to the server or to the way there.

import { ApiError, ConnectionLost, request } from "./api.js";
import { pause } from "./dom.js";
import { events } from "./sse.js";

const LONGEST_PAUSE_MS = 4000;
const GIVE_UP_MS = 5 * 60_000;
/** Errors inside a stream that are the server's, not the turn's: what it left is found by asking again. */
const ENDS = new Set(["shutting_down", "store_unavailable", "session_fenced"]);

/** 32 hex digits that nobody else has. Works without a secure context, where crypto.randomUUID does not. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Ask for an answer to `text`.
 *
 * on: {start(), piece(text), waiting(why)}; `start` comes again when an answer begins anew.
 * Returns {kind: "answered", hope, finish} or {kind: "kept"}: an earlier attempt got through, and what it
 * left is in the session. Raises ApiError for what a repetition does not mend, ConnectionLost when nobody has
 * answered for minutes, or the signal's reason.
 */
export async function turn({ session, text, learn, signal, on }) {
  const body = { messages: [{ role: "user", content: text }], session_id: session, stream: true };
  if (!learn) body.learn = "off";
  const key = newKey();
  const began = performance.now();
  for (let attempt = 0; ; attempt++) {
    try {
      return await once(body, key, signal, on);
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (error instanceof ApiError && error.code === "already_learned") return { kind: "kept" };
      if (!mends(error) || performance.now() - began > GIVE_UP_MS) throw error;
      on.waiting(why(error));
      const backoff = Math.min(LONGEST_PAUSE_MS, 400 * 2 ** Math.min(attempt, 5));
      await pause(Math.max(error.waitMs ?? 0, backoff), signal);
    }
  }
}

async function once(body, key, signal, on) {
  const headers = { "Idempotency-Key": key, Accept: "text/event-stream" };
  const response = await request("POST", "/v1/chat/completions", { body, headers, signal });
  on.start();
  let hope = null;
  let finish = null;
  for await (const event of events(response, signal)) {
    const choice = event.choices[0];
    if (choice?.delta.content) on.piece(choice.delta.content);
    finish = choice?.finish_reason ?? finish;
    hope = event.hope ?? hope;
  }
  return { kind: "answered", hope, finish };
}

/** Whether the same request may do better later. */
function mends(error) {
  if (error instanceof ConnectionLost) return true;
  return error instanceof ApiError && (error.retry || ENDS.has(error.code));
}

function why(error) {
  switch (error.code) {
    case "session_busy":
    case "lease_held":
      return "The session is in the middle of another turn. Waiting for it to end…";
    case "shutting_down":
      return "The server is stopping. Waiting for it to come back…";
    case undefined:
    case "":
      return "The connection was lost. Trying again; nothing is learned twice…";
    default:
      return `${error.message}. Trying again…`;
  }
}
