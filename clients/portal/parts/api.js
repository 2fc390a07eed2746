// Requests to the endpoints, and what their answers say.

const MOST_MS = 60_000;

/** An answer that is no success, or none at all (status 0). The message is for people. */
export class Failure extends Error {
    constructor(message, status = 0) {
        super(message);
        this.status = status;
    }
}

/** `given` is the portal's `headers`. Fails with a Failure, or as `signal` says. */
export async function request(words, given, method, url, body, signal) {
    const headers = new Headers(typeof given === "function" ? await given({ method, url: url.href }) : given ?? {});
    headers.set("Accept", "application/json");
    if (body) headers.set("Content-Type", "application/json");
    const limit = AbortSignal.timeout(MOST_MS);
    let response;
    try {
        response = await fetch(url, {
            method, headers, body: body && JSON.stringify(body), signal: signal ? AbortSignal.any([signal, limit]) : limit,
            // A redirect leads to a page to sign in, and to no answer.
            credentials: "same-origin", cache: "no-store", redirect: "manual",
        });
    } catch (error) {
        if (signal?.aborted) throw error;
        throw new Failure(words.say(method === "GET" ? "unreachable" : "unknownOutcome"));
    }
    if (response.type === "opaqueredirect") throw new Failure(words.say("signedOut"), 401);
    const answer = await response.json().catch(() => null);
    if (!response.ok) throw refusal(words, response, answer);
    if (answer === null || typeof answer !== "object") {
        throw new Failure(words.say(method === "GET" ? "unexpected" : "unknownOutcome"), response.status);
    }
    return answer;
}

function refusal(words, response, answer) {
    const { status, statusText } = response;
    // A plain error has a message, a problem (RFC 9457) a detail and a title.
    const said = [answer?.message, answer?.detail, answer?.title].find((text) => text && typeof text === "string");
    let message = said ?? (statusText || words.say("failed", { status }));
    if (status === 401) message = words.say("signedOut");
    const wait = response.headers.get("Retry-After") ?? "";
    const seconds = /^\d+$/.test(wait) ? Number(wait) : Math.ceil((Date.parse(wait) - Date.now()) / 1000);
    if (seconds > 0) message += ` ${words.say("retryAfter", { when: words.inSeconds(seconds) })}`;
    return new Failure(message, status);
}
