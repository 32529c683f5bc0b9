"""The look of a page: one style sheet, light and dark, that loads nothing."""

CSS = """
:root { color-scheme: light dark;
  --paper: #fbfbf9; --card: #ffffff; --ink: #1d2430; --soft: #667085;
  --rule: #e4e6eb; --accent: #0b6e63; --tint: #e8f3f1; --shadow: 0 1px 3px #1d243014; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171c; --card: #1c2027; --ink: #e8eaee; --soft: #98a2b3;
  --rule: #2d333d; --accent: #5cc8b8; --tint: #1d302e; --shadow: none; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 3.2rem 1.4rem 4rem; }
h1 { font-size: 2.1rem; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 0.5rem; }
h2 { font-size: 1.25rem; letter-spacing: -0.01em; margin: 3rem 0 0.4rem; }
h3 { font-size: 1rem; margin: 0; }
p { max-width: 44rem; margin: 0.4rem 0 1rem; }
.lead { font-size: 1.08rem; color: var(--soft); }
.soft { color: var(--soft); font-size: 0.9rem; }
code { font: 0.88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.cards { display: flex; flex-wrap: wrap; gap: 0.9rem; margin: 1.6rem 0 0.5rem; }
.card { flex: 1 1 10rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; padding: 0.9rem 1.1rem; box-shadow: var(--shadow); }
.card b { display: block; font-size: 1.6rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; letter-spacing: -0.02em; }
.card span { color: var(--soft); font-size: 0.86rem; }
.task { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 1rem 1.2rem 1.1rem; margin: 0.9rem 0; box-shadow: var(--shadow); }
.task > p { margin: 0 0 0.8rem; }
.rows { display: grid; gap: 0.9rem 2.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.row { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 8.2rem);
  gap: 0.7rem; }
figure { margin: 0; }
figure img { width: 100%; display: block; image-rendering: pixelated;
  border-radius: 4px; background: #808080; border: 1px solid var(--rule); }
figure .words { aspect-ratio: 1; display: grid; place-items: center; font-size: 0.9rem;
  color: var(--soft); text-align: center; }
figcaption { font-size: 0.8rem; line-height: 1.35; margin-top: 0.35rem; }
figcaption span { display: block; color: var(--soft);
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.45rem 0.8rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child, th.text, td.text { text-align: left; }
th { color: var(--soft); font-weight: 600; font-size: 0.82rem; }
td.best { color: var(--accent); font-weight: 650; }
tr.first td { border-top: 2px solid var(--rule); }
.settings td { white-space: normal; text-align: left; vertical-align: top; }
.settings td:first-child { color: var(--soft); width: 13rem; }
svg { display: block; width: 100%; height: auto; margin-top: 0.5rem; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
details { margin: 0.8rem 0; } summary { cursor: pointer; color: var(--accent); }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 0.9rem 1.1rem; overflow-x: auto; font-size: 0.82rem; line-height: 1.45; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
@media print { body { background: white; } .task, .card { break-inside: avoid; } }
"""
