// <keysmith-portal base="/v1/keys">: a page on which customers manage their API keys. See README.md.

import { request } from "./parts/api.js";
import { open, showSecret } from "./parts/dialogs.js";
import { button, h } from "./parts/dom.js";
import { fields, graces, values } from "./parts/forms.js";
import { keyList } from "./parts/list.js";
import { style } from "./parts/style.js";
import { UsageSection } from "./parts/usage.js";
import { Words } from "./parts/words.js";

const PER_PAGE = 20;

export class KeysmithPortal extends HTMLElement {
    static observedAttributes = ["base", "usage", "logs", "lang"];

    #words;
    #texts = {};
    #headers = null;
    #isDue = false;
    #parts = null;
    #usage = null;
    #reading = null;
    #isSignedOut = false;
    // What is seen of the list
    #page = 1;
    #total = 0;
    #revoked = false;
    #opened = new Set();
    #fresh = null;

    constructor() {
        super();
        this.attachShadow({ mode: "open" }).adoptedStyleSheets = [style];
        // A property that was set before the class was known hides the accessor of its name.
        for (const name of ["texts", "headers"].filter((name) => Object.hasOwn(this, name))) {
            const value = this[name];
            delete this[name];
            this[name] = value;
        }
    }

    /** Texts in place of the usual ones, by their names in parts/words.js; and `names`, for words of the server. */
    get texts() {
        return this.#texts;
    }

    set texts(texts) {
        // A framework may set an equal object each time that it renders.
        if (JSON.stringify(texts) === JSON.stringify(this.#texts)) return;
        this.#texts = { ...texts };
        this.#drawSoon();
    }

    /** Headers of each request: an object, or a function of {method, url} that returns one or promises it. */
    get headers() {
        return this.#headers;
    }

    set headers(headers) {
        this.#headers = headers;
        if (this.#isSignedOut) this.reload();
    }

    connectedCallback() {
        addEventListener("pagehide", this.#forget);
        this.#drawSoon();
    }

    disconnectedCallback() {
        removeEventListener("pagehide", this.#forget);
        this.#stop();
        this.#parts = null;
    }

    attributeChangedCallback(name, before, after) {
        if (before !== after) this.#drawSoon();
    }

    /** Reads keys and usage again. */
    async reload() {
        if (this.#parts && await this.#readKeys()) await this.#usage?.read();
    }

    #stop() {
        this.#reading?.abort();
        this.#usage?.stop();
        this.#forget();
    }

    // A page that is left, and perhaps kept for going back to it, shows no key.
    #forget = () => {
        for (const dialog of this.shadowRoot.querySelectorAll("dialog")) {
            dialog.close();
            dialog.remove();
        }
    };

    #drawSoon() {
        if (this.#isDue) return;
        this.#isDue = true;
        const draw = () => {
            // A dialog, which may show a key, is not taken away.
            const dialog = this.shadowRoot.querySelector("dialog");
            if (dialog) return dialog.addEventListener("close", draw, { once: true });
            this.#isDue = false;
            if (this.isConnected) this.#draw();
        };
        // The script that imports this module goes on first, and may set properties.
        queueMicrotask(draw);
    }

    #draw() {
        this.#stop();
        const words = this.#words = new Words(this.#texts, this.closest("[lang]")?.lang || navigator.language);
        this.#page = 1;
        this.#parts = {
            title: h("h2", { id: "title", tabindex: "-1" }, h("slot", { name: "title" }, words.say("title"))),
            problem: h("div", { class: "problem", role: "alert", hidden: true }),
            keys: h("div", { "aria-busy": "true" }, h("p", { class: "loading quiet" }, words.say("loading"))),
            status: h("div", { class: "hidden", role: "status" }),
        };
        const { title, problem, keys, status } = this.#parts;
        this.#usage = new UsageSection(words, (name, query, signal) => {
            const path = this.getAttribute(name) ?? this.#base.replace(/[^/]*$/, name);
            return path && this.#ask("GET", path, { query, signal });
        });
        this.shadowRoot.replaceChildren(
            h("section", { part: "keys", "aria-labelledby": "title" },
                h("div", { class: "head" },
                    h("div", null, title, h("p", { class: "quiet" }, h("slot", { name: "intro" }, words.say("intro")))),
                    button("primary", () => this.#create(), {}, words.say("create"))),
                problem, keys),
            this.#usage.node, status);
        this.reload();
    }

    // Requests

    get #base() {
        return (this.getAttribute("base") ?? "/v1/keys").replace(/\/+$/, "");
    }

    #of(key, act = "") {
        return `${this.#base}/${encodeURIComponent(key.key_id)}${act}`;
    }

    async #ask(method, path, { query, body, signal } = {}) {
        const url = new URL(path, document.baseURI);
        for (const [name, value] of Object.entries(query ?? {})) url.searchParams.set(name, value);
        try {
            return await request(this.#words, this.#headers, method, url, body, signal);
        } catch (error) {
            if (error.status === 401 && !this.#isSignedOut) {
                this.#isSignedOut = true;
                this.#tell("signed-out");
            }
            throw error;
        }
    }

    #tell(name, detail) {
        this.dispatchEvent(new CustomEvent(`keysmith-${name}`, { detail, bubbles: true, composed: true }));
    }

    // The list

    /** Whether it could be read. */
    async #readKeys() {
        const { keys } = this.#parts;
        this.#reading?.abort();
        const { signal } = this.#reading = new AbortController();
        keys.setAttribute("aria-busy", "true");
        try {
            const query = { page: this.#page, per_page: PER_PAGE, ...(this.#revoked && { include_revoked: true }) };
            const answer = await this.#ask("GET", this.#base, { query, signal });
            if (!Array.isArray(answer.keys) || !Number.isInteger(answer.total)) throw new Error(this.#words.say("unexpected"));
            const last = Math.max(1, Math.ceil(answer.total / PER_PAGE));
            if (this.#page > last) {
                this.#page = last;
                return await this.#readKeys();
            }
            this.#total = answer.total;
            this.#isSignedOut = false;
            this.#usage.name(answer.keys);
            this.#show(() => keys.replaceChildren(...this.#list({ ...answer, page: this.#page, limit: PER_PAGE })));
            return true;
        } catch (error) {
            if (!signal.aborted) this.#show(() => keys.querySelector(".loading")?.remove(), error);
            return false;
        }
    }

    #list(answer) {
        const turn = (page) => {
            this.#page = page;
            this.#readKeys();
        };
        return keyList(this.#words, answer, {
            opened: this.#opened, fresh: this.#fresh, revoked: this.#revoked, turn,
            showRevoked: (shown) => {
                this.#revoked = shown;
                turn(1);
            },
            edit: (key) => this.#edit(key), rotate: (key) => this.#rotate(key),
            toggle: (key) => this.#toggle(key), revoke: (key) => this.#revoke(key),
        });
    }

    /** Changes what is shown, and leaves the focus where it was, or near it. */
    #show(change, error = null) {
        const { keys, problem, title } = this.#parts, name = this.shadowRoot.activeElement?.dataset.focus;
        keys.removeAttribute("aria-busy");
        change();
        problem.hidden = !error;
        problem.replaceChildren(...(error ? [h("span", null, error.message),
            button(null, () => this.reload(), { "data-focus": "retry" }, this.#words.say("retry"))] : []));
        if (error) problem.scrollIntoView({ block: "nearest" });
        if (!name) return;
        const place = (name) => this.shadowRoot.querySelector(`[data-focus="${CSS.escape(name)}"]`);
        (place(name) ?? place(name.replace(/\w+$/, "manage")) ?? title).focus();
    }

    // Acts

    #form(text, key, { action = text, more, cancel = "cancel", ...rest }) {
        const words = this.#words;
        open(this.shadowRoot, { title: words.phrase(text, { label: key && words.label(key) }), more: more && words.say(more),
            action: words.say(action), cancel: words.say(cancel), ...rest });
    }

    #create() {
        this.#form("create", null, {
            body: fields(this.#words, (name) => this.getAttribute(name)),
            submit: async (form) => {
                const key = await this.#ask("POST", this.#base, { body: values(this.#words, form) });
                // The list begins with the oldest.
                this.#page = Math.ceil((this.#total + 1) / PER_PAGE);
                this.#fresh = key.key_id;
                return () => this.#done("created", key);
            },
        });
    }

    #edit(key) {
        this.#form("editTitle", key, {
            action: "save", body: fields(this.#words, (name) => this.getAttribute(name), key),
            submit: async (form) => {
                const body = values(this.#words, form, key);
                if (!Object.keys(body).length) return null;
                const changed = await this.#ask("PATCH", this.#of(key), { body });
                return () => this.#done("changed", changed);
            },
        });
    }

    #rotate(key) {
        this.#form("rotateTitle", key, {
            action: "rotate", more: "rotateMore", body: graces(this.#words),
            submit: async (form) => {
                const body = { grace: new FormData(form).get("grace") };
                const successor = await this.#ask("POST", this.#of(key, "/rotate"), { body });
                this.#fresh = successor.key_id;
                return () => this.#done("rotated", { ...successor, rotated_from: key.key_id });
            },
        });
    }

    #revoke(key) {
        this.#form("revokeTitle", key, {
            action: "revoke", more: "revokeMore", cancel: "keep", look: "danger",
            submit: async () => {
                const revoked = await this.#ask("DELETE", this.#of(key));
                return () => this.#done("revoked", revoked);
            },
        });
    }

    async #toggle(key) {
        const act = key.status === "active" ? "disable" : "enable";
        try {
            await this.#done(`${act}d`, await this.#ask("POST", this.#of(key, `/${act}`)));
        } catch (error) {
            if (this.#parts) this.#show(() => {}, error);
        }
    }

    /** Tells the page, shows the key if it is new, and then reads the list. */
    async #done(what, { api_key: apiKey, ...key }) {
        this.#tell(what, key);
        if (!this.#parts) return;
        const { keys, status } = this.#parts;
        status.replaceChildren();
        keys.setAttribute("aria-busy", "true");
        if (apiKey) await showSecret(this.shadowRoot, this.#words, apiKey);
        await this.reload();
        status.replaceChildren(this.#words.say(`was${what[0].toUpperCase()}${what.slice(1)}`));
    }
}

if (!customElements.get("keysmith-portal")) customElements.define("keysmith-portal", KeysmithPortal);
