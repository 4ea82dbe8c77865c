"""The look of the HTML report: light and dark, from a phone's width up, and heat that all can tell apart."""

from collections.abc import Sequence

NUM_HEAT_STEPS = 11

# Chosen here after cividis (Nuñez, Anderton and Renslow, PLOS ONE 13(7), 2018): lightness rises evenly from
# blue to yellow, so that the order shows without hues, too.
_HEAT_ENDS = ((0, 34, 78), (66, 78, 108), (124, 123, 120), (187, 173, 108), (254, 232, 56))


def heat_colour(step: int) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a heat step from 0 to `NUM_HEAT_STEPS - 1`."""
    place = step / (NUM_HEAT_STEPS - 1) * (len(_HEAT_ENDS) - 1)
    left = min(int(place), len(_HEAT_ENDS) - 2)
    pairs = zip(_HEAT_ENDS[left], _HEAT_ENDS[left + 1], strict=True)
    red, green, blue = (round(low + (high - low) * (place - left)) for low, high in pairs)
    return red, green, blue


def heat_ink(step: int) -> tuple[int, int, int]:
    """Black or white, whichever stands out more from the step's colour."""
    lightness = luminance(heat_colour(step))
    return (255, 255, 255) if 1.05 / (lightness + 0.05) > (lightness + 0.05) / 0.05 else (0, 0, 0)


def luminance(colour: Sequence[int]) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.2)."""
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (value / 255 for value in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def style_sheet() -> str:
    """All rules of the page."""
    heat = [
        f".heat-{step} {{ background: rgb{heat_colour(step)}; color: rgb{heat_ink(step)}; }}"
        for step in range(NUM_HEAT_STEPS)
    ]
    return _RULES + "\n".join(heat) + "\n"


_RULES = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1c2024; --soft: #5b636b; --line: #dcdfe3; --band: #f1f3f5;
  --accent: #0b5cad; --best: #e3effb; --warn: #8a3b00; --warn-back: #fdf1e4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131618; --card: #1a1e21; --ink: #e4e6e8; --soft: #a3abb3; --line: #343a40; --band: #22272b;
    --accent: #7cb7f2; --best: #17324c; --warn: #ffb77a; --warn-back: #33261a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; padding: 2rem clamp(0.9rem, 3vw, 2.5rem) 4rem; max-width: 82rem;
  background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 0.75rem; letter-spacing: -0.01em; }
h2 { font-size: 1.3rem; margin: 3rem 0 0.6rem; padding-top: 0.9rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 0.4rem; overflow-wrap: anywhere; }
p { max-width: 46rem; margin: 0.4rem 0 0.9rem; overflow-wrap: anywhere; }
a { color: var(--accent); }
.facts { display: grid; margin: 0; gap: 0.9rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); }
.facts dt { color: var(--soft); font-size: 0.8rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
nav { margin: 1.5rem 0 0; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; list-style: none; margin: 0; padding: 0; }
.notes {
  margin: 1.5rem 0 0; padding: 0.7rem 1rem 0.7rem 2rem; border-left: 4px solid var(--warn);
  background: var(--warn-back);
}
.notes li { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 0.6rem 0 1.4rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); }
.scroll:focus-visible, summary:focus-visible, a:focus-visible {
  outline: 3px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0.6rem 0.8rem; font-weight: 600; overflow-wrap: anywhere; }
th, td { padding: 0.45rem 0.8rem; border-top: 1px solid var(--line); text-align: right; vertical-align: top; }
td { white-space: nowrap; }
thead th { background: var(--band); vertical-align: bottom; font-weight: 600; }
th[scope="row"], th[scope="rowgroup"], thead th.stub { text-align: left; }
th { overflow-wrap: break-word; }
th[scope="row"], th[scope="rowgroup"] { min-width: 7.5rem; }
tbody th { font-weight: 600; }
tbody th.inner { font-weight: 400; }
tr.group > * { border-top: 1px solid var(--soft); }
tbody th[scope="row"]:not(.inner), tfoot th { position: sticky; left: 0; background: var(--card); }
tfoot th, tfoot td { border-top: 2px solid var(--soft); color: var(--soft); }
.small { display: block; color: var(--soft); font-size: 0.78rem; font-weight: 400; white-space: nowrap; }
th .small { white-space: normal; }
.refused { display: block; color: var(--warn); font-size: 0.78rem; font-weight: 600; }
.best { background: var(--best); }
.best strong { font-weight: 700; }
.sign { color: var(--accent); }
.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
.maps { display: flex; flex-wrap: wrap; gap: 0.9rem; align-items: flex-start; margin-bottom: 1.4rem; }
.maps .scroll { margin: 0; max-width: 100%; }
.maps table { width: auto; font-size: 0.82rem; }
.maps th[scope="row"] { min-width: 0; }
.maps th, .maps td { padding: 0.3rem 0.55rem; text-align: center; }
.maps td { border: 1px solid var(--card); min-width: 3.1rem; }
.maps .refused { color: inherit; font-weight: 400; font-size: 0.7rem; }
.pictures { display: grid; gap: 0.9rem;
  grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
  margin: 0.6rem 0 1.4rem; padding: 0; }
figure { margin: 0; padding: 0.7rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; }
figure img { display: block; width: 100%; height: auto; }
figcaption { font-weight: 600; font-size: 0.9rem; overflow-wrap: anywhere; }
details { margin: 0.4rem 0; border: 1px solid var(--line); border-radius: 6px; background: var(--card); }
summary { cursor: pointer; padding: 0.5rem 0.8rem; overflow-wrap: anywhere; }
summary .small { display: inline; white-space: normal; }
details > .inside { padding: 0 0.8rem 0.8rem; border-top: 1px solid var(--line); }
details > .scroll { border-width: 1px 0 0; border-radius: 0; margin: 0; }
details caption { display: none; }
h4 { font-size: 0.85rem; color: var(--soft); font-weight: 600; margin: 0.8rem 0 0.2rem;
  overflow-wrap: anywhere; }
pre { margin: 0; padding: 0.5rem 0.7rem; background: var(--band); border-radius: 4px; max-height: 24rem;
  overflow-y: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 0.84rem/1.45 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre.refusal { border-left: 4px solid var(--warn); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
@media (max-width: 40rem) {
  body { padding-top: 1.2rem; }
  th, td { padding: 0.4rem 0.55rem; }
}
@media print { .scroll, pre { overflow: visible; max-height: none; } nav { display: none; } }
"""
