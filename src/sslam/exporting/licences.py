"""Licences that weights may be given away under. There is no default: the choice is that of whoever trained them."""

from sslam.errors import UsageError

LICENCES = {
    "apache-2.0": "Apache License 2.0",
    "mit": "MIT License",
    "bsd-3-clause": "BSD 3-Clause License",
    "mpl-2.0": "Mozilla Public License 2.0",
    "lgpl-3.0": "GNU Lesser General Public License v3.0",
    "gpl-3.0": "GNU General Public License v3.0",
    "cc0-1.0": "Creative Commons Zero v1.0",
    "cc-by-4.0": "Creative Commons Attribution 4.0",
    "cc-by-sa-4.0": "Creative Commons Attribution Share Alike 4.0",
    "cc-by-nc-4.0": "Creative Commons Attribution Non Commercial 4.0",
    "cc-by-nc-sa-4.0": "Creative Commons Attribution Non Commercial Share Alike 4.0",
    "cc-by-nc-nd-4.0": "Creative Commons Attribution Non Commercial No Derivatives 4.0",
    "other": "another licence, whose text is in the file LICENSE",
}
"""Names by the identifier that the Hub knows; "other" needs its text."""


def check_licence(identifier: str | None, has_text: bool) -> None:
    """Refuse weights without a licence.

    Args:
        identifier: One of :data:`LICENCES`, or None where none was chosen.
        has_text: Whether the licence's text was given.

    Raises:
        UsageError: With the identifiers to choose from.
    """
    known = ", ".join(LICENCES)
    if identifier is None:
        raise UsageError(
            "Weights that are given away need a licence, which you must choose: the data they were trained on may bind "
            f"you. Give --license with one of {known}."
        )
    if identifier not in LICENCES:
        raise UsageError(
            f"--license must be one of {known}, got {identifier}. For any other give --license other and its text with "
            "--license_file."
        )
    if identifier == "other" and not has_text:
        raise UsageError("--license other needs the text of the licence. Give it with --license_file FILE.")
