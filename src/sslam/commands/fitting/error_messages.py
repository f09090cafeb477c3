"""Turns jsonargparse's nested reports into one or two lines: the key, what was expected, the nearest right spelling.

jsonargparse reports a mistake as an indented tree of keys, classes and, for a union of types, one reason per type. The
deepest reason is the one that the user can act on. Wording of jsonargparse 4.5x; an unknown wording is passed on whole.
"""

import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from sslam.commands.fitting.class_paths import classes_in, find_class, known_classes
from sslam.commands.fitting.config_files import missing_file_message, nearest, read_config_file
from sslam.errors import UsageError, for_terminal

LONGEST_MESSAGE = 1500  # what was given may be a whole file


@dataclass
class Reason:
    """One leaf of a report: the keys and classes that lead to it, outermost first, and jsonargparse's words."""

    keys: list[str]
    classes: list[str]
    text: str

    @property
    def key(self) -> str:
        """The key as a YAML spells it, such as ``model.init_args.encoder``."""
        parts = self.keys[:1]
        # One class stands between two keys; its arguments are under init_args, a dataclass's directly under the key.
        for class_path, key in zip(self.classes, self.keys[1:], strict=False):
            parts += [key] if is_dataclass(find_class(class_path)) else ["init_args", key]
        return ".".join(parts)


def reasons(message: str) -> Iterator[Reason]:
    """Leaves of a report, in its order."""
    path: list[tuple[int, str, str]] = []
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        indent = len(line) - len(line.lstrip())
        if not text:
            continue
        while path and path[-1][0] >= indent:
            path.pop()
        if found := re.fullmatch(r'Parser key "([^"]+)"(?: element \d+)?:\s*(.*)', text):
            path.append((indent, "key", found[1]))
            text = found[2]
        elif found := re.fullmatch(r"Problem with given class_path '([^']+)':", text):
            path.append((indent, "class", found[1]))
            continue
        if text and not re.match(r"Does not validate against|Subtypes:|Errors:|Given value type:", text):
            yield Reason(
                keys=[name for _, kind, name in path if kind == "key"],
                classes=[name for _, kind, name in path if kind == "class"],
                text=text,
            )


def type_names(text: str) -> list[str]:
    """``<class 'int'>`` and ``typing.Literal['a', 'b']`` as a reader names them."""
    if found := re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", text):
        return [choice.strip().strip("'") for choice in found[1].split(",")]
    name = re.sub(r"<class '(.*)'>", r"\1", text)
    return ["null" if name == "NoneType" else name.rsplit(".", 1)[-1]]


def shown(annotation: Any) -> str:
    """A type annotation as a reader names it, without modules: ``tuple[float, float]``."""
    text = str(annotation) if typing.get_args(annotation) else getattr(annotation, "__name__", str(annotation))
    return re.sub(r"[A-Za-z_][\w.]*\.", "", text)


def class_parser(class_path: str) -> ArgumentParser:
    """A parser of a class's arguments, with those of its bases to which ``**kwargs`` go; empty for no class."""
    parser = ArgumentParser()
    if inspect.isclass(cls := find_class(class_path)):
        parser.add_class_arguments(cls, fail_untyped=False)
    return parser


def keys_of(parser: ArgumentParser) -> list[str]:
    """What a parser takes, in its order; a dataclass's arguments with the dataclass before a dot."""
    return [action.dest for action in parser._actions if action.dest not in ("help", "==SUPPRESS==")]


def annotation_of(reason: Reason, parser: ArgumentParser) -> Any:
    """Type annotation of the key that a reason is about, or None where nothing says it."""
    owners = [parser, *map(class_parser, reason.classes)][: len(reason.keys)]
    actions = {action.dest: action for action in owners[-1]._actions}
    return getattr(actions.get(reason.keys[-1]), "_typehint", None)


def suggest(word: str, choices: list[str], all_of_them: str) -> str:
    """The nearest choice, or else all of them in one sentence that begins with ``all_of_them``."""
    if suggestion := nearest(word, choices):
        return f"Did you mean {suggestion}?"
    return f"{all_of_them}: {', '.join(choices)}." if choices else ""


def explain_class(reason: Reason, given: str, parser: ArgumentParser) -> str:
    """A class that does not exist or does not fit, or a YAML file in its place."""
    if given.endswith((".yaml", ".yml")):
        return f"{reason.key}: {missing_file_message(given)}"
    annotation = annotation_of(reason, parser)
    expected = " or ".join(
        dict.fromkeys(base.__name__ for base in classes_in(annotation) if base.__module__ != "builtins")
    )
    choices = known_classes(annotation, given)
    by_name = {choice.rsplit(".", 1)[-1]: choice for choice in reversed(choices)}
    suggestion = nearest(given, choices) or by_name.get(nearest(given.rsplit(".", 1)[-1], list(by_name)) or "")
    remedy = f"Did you mean {suggestion}?" if suggestion else f"The choices are: {', '.join(choices)}."
    fitting = f" for {expected}" if expected else ""
    problem = "does not fit" if "subclass of" in reason.text else "is no known class"
    return f"{reason.key}: {given} {problem}{fitting}. {remedy}"


def explain_unknown_key(key: str, parser: ArgumentParser) -> str:
    """A key that a command does not have, such as ``trainer.max_stepss`` or ``modle.init_args.encoder``."""
    keys = keys_of(parser)
    root = key.partition(".")[0]
    roots = list(dict.fromkeys(dest.partition(".")[0] for dest in keys))
    if root in roots:
        remedy = suggest(key, [dest for dest in keys if dest.startswith(root + ".")], f"{root} has")
    else:
        remedy = suggest(root, roots, "The keys are")
    return f"Unknown key {key}. {remedy}"


def explain_argument_of_class(reason: Reason, name: str) -> str:
    """An argument that a class does not have, such as ``widht`` of an encoder or ``objectives.mixd`` of a stage."""
    key = Reason([*reason.keys, name], reason.classes, "").key
    keys = keys_of(class_parser(reason.classes[-1]))
    outer, dot, _ = name.rpartition(".")
    choices = [choice.removeprefix(outer + dot) for choice in keys if choice.startswith(outer + dot)] or keys
    class_name = reason.classes[-1].rpartition(".")[2]
    return f"Unknown key {key}. {suggest(name.removeprefix(outer + dot), choices, f'{class_name} has')}"


def explain_block(key: str, path: str) -> str:
    """What is wrong with a YAML file that stands for a class and its arguments."""
    try:
        block = read_config_file(path)
    except UsageError as error:
        return str(error)
    class_path = str(block.get("class_path"))
    if not inspect.isclass(find_class(class_path)):
        return f"{path}: class_path must name a class for {key}, got {class_path}."
    keys = keys_of(class_parser(class_path))
    given = block.get("init_args") or {}
    for name in given if isinstance(given, dict) else ():
        if name not in keys and not any(known.startswith(f"{name}.") for known in keys):
            return f"{path}: unknown key init_args.{name}. {suggest(name, keys, f'{class_path} has')}"
    return f"{path}: a value below init_args is wrong for {class_path}, or the class does not fit {key}."


def explain(message: str, parser: ArgumentParser) -> str:
    """One or two lines that replace a report of jsonargparse.

    Args:
        message: The report.
        parser: Parser of the command that the report is about.
    """
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        word = found[1].partition("=")[0]
        if word.startswith("-"):
            return explain_unknown_key(word.lstrip("-"), parser)
        return f"'{word}' belongs to no option; options begin with --."
    if found := re.match(
        r"(?:Subcommand '\w+' does not accept option|Option) '([^']+)'(?: is not accepted)?$", message
    ):
        return explain_unknown_key(found[1], parser)
    if found := re.match(r"Group '(\w+)' does not accept option '([^']+)'", message):
        return explain_unknown_key(f"{found[1]}.{found[2]}", parser)

    found_reasons = list(reasons(message))
    given = [re.sub(r"^Given value: ", "", reason.text) for reason in found_reasons if "Given value: " in reason.text]
    found_reasons = [reason for reason in found_reasons if not reason.text.startswith("Given value: ")]
    if not found_reasons:
        return message.strip()
    depth = max(len(reason.keys) + len(reason.classes) for reason in found_reasons)
    deepest = [reason for reason in found_reasons if len(reason.keys) + len(reason.classes) == depth]
    first = deepest[0]

    for reason in found_reasons:
        said = f"{reason.text} {' '.join(given)}"
        if found := re.search(r"loop detected: (\S+) -> |NestedArg\(.*val='([^']+\.ya?ml)'\)", said):
            return explain_block(reason.key, found[1] or found[2])

    for reason in deepest:
        if found := re.match(r"the following arguments are required: (.+)", reason.text):
            return explain_required(reason, found[1])
        unknown = r"(?:Group .* does not accept option|Option) '([^']+)'|unrecognized arguments: --([^=\s]+)"
        if reason.classes and (found := re.match(unknown, reason.text)):
            return explain_argument_of_class(reason, found[1] or found[2])
        if found := re.match(
            r"Expected a dot import path string: (.+)|Unexpected import path format: (.+)", reason.text
        ):
            return explain_class(reason, found[1] or found[2], parser)
        if found := re.match(r"Import path (\S+) does not correspond to a subclass", reason.text):
            return explain_class(reason, found[1], parser)
        if re.match(r"module '.*' has no attribute|No module named", reason.text) and reason.classes:
            outer = Reason(reason.keys, reason.classes[:-1], reason.text)
            return explain_class(outer, reason.classes[-1], parser)

    expected: list[str] = []
    for reason in deepest:
        if found := re.match(r"Expected an? (.+?)(?:\. Got value: (.*))?$", reason.text):
            expected += type_names(found[1])
            given = [found[2]] if found[2] is not None else given
    if first.keys and expected:
        choices = list(dict.fromkeys(expected))
        value = given[0] if given else "this value"
        if value == "None":
            return f"{first.key}: expected {shown(annotation_of(first, parser))}, got null."
        if inspect.isclass(find_class(value)):
            return explain_class(Reason(first.keys, first.classes, "not a subclass of"), value, parser)
        suggestion = nearest(value, [choice for choice in choices if choice != value])
        remedy = f" Did you mean {suggestion}?" if suggestion else ""
        return f"{first.key}: expected {' or '.join(choices)}, got {value}.{remedy}"
    return f"{first.key}: {first.text}" if first.keys else message.strip()


def explain_required(reason: Reason, names: str) -> str:
    """Keys that have no default and were not given."""
    keys = [name.strip() for name in names.split(",")]
    if reason.classes:
        keys = [Reason([*reason.keys, key], reason.classes, "").key for key in keys]
    else:
        keys = [re.sub(r"^(fit|validate|test|predict)\.", "", key) for key in keys]
    example = "" if reason.classes else " Start from a file, such as --config experiments/pretrain.yaml."
    return f"Missing: {', '.join(keys)}.{example}"


class ShortErrorParser(LightningArgumentParser):
    """Parser that answers a mistake in one or two lines, without usage, and exits with code 2."""

    def validate(self, namespace: Namespace, skip_unset: bool = True, **kwargs: Any) -> None:
        # Every null would pass, also where a class does not take it. That something is missing is said in any case.
        is_of_class = not self.exit_on_error
        is_missing = any(action.required and namespace.get(action.dest) is None for action in self._actions)
        super().validate(namespace, skip_unset=is_missing or not is_of_class, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            # A parser of a nested class: the outer one knows the whole key.
            super().error(message, ex)
        parser: ArgumentParser = self
        # Some mistakes are found by the parser of all commands after it has chosen the command.
        chosen = next((word for word in getattr(self, "args", None) or [] if not word.startswith("-")), None)
        if self._subcommands_action is not None and chosen in self._subcommands_action.choices:
            parser = self._subcommands_action.choices[chosen]
        command = f"sslam {parser.subcommand}" if hasattr(parser, "subcommand") else "sslam"
        explained = explain(message, parser).rstrip()
        if re.fullmatch(r"Unknown key (model|data)\.init_args\.\S+", explained):
            explained += " No class is known yet: give the --config that names it before the one that changes it."
        self.exit(2, for_terminal(f"{command}: {explained[:LONGEST_MESSAGE]}\n"))
