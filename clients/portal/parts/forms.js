// The fields of a key: what a form shows, and what it asks the server for.

import { h } from "./dom.js";

const USUAL = { environments: "live test", kinds: "secret publishable" };
const GRACES = [["0", "graceNow"], ["1 hour", "graceHour"], ["1 day", "graceDay"], ["7 days", "graceWeek"]];
const PLAIN = { spellcheck: "false", autocapitalize: "off", autocomplete: "off" };
let ids = 0;

function listed(text) {
    return (text ?? "").split(/[\s,]+/).filter(Boolean);
}

/** The fields for a new key, or for those values of a key that can be changed. `offers` returns the
    value of an attribute of the portal. */
export function fields(words, offers, key) {
    const label = h("input", { type: "text", value: key?.label, autocomplete: "off", autofocus: true });
    const expiry = h("input", { type: "date", value: day(key?.expires_at), min: day(Date.now()), max: "9999-12-31" });
    const networks = h("textarea", { rows: "2", class: "mono", ...PLAIN }, key?.allowlist?.join("\n"));
    return h("div", { class: "fields" },
        field(words, "label", label, "label", "labelHint"),
        !key && h("div", { class: "fields pair" }, choice(words, offers, "environment"), choice(words, offers, "kind")),
        scopes(words, listed(offers("scopes")), key?.scopes ?? []),
        field(words, "expires_at", expiry, "expires", "expiresHint"),
        field(words, "allowlist", networks, "networks", "networksHint"));
}

function field(words, name, control, text, hint) {
    const id = `field${ids += 1}`;
    control.id = id;
    control.name = name;
    if (hint) control.setAttribute("aria-describedby", `${id}hint`);
    return h("div", { class: "field" }, h("label", { for: id }, words.say(text)), control,
        hint && h("span", { class: "hint", id: `${id}hint` }, words.say(hint)));
}

/** A choice of one is no choice, and none leaves it to the server. */
function choice(words, offers, name) {
    const values = listed(offers(`${name}s`) ?? USUAL[`${name}s`]);
    if (values.length < 2) return values.map((value) => h("input", { type: "hidden", name, value }));
    return field(words, name, h("select", null, values.map((value) => h("option", { value }, words.name(value)))), name);
}

function scopes(words, offered, has) {
    if (!offered.length) {
        return field(words, "scopes", h("input", { type: "text", class: "mono", value: has.join(" "), ...PLAIN }), "scopes", "scopesHint");
    }
    // A scope that the key has and the page does not offer stays, unless somebody removes it.
    return h("fieldset", { class: "field" }, h("legend", null, words.say("scopes")), [...new Set([...offered, ...has])].map((scope) =>
        check(h("input", { type: "checkbox", name: "scopes", value: scope, checked: has.includes(scope) }),
            h("span", { class: "mono" }, scope), words.names.has(scope) && h("span", { class: "hint" }, words.name(scope)))));
}

/** How long a rotated key goes on. */
export function graces(words) {
    return h("fieldset", { class: "field grace" }, h("legend", { class: "hidden" }, words.say("rotateMore")), GRACES.map(([value, text]) => {
        const usual = value === "1 day";
        return check(h("input", { type: "radio", name: "grace", value, checked: usual, autofocus: usual }), words.say(text));
    }));
}

function check(...content) {
    return h("label", { class: "check" }, content);
}

/** The day in the browser's zone, as a field of type date has it. */
function day(time) {
    const date = new Date(time ?? NaN);
    return isNaN(date) ? "" : new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 10);
}

/** The arguments that a form has: all that are not empty, or those that differ from the key's. */
export function values(words, form, key) {
    const data = new FormData(form), text = (name) => (data.get(name) ?? "").trim() || null;
    const ends = text("expires_at"), boxes = form.querySelector("[name=scopes][type=checkbox]") !== null;
    const all = {
        label: text("label"), environment: text("environment"), kind: text("kind"),
        scopes: boxes ? data.getAll("scopes") : listed(text("scopes")),
        expires_at: ends && new Date(`${ends}T23:59:59`).toISOString(),
        allowlist: listed(text("allowlist")),
    };
    // A key without scopes may have every right: nobody gets one by forgetting the boxes.
    if (boxes && !all.scopes.length && key?.scopes.length !== 0) {
        throw Object.assign(new Error(words.say("scopesNeeded")), { field: "scopes" });
    }
    const isGiven = ([, value]) => value !== null && value.length !== 0;
    if (!key) return Object.fromEntries(Object.entries(all).filter(isGiven));
    const before = { label: key.label, scopes: key.scopes, allowlist: key.allowlist ?? [], expires_at: day(key.expires_at) };
    const after = { ...all, expires_at: ends ?? "" };
    return Object.fromEntries(Object.keys(before).filter((name) => JSON.stringify(before[name]) !== JSON.stringify(after[name]))
        .map((name) => [name, all[name]]));
}
