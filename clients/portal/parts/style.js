// One constructed style sheet: a Content-Security-Policy without 'unsafe-inline' allows it.

export const style = new CSSStyleSheet();
style.replaceSync(`
:host {
    --_accent: var(--keysmith-accent, light-dark(#2450b8, #9dbcff));
    --_on-accent: var(--keysmith-on-accent, light-dark(#fff, #0c1733));
    --_danger: var(--keysmith-danger, light-dark(#b42318, #ff9c8f));
    --_good: var(--keysmith-good, light-dark(#1c7a4a, #6fd6a0));
    --_warn: var(--keysmith-warn, light-dark(#8f5a00, #f0b95b));
    --_surface: var(--keysmith-surface, Canvas);
    --_ink: var(--keysmith-ink, CanvasText);
    --_radius: var(--keysmith-radius, 8px);
    --_mono: var(--keysmith-mono, ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace);
    --_quiet: color-mix(in srgb, currentColor 68%, transparent);
    --_line: color-mix(in srgb, currentColor 14%, transparent);
    --_edge: color-mix(in srgb, currentColor 52%, transparent);
    --_wash: color-mix(in srgb, currentColor 4%, transparent);
    display: block;
    container-type: inline-size;
    line-height: 1.5;
    text-align: start;
}
:host([hidden]), [hidden] { display: none !important; }
*, ::before, ::after { box-sizing: border-box; }
h2, h3, p, dl, dd, fieldset, figure { margin: 0; padding: 0; border: 0; min-width: 0; }
:focus-visible { outline: 2px solid var(--_accent); outline-offset: 2px; }
h2:focus-visible, h3:focus-visible { outline: none; }
.hidden { position: absolute; inset-inline-start: 0; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.quiet { color: var(--_quiet); }
.mono { font-family: var(--_mono); font-size: .86em; overflow-wrap: anywhere; }
.number { font-variant-numeric: tabular-nums; }

/* The head of a section */
.head { display: flex; flex-wrap: wrap; gap: .75rem 1.5rem; align-items: center; justify-content: space-between; margin-block-end: 1.25rem; }
.head > :first-child { flex: 1 1 20rem; }
h2 { font-size: 1.4em; font-weight: 650; letter-spacing: -.012em; line-height: 1.25; text-wrap: balance; }
h3 { font-size: 1.1em; font-weight: 650; letter-spacing: -.006em; line-height: 1.3; }
.head p { margin-block-start: .3rem; max-width: 60ch; }

/* Buttons */
button {
    font: inherit; font-size: .92em; font-weight: 550; line-height: 1.25; color: inherit; cursor: pointer;
    padding: .5em .85em; border: 1px solid color-mix(in srgb, currentColor 24%, transparent); border-radius: var(--_radius);
    background: transparent; white-space: nowrap; transition: background-color .12s;
}
button:hover { background: color-mix(in srgb, currentColor 7%, transparent); }
button.primary { background: var(--_accent); border-color: var(--_accent); color: var(--_on-accent); }
button.primary:hover { background: color-mix(in srgb, var(--_accent) 86%, var(--_ink)); }
button.danger { color: var(--_danger); }
dialog button.danger { background: var(--_danger); border-color: var(--_danger); color: var(--_surface); }
dialog button.danger:hover { background: color-mix(in srgb, var(--_danger) 86%, var(--_ink)); }
button[aria-disabled="true"] { opacity: .5; cursor: default; }
button.plain { border-color: transparent; }
button.plain::after {
    content: ""; display: inline-block; width: .42em; height: .42em; margin-inline-start: .6em; translate: 0 -.14em; rotate: 45deg;
    border: solid currentColor; border-width: 0 1.5px 1.5px 0;
}
button.plain[aria-expanded="true"]::after { translate: 0 .1em; rotate: 225deg; }

/* The table of keys */
table { width: 100%; border-collapse: collapse; }
th { font-weight: 550; text-align: start; }
thead th { font-size: .84em; color: var(--_quiet); padding-block: 0 .5rem; padding-inline: 0 1rem; white-space: nowrap; }
tbody td, tbody th { padding-block: .8rem; padding-inline: 0 1rem; vertical-align: middle; border-block-start: 1px solid var(--_line); }
tr > :last-child { padding-inline-end: 0; }
.keys > tbody:last-child { border-block-end: 1px solid var(--_line); }
.keys tr > :last-child { text-align: end; }
.keys th bdi { font-weight: 600; overflow-wrap: anywhere; }
.keys th .mono { display: block; color: var(--_quiet); font-weight: 400; }
.keys td { font-size: .93em; }
.keys .access { width: 28%; min-width: 12rem; }
.keys .access > * { display: block; }
.keys .access > .mono { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; }
.keys .ended bdi { color: var(--_quiet); font-weight: 500; }
.new { font-size: .78em; font-weight: 600; color: var(--_accent); border: 1px solid currentColor; border-radius: 1em; padding: .05em .55em; margin-inline-start: .5em; }
.status { display: inline-flex; gap: .5em; align-items: center; white-space: nowrap; }
.status::before { content: ""; width: .55em; height: .55em; border-radius: 50%; background: var(--_good); flex: none; }
.status.off::before { background: none; border: 2px solid var(--_warn); }
.status.over::before { border-radius: 1px; background: var(--_quiet); height: 2px; }
.status.soon::before { background: linear-gradient(90deg, var(--_warn) 50%, transparent 50%); border: 1.5px solid var(--_warn); }
.keys tr.details > td { padding: 0 0 1.25rem; border: 0; text-align: start; }
.panel { background: var(--_wash); border-radius: var(--_radius); padding: 1.1rem 1.25rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .9rem 1.5rem; }
.facts dt { font-size: .86em; color: var(--_quiet); }
.facts dd { overflow-wrap: anywhere; }
.actions { display: flex; flex-wrap: wrap; gap: .5rem; margin-block-start: 1.2rem; }
.actions .danger { margin-inline-start: auto; }
.foot { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: center; justify-content: space-between; min-height: 2.4rem; margin-block-start: .75rem; font-size: .93em; }
.pages { display: flex; gap: .75rem; align-items: center; }
.check { display: flex; gap: .55em; align-items: baseline; cursor: pointer; }
.check > input { flex: none; translate: 0 .12em; }
input[type="checkbox"], input[type="radio"] { width: 1.05em; height: 1.05em; margin: 0; accent-color: var(--_accent); }

/* Nothing to show, and problems */
.empty { display: grid; gap: .35rem; justify-items: center; text-align: center; padding: 3rem 1rem; border: 1px dashed color-mix(in srgb, currentColor 24%, transparent); border-radius: var(--_radius); }
.empty strong { font-weight: 600; }
.loading { padding: 2.5rem 0; }
.problem { scroll-margin: 1rem; display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: center; justify-content: space-between; margin-block-end: 1rem; padding: .7rem 1rem; border-radius: var(--_radius);
    border: 1px solid color-mix(in srgb, var(--_danger) 45%, transparent); background: color-mix(in srgb, var(--_danger) 8%, transparent); overflow-wrap: anywhere; }
.problem > span::before { content: "!" / ""; display: inline-grid; place-items: center; width: 1.25em; height: 1.25em; margin-inline-end: .6em; border-radius: 50%;
    background: var(--_danger); color: var(--_surface); font-weight: 700; font-size: .85em; line-height: 1; }

/* Dialogs */
dialog {
    width: min(32rem, 100vw - 2rem); max-height: calc(100dvh - 2rem); padding: 1.6rem; border: 1px solid var(--_line); border-radius: calc(var(--_radius) * 1.6);
    background: var(--_surface); color: var(--_ink); box-shadow: 0 24px 60px -12px rgb(0 0 0 / .4), 0 4px 12px rgb(0 0 0 / .12); overflow: auto;
}
dialog::backdrop { background: rgb(8 12 20 / .5); }
dialog h2 { font-size: 1.2em; overflow-wrap: anywhere; }
dialog h2 + p { margin-block-start: .5rem; color: var(--_quiet); }
.fields { display: grid; gap: 1.1rem; margin-block: 1.25rem; }
.fields.pair { grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); margin: 0; }
.field { display: grid; gap: .35rem; align-content: start; }
.field > label, legend { font-size: .92em; font-weight: 600; padding: 0; }
.hint { font-size: .86em; color: var(--_quiet); }
.grace { margin-block-start: .8rem; }
fieldset .check { font-weight: 400; margin-block-start: .4rem; font-size: .95em; }
.field input:not([type="checkbox"], [type="radio"]), select, textarea {
    font: inherit; font-size: .95em; color: inherit; width: 100%; padding: .5em .7em; background: transparent; border: 1px solid var(--_edge); border-radius: var(--_radius);
}
select option { background: var(--_surface); color: var(--_ink); }
textarea { resize: vertical; min-height: 4.2em; }
.field .mono:is(input, textarea) { font-family: var(--_mono); font-size: .86em; }
[aria-invalid="true"]:not(fieldset) { border-color: var(--_danger) !important; box-shadow: 0 0 0 1px var(--_danger); }
.buttons { display: flex; flex-wrap: wrap; gap: .6rem; justify-content: end; margin-block-start: 1.4rem; }
.secret { display: flex; flex-wrap: wrap; gap: .5rem; align-items: start; margin-block: 1.1rem 0; }
.secret code { flex: 1 1 15rem; font-family: var(--_mono); font-size: .92em; padding: .65em .8em; border: 1px solid var(--_edge); border-radius: var(--_radius); background: var(--_wash);
    overflow-wrap: anywhere; user-select: all; }

/* Usage */
.usage { margin-block-start: 2.75rem; }
.usage .head { align-items: center; margin-block-end: .75rem; }
.segments { display: inline-flex; border: 1px solid color-mix(in srgb, currentColor 24%, transparent); border-radius: var(--_radius); padding: 2px; gap: 2px; }
.segments label { position: relative; cursor: pointer; font-size: .88em; font-weight: 550; padding: .3em .8em; border-radius: calc(var(--_radius) - 3px); }
.segments input { position: absolute; opacity: 0; inset: 0; width: 100%; height: 100%; cursor: pointer; }
.segments label:has(:checked) { background: color-mix(in srgb, currentColor 11%, transparent); }
.segments label:has(:focus-visible) { outline: 2px solid var(--_accent); outline-offset: 2px; }
.sums { display: flex; flex-wrap: wrap; gap: .25rem 2.25rem; margin-block-end: 1rem; }
.sums dt { font-size: .86em; color: var(--_quiet); display: flex; align-items: center; gap: .5em; }
.sums dt:not(.requests)::before { content: ""; width: .7em; height: .7em; border-radius: 2px; background: var(--_accent); }
.sums dt.refused:not(.requests)::before { background: repeating-linear-gradient(45deg, var(--_danger) 0 2px, transparent 2px 4px); border: 1px solid var(--_danger); }
.sums dd { font-size: 1.5em; font-weight: 600; letter-spacing: -.015em; line-height: 1.25; }
.plot { display: grid; grid-template-columns: 1fr auto; column-gap: .6rem; font-size: .8em; color: var(--_quiet); }
.plot svg { display: block; width: 100%; height: 9rem; overflow: visible; }
.plot .scale { display: flex; flex-direction: column; justify-content: space-between; text-align: end; line-height: 1; margin-block: -.5em; height: calc(9rem + 1em); }
.plot .axis { display: flex; justify-content: space-between; border-block-start: 1px solid var(--_edge); padding-block-start: .35rem; }
.plot line { stroke: currentColor; stroke-opacity: .2; vector-effect: non-scaling-stroke; }
.plot .ok { fill: var(--_accent); fill-opacity: .88; }
.plot .no { fill: url(#stripes); stroke: var(--_danger); vector-effect: non-scaling-stroke; }
.plot .stripe { stroke: var(--_danger); stroke-opacity: 1; vector-effect: none; }
.plot .hit { fill: transparent; }
.plot g:hover .hit { fill: color-mix(in srgb, currentColor 9%, transparent); }
details { margin-block-start: .9rem; }
summary { cursor: pointer; font-size: .92em; font-weight: 550; padding-block: .25rem; width: fit-content; border-radius: 4px; }
.scroll { overflow: auto; max-height: 22rem; margin-block-start: .5rem; }
.plainly { font-size: .9em; }
.plainly td, .plainly tbody th { padding-block: .4rem; font-weight: 400; }
.plainly .number { text-align: end; }

@container (max-width: 46rem) {
    .keys thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
    .keys, .keys tbody { display: block; }
    .keys tr { display: grid; grid-template-columns: 1fr auto; gap: .15rem 1rem; align-items: center; padding-block: .9rem; border-block-start: 1px solid var(--_line); }
    .keys tr > * { padding: 0; border: 0; }
    .keys tr > .last, .keys tr > .expires, .keys tr > .access { width: auto; min-width: 0; color: var(--_quiet); grid-column: 1; font-size: .88em; }
    .keys tr > .expires { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
    .keys tr > .access .mono { display: none; }
    .keys tr > .last::before { content: attr(data-label) ": " / ""; }
    .keys tr > .state { grid-column: 2; grid-row: 1; place-self: start end; }
    .keys tr > :last-child { grid-column: 2; grid-row: 2 / 4; align-self: end; }
    .keys tr.details { display: block; padding: 0; border: 0; }
    .keys tr.details > td { display: block; padding-block-end: 1rem; }
    .actions .danger { margin-inline-start: 0; }
}
dialog[open] { animation: enter .16s ease-out; }
@keyframes enter { from { opacity: 0; translate: 0 8px; } }
@media (prefers-reduced-motion: reduce) { * { transition: none !important; animation: none !important; } }
@media (forced-colors: active) {
    .status::before, .sums dt::before { forced-color-adjust: none; }
    .segments label:has(:checked) { outline: 2px solid Highlight; }
}
`);
