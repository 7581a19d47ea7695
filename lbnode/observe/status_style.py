"""The style sheet of the status page: light and dark by the reader's choice, rows as blocks on a narrow screen."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --line: #d5dae1; --text: #1b2430; --dim: #55606e; --link: #0b5cad;
  --good: #14683a; --good-back: #e2f4e9; --fair: #7a4b00; --fair-back: #fdf0d5; --bad: #a11d1d; --bad-back: #fde6e4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11161d; --card: #1a212b; --line: #323d4b; --text: #e4e9f0; --dim: #a3afbd; --link: #7db8f7;
    --good: #7fdca4; --good-back: #12351f; --fair: #f3c46b; --fair-back: #3b2c0c; --bad: #ff9c94; --bad-back: #451b19;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.5rem; }
h2 { margin: 2rem 0 .6rem; font-size: 1.15rem; }
header p, footer { margin: .2rem 0; color: var(--dim); }
footer { margin-top: 2.5rem; padding-top: .8rem; border-top: 1px solid var(--line); font-size: .9rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
ul { margin: 0; padding: 0; list-style: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .7rem; margin-top: 1rem; }
.cards li { padding: .7rem .9rem; background: var(--card); border: 1px solid var(--line); border-left: .35rem solid; border-radius: .4rem; }
.cards strong { display: block; font-size: 1.4rem; }
.cards span { color: var(--dim); }
.cards .good { border-left-color: var(--good); }
.cards .bad { border-left-color: var(--bad); }
.cards .bad strong { color: var(--bad); }
.troubles li { padding: .45rem .8rem; margin: .3rem 0; background: var(--bad-back); border-left: .25rem solid var(--bad); border-radius: .2rem; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .4rem; }
table { width: 100%; border-collapse: collapse; font-size: .93rem; }
th, td { padding: .5rem .8rem; text-align: left; vertical-align: top; unicode-bidi: isolate; }
thead th { color: var(--dim); font-weight: 600; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody th { min-width: 10rem; font-weight: 600; }
td { min-width: 8rem; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.plain li + li { margin-top: .25rem; }
.badge { display: inline-block; padding: 0 .5em; border-radius: .8em; white-space: nowrap; font-weight: 600; font-size: .88em; }
.good.badge { color: var(--good); background: var(--good-back); }
.fair.badge { color: var(--fair); background: var(--fair-back); }
.bad.badge { color: var(--bad); background: var(--bad-back); }
time { white-space: nowrap; }
@media (max-width: 46rem) {
  body { padding: .7rem; }
  .scroll { overflow: visible; background: none; border: 0; }
  table, tbody, tr { display: block; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tbody tr { margin-bottom: .7rem; padding: .3rem 0; background: var(--card); border: 1px solid var(--line); border-radius: .4rem; }
  tbody tr + tr > * { border-top: 0; }
  td, tbody th { display: grid; grid-template-columns: 7.5rem 1fr; gap: .6rem; min-width: 0; padding: .25rem .8rem; }
  td::before, tbody th::before { content: attr(data-label); color: var(--dim); font-weight: 400; }
}
"""
