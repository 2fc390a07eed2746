// Making nodes. Strings become text nodes, so what the server sent is never read as markup.

export function h(name, attributes, ...children) {
    return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes, ...children) {
    return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

/** A button. `look` is "primary", "danger", "plain" or nothing. */
export function button(look, act, attributes, ...children) {
    const part = ["primary", "danger"].includes(look) ? `button ${look}` : "button";
    return h("button", { type: "button", class: look || null, part, click: act, ...attributes }, children);
}

/** A function is a listener; true is an attribute without a value; null and false are none. */
function filled(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
        if (typeof value === "function") node.addEventListener(name, value);
        else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
    return node;
}
