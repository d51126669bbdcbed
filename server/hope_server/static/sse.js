// Server-sent events as this server writes them: lines "data: JSON", the last one "data: [DONE]".

import { ApiError, ConnectionLost } from "./api.js";

/**
 * The JSON values of a streamed answer, as they come.
 * Raises ApiError for an error inside the stream, ConnectionLost when it ends before [DONE].
 */
export async function* events(response, signal) {
  const decoder = new TextDecoder();
  let pending = "";
  let whole = false;
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { value, done } = await next(reader, signal);
      if (done) break;
      const lines = (pending + decoder.decode(value, { stream: true })).split("\n");
      pending = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ")) continue;
        const data = line.slice(6);
        if (data === "[DONE]") {
          whole = true;
          continue;
        }
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(200, event.error);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!whole) throw new ConnectionLost("the answer broke off");
}

async function next(reader, signal) {
  try {
    return await reader.read();
  } catch {
    if (signal.aborted) throw signal.reason;
    throw new ConnectionLost("the answer broke off");
  }
}
