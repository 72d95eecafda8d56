"""How a report looks: one light style sheet for wide windows, telephones and paper."""

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 3rem; background: #fff; color: #1f2328;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
h1 { margin: .5rem 0 .25rem; font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.25rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid #d8dee4; font-size: 1.25rem; }
p { margin: .5rem 0; max-width: 60rem; overflow-wrap: anywhere; }
header p { margin: .15rem 0; color: #59636e; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin-top: .75rem; }
a { color: #0b5cad; text-decoration: none; }
a:hover { text-decoration: underline; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .6rem; margin: 1rem 0; }
dl div { padding: .6rem .8rem; border: 1px solid #d8dee4; border-radius: .4rem; background: #f6f8fa; }
dt { color: #59636e; font-size: .85rem; }
dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
dd small { display: block; color: #59636e; font-size: .8rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem; margin: 1rem 0; }
figure { margin: 0; overflow-x: auto; }
figure img { display: block; width: 100%; max-width: 40rem; height: auto; }
figure.dense img { min-width: 31rem; }
.table { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #e6eaef; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #8c959f; color: #59636e; font-weight: 600; vertical-align: bottom; }
td.number, th.number { text-align: right; padding: .3rem 0 .3rem .75rem; white-space: nowrap; }
th, .table a { white-space: nowrap; }
.tables { display: flex; flex-wrap: wrap; gap: 0 3rem; }
.tables > .table { max-width: 100%; }
tbody tr:hover { background: #f6f8fa; }
tfoot td { border-top: 1px solid #8c959f; font-weight: 600; }
summary { cursor: pointer; margin: .75rem 0; color: #0b5cad; }
@media (max-width: 36rem) {
  body { padding: .5rem .75rem 2rem; }
  dl { grid-template-columns: repeat(2, 1fr); }
  dd { font-size: 1.1rem; }
}
@media print { nav { display: none; } section { break-inside: avoid-page; } }
"""
