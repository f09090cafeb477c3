"""Pages that are written from templates: those of the report, of claims, and model cards."""

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def templates_of(package: str) -> Environment:
    """The templates that lie in a package; those of HTML escape what they are given, Markdown does not.

    Args:
        package: Its import name.
    """
    return Environment(
        loader=PackageLoader(package, "."),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
