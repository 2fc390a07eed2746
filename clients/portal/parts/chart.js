// Requests by day or hour: a picture, and the same numbers as a table.

import { h, svg } from "./dom.js";

const HOUR = 3_600_000;
const SPANS = { day: { step: 24 * HOUR, bars: 30 }, hour: { step: HOUR, bars: 24 } };
const WIDTH = 10, HEIGHT = 100;

/** `rows` are the data of the endpoint. The server leaves out days and hours without requests. */
export function chart(words, rows, per, tableIsOpen) {
    const bars = filled(rows, per), high = top(bars), sum = (of) => words.number(bars.reduce((all, bar) => all + of(bar), 0));
    const sums = { requests: sum((bar) => bar.requests), accepted: sum((bar) => bar.requests - bar.refused), refused: sum((bar) => bar.refused) };
    // Days are those of UTC, hours are shown in the browser's zone.
    const time = (options) => (bar) => words.date(bar.at, per === "day" ? { timeZone: "UTC", ...options } : options);
    const named = time(per === "day" ? { dateStyle: "medium" } : { dateStyle: "short", timeStyle: "short" });
    const short = time(per === "day" ? { month: "short", day: "numeric" } : { timeStyle: "short" });
    const hidden = { "aria-hidden": "true" };
    return [
        h("dl", { class: "sums number" }, Object.entries(sums).map(([name, value]) =>
            h("div", null, h("dt", { class: name }, words.say(name)), h("dd", null, value)))),
        h("figure", { class: "plot number", part: "chart" }, picture(words, bars, high, named, words.say("usageSummary", sums)),
            h("div", { class: "scale", ...hidden }, [high, high / 2, 0].map((value) => h("span", null, words.number(value)))),
            h("div", { class: "axis", ...hidden }, [bars[0], bars[bars.length >> 1], bars.at(-1)].map((bar) => h("span", null, short(bar))))),
        h("details", { open: tableIsOpen }, h("summary", null, words.say("asTable")),
            table(words.say("usage"), [per, "requests", "refused"].map((name) => words.say(name === "hour" ? "time" : name)),
                bars.toReversed().map((bar) => [named(bar), words.number(bar.requests), words.number(bar.refused)]), "number")),
    ];
}

function filled(rows, per) {
    const { step, bars } = SPANS[per], last = Math.floor(Date.now() / step) * step;
    const found = new Map(rows.map((row) => [Date.parse(row.at), row]));
    return Array.from({ length: bars }, (_, index) => {
        const at = last - (bars - 1 - index) * step, row = found.get(at);
        return { at, requests: Number(row?.requests) || 0, refused: Number(row?.refused) || 0 };
    });
}

/** A round and even number, at least as high as the highest bar. */
function top(bars) {
    const most = Math.max(2, ...bars.map((bar) => bar.requests)), power = 10 ** Math.floor(Math.log10(most));
    return [1, 2, 4, 6, 8, 10].map((digit) => digit * power).find((value) => value >= most && value % 2 === 0);
}

/** As a whole it has a summary; its parts have tooltips. Refused requests are striped, not only of another colour. */
function picture(words, bars, high, named, summary) {
    const bar = (counts, index) => {
        const scale = HEIGHT / high, all = counts.requests * scale, no = counts.refused * scale, x = index * WIDTH;
        const rect = (name, y, height) => svg("rect", { class: name, x: x + 1.5, y, width: WIDTH - 3, height });
        const told = words.say("usageSummary", { requests: words.number(counts.requests), refused: words.number(counts.refused) });
        return svg("g", null, svg("title", null, `${named(counts)}: ${told}`),
            svg("rect", { class: "hit", x, y: 0, width: WIDTH, height: HEIGHT }),
            rect("ok", HEIGHT - all + no, Math.max(0, all - no)), no > 0 && rect("no", HEIGHT - all, no));
    };
    const width = bars.length * WIDTH;
    return svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": summary },
        svg("pattern", { id: "stripes", width: 2, height: 2, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
            svg("line", { class: "stripe", y2: 2 })),
        [0, HEIGHT / 2].map((y) => svg("line", { x2: width, y1: y, y2: y })), bars.map(bar));
}

/** In a box that takes the focus, so that the keyboard scrolls it. `look` is for all columns but the first. */
export function table(caption, heads, rows, look = null) {
    const cell = (name, scope) => (content, index) => h(index ? name : "th", { class: index ? look : null, scope: scope ?? (index ? null : "row") }, content);
    return h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
        h("table", { class: "plainly", part: "table" }, h("caption", { class: "hidden" }, caption),
            h("thead", null, h("tr", null, heads.map(cell("th", "col")))),
            h("tbody", null, rows.map((row) => h("tr", null, row.map(cell("td")))))));
}
