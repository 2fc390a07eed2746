// All texts in one place, and times and numbers as the page's language has them.

import { h } from "./dom.js";

export const TEXTS = {
    title: "API keys",
    intro: "Programs use a key to call the API for you. Treat each one like a password.",
    loading: "Loading…",
    empty: "No keys yet",
    emptyMore: "Create one to make your first request.",
    retry: "Try again",
    // The list
    label: "Name", access: "Access", lastUsed: "Last used", expires: "Expires", status: "Status",
    unnamed: "Unnamed key", isNew: "New", never: "Never", anywhere: "Anywhere", scopesDefault: "Default scopes",
    showRevoked: "Show revoked keys",
    pages: "Pages", page: "{from}–{to} of {total}", previous: "Previous", next: "Next",
    id: "Key ID", prefix: "Begins with", scopes: "Scopes", networks: "Networks", created: "Created",
    role: "Role", owner: "Owner", revokedAt: "Revoked", reason: "Reason",
    // The acts, and their names for screen readers
    manage: "Manage", create: "Create key", edit: "Edit", rotate: "Rotate", disable: "Disable", enable: "Enable", revoke: "Revoke",
    actOn: "{act} {label}",
    cancel: "Cancel", save: "Save", keep: "Keep it", done: "Done",
    // The form
    environment: "Environment", kind: "Kind",
    labelHint: "Something that tells you later where it is used.",
    scopesHint: "Separate them by spaces. Leave it empty for the default scopes.",
    scopesNeeded: "Choose at least one scope.",
    expiresHint: "The key ends when this day ends. Leave it empty for a key that does not expire.",
    networksHint: "One in each line, such as 203.0.113.0/24. Leave it empty to allow every address.",
    editTitle: "Edit {label}",
    rotateTitle: "Rotate {label}",
    rotateMore: "A new key takes its place, with the same settings. How long should the old one keep working?",
    graceNow: "It stops now", graceHour: "1 hour", graceDay: "1 day", graceWeek: "7 days",
    revokeTitle: "Revoke {label}?",
    revokeMore: "Programs that use it are refused from now on. This can’t be undone.",
    // The new key
    secretTitle: "Your new key",
    secretMore: "Copy it now and keep it in a safe place. It is not shown again.",
    copy: "Copy", copied: "Copied", copyFailed: "Select the key, and copy it yourself.",
    // What was done
    wasCreated: "The key was created.", wasChanged: "The changes are saved.", wasRotated: "The key was rotated.",
    wasDisabled: "The key is disabled.", wasEnabled: "The key is enabled.", wasRevoked: "The key was revoked.",
    // Usage
    usage: "Usage", period: "Period", perDay: "30 days", perHour: "24 hours",
    requests: "Requests", accepted: "Accepted", refused: "Refused",
    usageSummary: "{requests} requests, {refused} of them refused",
    asTable: "Show as a table", time: "Time", day: "Day (UTC)",
    recent: "Recent requests", noRecent: "No requests with a key.", older: "Load older ones",
    key: "Key", request: "Request", answer: "Answer",
    // Problems
    signedOut: "You are signed out. Sign in again to manage your keys.",
    unreachable: "The server can’t be reached. Check your connection.",
    unknownOutcome: "The server did not answer. Look at the list before you try again: it may have happened.",
    unexpected: "The server sent something else than expected.",
    failed: "The request failed with the status {status}.",
    retryAfter: "Try again {when}.",
};

/** Names for words of the server: of environments, kinds, states, and if you like of scopes. */
export const NAMES = {
    live: "Live", test: "Test", secret: "Secret", publishable: "Publishable",
    active: "Active", replaced: "Replaced", disabled: "Disabled", idle: "Disabled, not used", expired: "Expired", revoked: "Revoked",
};

const UNITS = [["year", 31_557_600], ["month", 2_629_800], ["day", 86_400], ["hour", 3600], ["minute", 60], ["second", 1]];

export class Words {
    constructor({ names, ...texts }, lang) {
        this.texts = { ...TEXTS, ...texts };
        this.names = new Map(Object.entries({ ...NAMES, ...names }));
        try {
            [this.lang] = Intl.getCanonicalLocales(lang);
        } catch {
            this.lang = undefined;
        }
    }

    say(name, values = {}) {
        return this.#pieces(name, values).join("");
    }

    /** Nodes. The direction in which a value is read does not change that of the text around it. */
    phrase(name, values) {
        return this.#pieces(name, values, (value) => h("bdi", null, value));
    }

    #pieces(name, values, made = (value) => value) {
        return String(this.texts[name]).split(/(\{\w+\})/).map((piece) => {
            const value = piece.startsWith("{") ? values[piece.slice(1, -1)] : null;
            return value == null ? piece : made(value);
        });
    }

    name(word) {
        return this.names.get(word) ?? word;
    }

    label(key) {
        return key.label || this.say("unnamed");
    }

    number(value) {
        return new Intl.NumberFormat(this.lang).format(value);
    }

    date(time, options = { dateStyle: "medium" }) {
        return new Intl.DateTimeFormat(this.lang, options).format(time);
    }

    /** A time in the browser's zone, with the exact one in UTC as its title. */
    moment(iso, write = (time) => this.date(time)) {
        const time = new Date(iso ?? NaN);
        if (isNaN(time)) return this.say("never");
        const title = time.toISOString().replace("T", " ").replace(/\.\d+Z/, " UTC");
        return h("time", { datetime: iso, title }, write(time));
    }

    exact(iso) {
        return this.moment(iso, (time) => this.date(time, { dateStyle: "medium", timeStyle: "short" }));
    }

    distance(iso) {
        return this.moment(iso, (time) => this.inSeconds((time - Date.now()) / 1000));
    }

    inSeconds(seconds) {
        const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? UNITS.at(-1);
        return new Intl.RelativeTimeFormat(this.lang, { numeric: "auto" }).format(Math.round(seconds / size), unit);
    }
}
