"""One line for each set of weights, with what every method finds in it, as contrastive papers lay out their tables."""

from typing import NamedTuple

from sslam.report.tables import Column, Row, Table, Value, markdown_table


class Judgement(NamedTuple):
    """A method on a data set: a column of the table by weights."""

    method: str
    column: Column


class WeightsTable(NamedTuple):
    """Texts of the heads, and for each set of weights its name and its values; None where nothing was evaluated."""

    heads: list[str]
    judgements: list[Judgement]
    rows: list[tuple[str, list[Value | None]]]


def by_weights(table: Table) -> WeightsTable | None:
    """The same numbers as in the table; None if there is only one method, whose table says it all."""
    if len(table.methods) < 2:
        return None
    judgements = [
        Judgement(method, column)
        for method in table.methods
        for column in table.columns
        if table.rows_of(method, column)
    ]
    names = list(dict.fromkeys(row.name for row in table.rows))
    return WeightsTable(
        heads=[f"{column.name}, {method.lower()}: {table.metrics(column)[0].heading}" for method, column in judgements],
        judgements=judgements,
        rows=[(name, [table.headline(Row(method, name), column) for method, column in judgements]) for name in names],
    )


def is_best(table: Table, name: str, judgement: Judgement) -> bool:
    """Whether these weights are the best of several for a method on a data set."""
    return table.is_best(Row(judgement.method, name), judgement.column)


def weights_markdown(table: Table) -> str:
    """The table by weights, with a title; "" if there is none."""
    weights = by_weights(table)
    if weights is None:
        return ""
    lines = [["weights", *weights.heads]]
    for name, values in weights.rows:
        cells = []
        for judgement, value in zip(weights.judgements, values, strict=True):
            text = "" if value is None else value.text(table.metrics(judgement.column)[0])
            cells.append(f"**{text}**" if is_best(table, name, judgement) else text)
        lines.append([name, *cells])
    return f"\nThe same numbers by weights:\n\n{markdown_table(lines)}\n"
