"""What models say in a blank, as HTML: a view on `demo.answers.compare`, without what sanitises live."""

import html

import pandas as pd

SIGNS = {"term": "⚠ listed", "part": "◐ part of a listed term", "": ""}


def as_html(table: pd.DataFrame) -> str:
    """`demo.compare` as a table: a column per model, a bar per prediction, listed ones named so; all text escaped."""
    parts = []
    models = table["model"].unique()
    heads = "".join(f'<th scope="col" style="text-align:left">{html.escape(model)}</th>' for model in models)
    for blank, of_blank in table.groupby("blank"):
        cells = "".join(_cell(of_blank[of_blank["model"] == model]) for model in models)
        caption = f"<caption>blank {blank + 1}</caption>" if table["blank"].nunique() > 1 else ""
        parts.append(
            f'<table style="width:100%;table-layout:fixed;color:inherit">{caption}<thead><tr>{heads}</tr></thead>'
            f'<tbody><tr style="background:none;vertical-align:top">{cells}</tr></tbody></table>'
        )
    return f'<div class="sani-compared" role="status" aria-live="polite">{"".join(parts)}</div>'


def _cell(rows: pd.DataFrame) -> str:
    lines = []
    for row in rows.itertuples():
        colour, sign = ("#D55E00" if row.listed else "#0072B2"), SIGNS[row.listed]
        word = html.escape(row.prediction.replace("\n", "↵")) or "(space)"
        lines.append(
            f'<div><b>{word}</b> {row.probability:.1%} <span style="display:inline-block">{sign}</span>'
            f'<div aria-hidden="true" style="height:5px;width:{max(1, 100 * row.probability):.0f}%;'
            f'background:{colour};margin-bottom:6px"></div></div>'
        )
    mass, seconds = rows["mass"].iloc[0], rows["seconds"].iloc[0]
    total = f"<div>any listed term: <b>{mass:.1%}</b></div><div>{1000 * seconds:.0f} ms</div>"
    return f'<td style="text-align:left">{"".join(lines)}{total}</td>'
