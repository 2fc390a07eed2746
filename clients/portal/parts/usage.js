// The section below the keys: a chart of requests, and the latest of them.

import { chart, table } from "./chart.js";
import { button, h } from "./dom.js";

const PER_PAGE = 100;
// A service may do without these endpoints. Who is signed out is told so above.
const NO_PROBLEM = [401, 404, 405];

export class UsageSection {
    #words;
    #ask;
    #per = "day";
    #labels = new Map();
    #logs = [];
    #page = 1;
    #reading;
    #problems = new Map();

    /** `ask` asks the endpoint `usage` or `logs`, or returns nothing if the page wants none. */
    constructor(words, ask) {
        this.#words = words;
        this.#ask = ask;
        this.problem = h("p", { class: "problem", role: "alert", hidden: true });
        this.chart = h("div");
        this.rows = h("div");
        this.older = button(null, () => this.#readLogs(this.#page + 1), {}, words.say("older"));
        this.summary = h("summary", null, words.say("recent"));
        this.recent = h("details", { hidden: true }, this.summary, this.rows, this.older);
        const choice = (value, text) => h("label", null, h("input", { type: "radio", name: "period", value, checked: value === this.#per,
            change: () => this.#readChart(value) }), words.say(text));
        this.node = h("section", { class: "usage", part: "usage", "aria-labelledby": "usage", hidden: true },
            h("div", { class: "head" }, h("h3", { id: "usage" }, words.say("usage")),
                h("div", { class: "segments", role: "radiogroup", "aria-label": words.say("period") },
                    choice("day", "perDay"), choice("hour", "perHour"))),
            this.problem, this.chart, this.recent);
    }

    /** Takes the names of keys for the list of requests, which may be there already. */
    name(keys) {
        for (const key of keys) this.#labels.set(key.key_id, this.#words.label(key));
        this.#showLogs();
    }

    stop() {
        this.#reading?.abort();
    }

    async read() {
        this.stop();
        this.#reading = new AbortController();
        this.#logs = [];
        await Promise.all([this.#readChart(this.#per), this.#readLogs(1)]);
    }

    async #readChart(per) {
        this.#per = per;
        const answer = await this.#answer("usage", { per, all_keys: true });
        if (!answer || per !== this.#per) return;
        this.chart.replaceChildren(...chart(this.#words, answer.data, per, this.chart.querySelector("details")?.open));
    }

    async #readLogs(page) {
        const answer = await this.#answer("logs", { page, per_page: PER_PAGE, all_keys: true });
        if (!answer) return;
        this.#page = page;
        // Requests without a key are those of a person: mostly this page's own. While new ones arrive, a page
        // begins with what was on the one before.
        const known = new Set(this.#logs.map((log) => log.request_id));
        this.#logs.push(...answer.data.filter((log) => log.key_id && !known.has(log.request_id)));
        const hasFocus = this.older.matches(":focus");
        this.older.hidden = !(page * PER_PAGE < answer.meta?.total);
        if (hasFocus && this.older.hidden) this.summary.focus();
        this.recent.hidden = false;
        this.#showLogs();
    }

    #showLogs() {
        const words = this.#words, heads = ["time", "key", "request", "answer"].map((name) => words.say(name));
        const rows = this.#logs.map((log) => [
            words.exact(log.at), h("bdi", null, this.#labels.get(log.key_id) ?? log.key_id),
            h("span", { class: "mono" }, [log.method, log.endpoint].filter(Boolean).join(" ")),
            [log.status, log.outcome === "ok" ? null : log.outcome].filter(Boolean).join(" ")]);
        this.rows.replaceChildren(rows.length ? table(words.say("recent"), heads, rows) : h("p", { class: "quiet" }, words.say("noRecent")));
    }

    /** An answer with data, or nothing. */
    async #answer(name, query) {
        const { signal } = this.#reading;
        let answer = null, problem = null;
        try {
            answer = await this.#ask(name, query, signal);
            if (answer && !Array.isArray(answer.data)) throw new Error(this.#words.say("unexpected"));
        } catch (error) {
            answer = null;
            problem = NO_PROBLEM.includes(error.status) ? null : error.message;
        }
        if (signal.aborted) return null;
        if (answer || problem) this.node.hidden = false;
        this.#tell(name, problem);
        return answer;
    }

    /** The two endpoints may have the same problem. */
    #tell(name, problem) {
        this.#problems.set(name, problem);
        const [told] = [...this.#problems.values()].filter(Boolean);
        this.problem.replaceChildren(h("span", null, told ?? ""));
        this.problem.hidden = !told;
    }
}
