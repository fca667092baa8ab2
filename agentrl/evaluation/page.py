"""An evaluation as one HTML page that needs nothing beside it: no network, no script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from agentrl.evaluation.tables import heading, remarks, tables

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.35rem; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin-top: 2rem; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid var(--line); }
td + td { text-align: right; } th + th { text-align: right; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ text }}</p>
{% for table in tables %}
<h2>{{ table.title }}</h2>
<div class="table"><table>
<thead><tr>{% for cell in table.headings %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
{% endfor %}
</body>
</html>
"""


def html(result: Mapping[str, Any]) -> str:
    """``eval.html``. Every text is escaped."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE)
    return page.render(title=heading(result), text=remarks(result), tables=tables(result)) + "\n"
