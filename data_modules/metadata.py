"""Reading the tables that come with data sets, with messages that name file, line, value and remedy."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from io import StringIO
from pathlib import Path


def require_file(path: Path, what: str, remedy: str) -> Path:
    """The file itself.

    Raises:
        ValueError: If it does not exist.
    """
    if not path.is_file():
        raise ValueError(f"{what} not found: there is no file '{path}'. {remedy}")
    return path


def read_text(path: Path, what: str) -> str:
    """The text of a list that comes with a data set, without a byte-order mark, which some editors put first.

    Raises:
        ValueError: If it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + path.read_bytes()[: error.start].count(b"\n")
        raise ValueError(
            f"{what} '{path}', line {line}: is not UTF-8 ({error.reason}). Save the file with the encoding UTF-8."
        ) from error


def read_table(
    path: Path, what: str, columns: Sequence[str], remedy: str, delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a table whose first line names its columns.

    Args:
        path: CSV or TSV file.
        what: Name of the table, for messages: "ESC-50 metadata".
        columns: Columns that must be there.
        remedy: Advice for a file that is missing or wrong.
        delimiter: Character between the fields.

    Yields:
        The line's number and the row, without spaces around the values.

    Raises:
        ValueError: If the file is missing, is not UTF-8, lacks a column, is empty, or a row is too short.
    """
    require_file(path, what, remedy)
    with StringIO(read_text(path, what), newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        if missing := [column for column in columns if column not in reader.fieldnames]:
            raise ValueError(
                f"{what} '{path}' lacks the column(s) {', '.join(missing)}: its first line must name "
                f"{', '.join(columns)}. {remedy}"
            )
        empty = True
        for row in reader:
            empty = False
            if any(row[column] is None for column in columns):
                raise ValueError(f"{what} '{path}', line {reader.line_num}: has too few fields. {remedy}")
            yield reader.line_num, {name: (value or "").strip() for name, value in row.items() if name is not None}
        if empty:
            raise ValueError(f"{what} '{path}' lists nothing after its first line. {remedy}")


def class_column(label: str, columns: Mapping[str, int], path: Path, line: int) -> int:
    """The column of a label.

    Args:
        label: Label as it stands in the file.
        columns: Column of every class.
        path: File of the label, for the message.
        line: Number of the line, for the message.

    Raises:
        ValueError: If there is no such class.
    """
    column = columns.get(label)
    if column is None:
        close = get_close_matches(label, columns, n=1)
        guess = f"Did you mean '{close[0]}'? " if close else ""
        raise ValueError(
            f"'{path}', line {line}: unknown label '{label}', none of the {len(columns)} classes. {guess}Correct the "
            "line or take the official file."
        )
    return column
