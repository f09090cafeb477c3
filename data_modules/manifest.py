"""A list of audio files, as fairseq writes it."""

from pathlib import Path

from data_modules.metadata import read_text


def read_manifest(path: str | Path) -> tuple[Path, list[str]]:
    """Read a TSV manifest: the root folder in the first line, then `path<TAB>number` lines.

    The number (of frames, or the rate) is checked to be one and not used: the files' headers are.

    Args:
        path: TSV file. A relative root counts from its folder.

    Returns:
        The root and the paths below it.

    Raises:
        ValueError: If the manifest is missing or empty, its root is no folder, or a line is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"Manifest '{path}' does not exist. Pass --data.manifest with the path of a TSV file.")
    lines = read_text(path, "Manifest").splitlines()
    if not lines or not lines[0].strip():
        raise ValueError(f"Manifest '{path}', line 1: is empty. Write the root folder there.")
    if "\t" in lines[0]:
        raise ValueError(
            f"Manifest '{path}', line 1: must be the root folder alone, got '{lines[0]}'. "
            "Put the root in a line before it."
        )
    root = path.parent / lines[0].strip()
    if not root.is_dir():
        raise ValueError(
            f"Manifest '{path}', line 1: the root folder '{root}' does not exist. "
            "Correct it; a relative one counts from the manifest's folder."
        )
    names = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        if not name or len(rest) != 1 or not _is_number(rest[0]):
            raise ValueError(f"Manifest '{path}', line {number}: expected path<TAB>number, got '{line}'.")
        names.append(name)
    if not names:
        raise ValueError(f"Manifest '{path}' lists no file after its root. Add lines of path<TAB>number.")
    return root, names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
