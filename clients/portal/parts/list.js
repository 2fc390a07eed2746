// The list of keys: a table, and below each key what else is known of it and can be done with it.

import { button, h } from "./dom.js";

const COLUMNS = ["label", "access", "lastUsed", "expires", "status"];
const LOOKS = { active: "on", replaced: "soon", disabled: "off", idle: "off" };

/** `view` says which keys are opened and which one is new, and has the functions for what is asked. */
export function keyList(words, answer, view) {
    const head = (content) => h("th", { scope: "col", role: "columnheader" }, content);
    // Roles are said explicitly: on a narrow page rows are laid out as cards, and Safari then sees no table.
    const table = () => h("table", { class: "keys", part: "table", role: "table" },
        h("caption", { class: "hidden" }, words.say("title")),
        h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map((name) => head(words.say(name))),
            head(h("span", { class: "hidden" }, words.say("manage"))))),
        h("tbody", { role: "rowgroup" }, answer.keys.map((key) => rows(words, key, view))));
    const nothing = () => h("div", { class: "empty" }, h("strong", null, words.say("empty")),
        h("span", { class: "quiet" }, words.say("emptyMore")));
    return [answer.keys.length ? table() : nothing(), foot(words, answer, view)];
}

function foot(words, { keys, total, page, limit }, view) {
    const before = (page - 1) * limit, pages = Math.ceil(total / limit);
    const shown = { from: words.number(before + 1), to: words.number(before + keys.length), total: words.number(total) };
    const step = (name, to) => {
        const there = to >= 1 && to <= pages;
        return button(null, () => there && view.turn(to), { "aria-disabled": there ? null : "true", "data-focus": `page:${name}` },
            words.say(name));
    };
    return h("div", { class: "foot" },
        h("label", { class: "check" }, h("input", { type: "checkbox", checked: view.revoked, "data-focus": "revoked",
            change: (event) => view.showRevoked(event.target.checked) }), words.say("showRevoked")),
        pages > 1 && h("nav", { class: "pages", "aria-label": words.say("pages") },
            h("span", { class: "quiet number" }, words.say("page", shown)), step("previous", page - 1), step("next", page + 1)));
}

function rows(words, key, view) {
    const id = `details-${key.key_id}`, isOpen = view.opened.has(key.key_id);
    const cell = (name, ...content) => h("td", { role: "cell", class: name, "data-label": words.say("lastUsed") }, content);
    const details = h("tr", { class: "details", role: "row", id, hidden: !isOpen },
        h("td", { role: "cell", colspan: COLUMNS.length + 1 }, panel(words, key, view)));
    const manage = act(words, key, "manage", () => {
        details.hidden = !details.hidden;
        manage.setAttribute("aria-expanded", String(!details.hidden));
        view.opened[details.hidden ? "delete" : "add"](key.key_id);
    }, { look: "plain", "aria-expanded": String(isOpen), "aria-controls": id });
    return [
        h("tr", { role: "row", class: ["revoked", "expired"].includes(key.status) ? "ended" : null },
            h("th", { scope: "row", role: "rowheader" }, h("bdi", null, words.label(key)),
                key.key_id === view.fresh && h("span", { class: "new" }, words.say("isNew")),
                h("span", { class: "mono", id: `snippet-${key.key_id}` }, key.key_snippet)),
            cell("access", h("span", null, `${words.name(key.environment)} · ${words.name(key.kind)}`),
                h("span", { class: "mono quiet" }, scopes(words, key))),
            cell("last", words.distance(key.last_used_at)), cell("expires", words.moment(key.expires_at)),
            cell("state", state(words, key)), cell("do", manage)),
        details,
    ];
}

/** A button for a key. Keys may have the same label: the end of the key, as a description, tells them apart. */
function act(words, key, name, perform, { look, text = name, ...attributes } = {}) {
    return button(look, perform, {
        "aria-label": words.say("actOn", { act: words.say(text), label: words.label(key) }),
        "aria-describedby": `snippet-${key.key_id}`, "data-focus": `${key.key_id}:${name}`, ...attributes,
    }, words.say(text));
}

function scopes(words, key) {
    return key.scopes?.length ? key.scopes.join(", ") : words.say("scopesDefault");
}

function state(words, key) {
    const status = key.rotated_to && key.status === "active" ? "replaced" : key.status;
    return h("span", { class: `status ${LOOKS[status] ?? "over"}`, part: "status" }, words.name(status));
}

function panel(words, key, view) {
    const mono = (text) => text && h("span", { class: "mono" }, text), isActive = key.status === "active";
    const facts = {
        id: mono(key.display_id ?? key.key_id), prefix: mono(key.key_prefix), scopes: mono(scopes(words, key)),
        networks: key.allowlist?.length ? mono(key.allowlist.join(", ")) : words.say("anywhere"),
        created: words.exact(key.created_at), lastUsed: words.exact(key.last_used_at), expires: words.exact(key.expires_at),
        role: key.role, owner: key.owner && h("bdi", null, key.owner),
        revokedAt: key.revoked_at && words.exact(key.revoked_at), reason: key.revoked_at && h("bdi", null, key.revoked_reason),
    };
    return h("div", { class: "panel", part: "details" },
        h("dl", { class: "facts" }, Object.entries(facts).filter(([, fact]) => fact).map(([name, fact]) =>
            h("div", null, h("dt", null, words.say(name)), h("dd", null, fact)))),
        key.status !== "revoked" && h("div", { class: "actions" },
            act(words, key, "edit", () => view.edit(key)),
            isActive && !key.rotated_to && act(words, key, "rotate", () => view.rotate(key)),
            key.status !== "expired" && act(words, key, "toggle", () => view.toggle(key), { text: isActive ? "disable" : "enable" }),
            act(words, key, "revoke", () => view.revoke(key), { look: "danger" })));
}
