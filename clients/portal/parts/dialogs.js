// The dialogs. Each is made when it opens and removed when it closes, with all that was in it.

import { button, h } from "./dom.js";

let ids = 0;

/** Opens a modal dialog. It closes when the promise of `submit` is fulfilled, perhaps with a function
    to go on with, and shows what `submit` throws. */
export function open(root, { title, more, body, action, look = "primary", cancel, submit }) {
    const id = `title${ids += 1}`;
    const problem = h("p", { class: "problem", role: "alert", hidden: true });
    const accept = button(look, null, { type: "submit" }, action);
    const form = h("form", { method: "dialog", novalidate: true, submit: submitted },
        h("h2", { id }, title), more && h("p", null, more), body, problem,
        h("div", { class: "buttons" }, cancel && button(null, () => dialog.close(), {}, cancel), accept));
    const dialog = h("dialog", { part: "dialog", "aria-labelledby": id, close: () => dialog.remove() }, form);

    async function submitted(event) {
        event.preventDefault();
        if (accept.hasAttribute("aria-disabled")) return;
        accept.setAttribute("aria-disabled", "true");
        problem.hidden = true;
        form.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
        let next;
        try {
            // Half a date is no date, and would be sent as none.
            const bad = [...form.elements].find((field) => field.validity?.badInput);
            if (bad) throw Object.assign(new Error(bad.validationMessage), { field: bad.name });
            next = await submit?.(form);
        } catch (error) {
            return show(error);
        } finally {
            accept.removeAttribute("aria-disabled");
        }
        dialog.close();
        await next?.();
    }

    // The server begins its message with the name of the argument.
    function show({ message, field = /^\w*/.exec(message)[0] }) {
        problem.replaceChildren(h("span", null, message));
        problem.hidden = false;
        const wrong = [...form.elements].find(({ name }) => name && name === field);
        wrong?.setAttribute("aria-invalid", "true");
        (wrong ?? accept).focus();
    }

    root.append(dialog);
    dialog.showModal();
    return dialog;
}

/** Shows a new key, the only time that anybody sees it. Fulfilled when the dialog is closed. */
export function showSecret(root, words, apiKey) {
    const shown = h("code", { role: "textbox", "aria-readonly": "true", "aria-label": words.say("key"), tabindex: "0", translate: "no" }, apiKey);
    const note = h("p", { class: "hint", role: "status" });
    const copy = button(null, async () => {
        const done = await copied(shown);
        if (done) copy.replaceChildren(words.say("copied"));
        note.className = done ? "hidden" : "hint";
        note.replaceChildren(words.say(done ? "copied" : "copyFailed"));
    }, { autofocus: true }, words.say("copy"));
    const dialog = open(root, {
        title: words.say("secretTitle"), more: words.say("secretMore"), action: words.say("done"),
        body: [h("div", { class: "secret" }, shown, copy), note],
    });
    return new Promise((resolve) => dialog.addEventListener("close", () => {
        shown.replaceChildren();
        resolve();
    }));
}

async function copied(node) {
    try {
        await navigator.clipboard.writeText(node.textContent);
        return true;
    } catch {
        // A page without TLS has no clipboard of this kind.
        getSelection().setBaseAndExtent(node, 0, node, node.childNodes.length);
        return document.execCommand("copy");
    }
}
